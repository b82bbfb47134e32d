# SPDX-License-Identifier: Apache-2.0
"""Metadata of a recording: stored as JSON in each of its files."""

from __future__ import annotations

import os
import platform
import time
from functools import partial
from typing import Literal

import msgspec

import kmind
from kmind.abi import layout
from kmind.agent.types import Grant
from kmind.errors import RecordingError
from kmind.extension import Feature, KnobInfo, Manifest, RecordKind, Value
from kmind.extension.manifest.manifest import TablePart
from kmind.util.foreign import foreign

__all__ = ["KEY", "SCHEMA", "Clock", "Counts", "GrantFor", "Host", "Meta", "Stream", "decode_meta"]

SCHEMA = "kmind.recording/1"

KEY = b"kmind"
"""Of the schema's metadata, in Parquet files and Arrow streams alike."""

Stream = Literal["windows", "records", "tables"]
"""Contents of a file."""


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """The machine that was recorded."""

    kernel: str
    machine: str
    cpus: int
    memory_bytes: int

    @classmethod
    def here(cls) -> Host:
        """This one."""
        pages = os.sysconf("SC_PHYS_PAGES")
        return cls(
            kernel=platform.release(),
            machine=platform.machine(),
            cpus=os.cpu_count() or 1,
            memory_bytes=pages * os.sysconf("SC_PAGE_SIZE"),
        )


class Clock(msgspec.Struct, frozen=True, kw_only=True):
    """All times are nanoseconds of ``base``; ``realtime_ns`` more is time since the epoch."""

    base: str
    realtime_ns: int

    @classmethod
    def here(cls) -> Clock:
        """Of this boot."""
        offset = time.clock_gettime_ns(time.CLOCK_REALTIME) - time.monotonic_ns()
        return cls(base="CLOCK_MONOTONIC", realtime_ns=offset)


class GrantFor(msgspec.Struct, frozen=True, kw_only=True):
    """Grant of the agent for one knob, for a replay."""

    knob: int
    target: int
    grant: Grant


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Losses from the beginning of the recording to the end of a file.

    ``ring_dropped``: records that found the agent's ring full, by its own count. ``ring_lost``:
    numbers missing between two rows that were read, most often for that reason. ``queue_dropped``:
    rows that the disk was too slow for. ``removed``: rows in files that were removed to keep the
    size bound.
    """

    ring_dropped: int = 0
    ring_lost: int = 0
    queue_dropped: int = 0
    removed: int = 0


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a recording.

    ``missing`` are hooks that the kernel lacks, each with the cause, and ``tags`` the recorder's
    words (``--tag``). ``tables`` are the module's, and ``table`` names the one that a file of the
    stream ``tables`` holds.
    """

    schema: str = SCHEMA
    abi: int = layout.LIMIT["ABI"]
    kmind: str = kmind.__version__
    instance: str
    module: str
    version: str
    target: str
    stream: Stream
    part: int = 1
    features: tuple[Feature, ...]
    kinds: tuple[RecordKind, ...]
    params: dict[str, Value]
    knobs: dict[str, KnobInfo]
    grants: tuple[GrantFor, ...]
    host: Host
    clock: Clock
    window_s: float
    backend: str
    missing: dict[str, str] = {}
    tags: dict[str, str] = {}
    sweep: dict[str, tuple[int | str, ...]] = {}
    counts: Counts = Counts()
    tables: tuple[TablePart, ...] = ()
    table: str = ""

    def __post_init__(self) -> None:
        if self.stream == "tables" and self.table not in {part.name for part in self.tables}:
            raise ValueError(f"it holds rows of {self.table!r}, which is no table of the module")

    @property
    def table_part(self) -> TablePart:
        """The table that a file of the stream ``tables`` holds."""
        return next(part for part in self.tables if part.name == self.table)

    def encode(self) -> bytes:
        """For a file."""
        return msgspec.json.encode(self)

    @property
    def columns(self) -> dict[str, int]:
        """Feature name to column of a window's ``value``."""
        return {feature.name: column for column, feature in enumerate(self.features)}

    def refuses(self, manifest: Manifest) -> str:
        """Return the reason why the module cannot be fed with this recording; "" if it can."""
        if self.module != manifest.name:
            return f"it was recorded of module {self.module}, not of {manifest.name}"
        mine = [(f.name, f.unit, f.kind) for f in manifest.features]
        stored = [(f.name, f.unit, f.kind) for f in self.features]
        if mine != stored:
            other = sorted(set(map(str, mine)) ^ set(map(str, stored))) or ["their order"]
            return (
                f"its features are those of {self.module} {self.version}, and version "
                f"{manifest.version} has others: {', '.join(other[:3])}"
            )
        if {part.name: part.shape for part in self.tables} != {
            part.name: part.shape for part in manifest.tables
        }:
            return (
                f"its tables are those of {self.module} {self.version}, and version "
                f"{manifest.version} has others"
            )
        return ""


def decode_meta(metadata: dict[bytes, bytes] | None, path: object) -> Meta:
    """Return the metadata of a file.

    Raises RecordingError if it is not kmind's, or of another version of schema or ABI.
    """
    text = (metadata or {}).get(KEY)
    if text is None:
        raise RecordingError(
            f"{path} is not a recording of kmind: its metadata has no key 'kmind'",
            hint="kmind record makes them",
        )
    with foreign(partial(_damaged, path)):
        head = msgspec.json.decode(text, type=_Head)
    if head.schema != SCHEMA:
        raise RecordingError(
            f"{path} has the schema {head.schema!r}, and this kmind reads {SCHEMA}"
        )
    if head.abi != layout.LIMIT["ABI"]:
        raise RecordingError(
            f"{path} was recorded with ABI {head.abi}, and this kmind speaks {layout.LIMIT['ABI']}",
            hint="use the version of kmind that made it, or record anew",
        )
    with foreign(partial(_damaged, path)):
        return msgspec.json.decode(text, type=Meta)


def _damaged(path: object, why: str) -> RecordingError:
    return RecordingError(f"{path}: its metadata is damaged: {why}")


class _Head(msgspec.Struct):
    schema: str
    abi: int
