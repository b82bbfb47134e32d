# SPDX-License-Identifier: Apache-2.0
"""Findings and reports as an extension hands them over, in JSON.

The extension's ``Context`` makes them and the owner reads them by the same records, so that
an author hears at once of what the owner would refuse. Nothing in them says when, by which
instance or of which target: that is the owner's to say.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, TypeVar

import msgspec

from kmind.extension._parameter import Name

__all__ = [
    "FILES_MOST",
    "FINDINGS_A_MINUTE",
    "NOTE_MOST",
    "OPEN_MOST",
    "REPORTS_A_MINUTE",
    "Cause",
    "Cleared",
    "Filed",
    "Found",
    "encode",
    "read",
]

NOTE_MOST = 48 << 10
"""Bytes of JSON that one of them may have."""

FILES_MOST = 32 << 10
"""Bytes that the files of one report may have together."""

OPEN_MOST = 64
"""Findings of one module on one target that may be open."""

FINDINGS_A_MINUTE = 600
"""Notes of findings that the owner takes of one instance: 64 confirmed every 10 s, and more."""

REPORTS_A_MINUTE = 30
"""Reports that the owner takes of one instance."""

_Title = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_Words = Annotated[str, msgspec.Meta(max_length=400)]
_Label = Annotated[str, msgspec.Meta(min_length=1, max_length=60)]
_Value = int | float | Annotated[str, msgspec.Meta(max_length=200)]
_Evidence = Annotated[dict[_Label, _Value], msgspec.Meta(max_length=24)]
_Part = Annotated[str, msgspec.Meta(max_length=100)]
_FileName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,59}$(?!\n)")]


class _Note(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Cause(_Note, frozen=True, kw_only=True):
    """A hint at what may have caused a finding, and what speaks for it."""

    hint: _Title
    evidence: _Evidence = {}


class Found(_Note, frozen=True, kw_only=True):
    """A finding of a declared ``kind``, of the target or a ``part`` of it."""

    kind: Name
    part: _Part = ""
    title: _Title
    score: float
    evidence: _Evidence = {}
    causes: Annotated[tuple[Cause, ...], msgspec.Meta(max_length=8)] = ()
    action: _Words = ""


class Cleared(_Note, frozen=True, kw_only=True):
    """A finding that is there no longer."""

    kind: Name
    part: _Part = ""


class Filed(_Note, frozen=True, kw_only=True):
    """A report of a declared ``kind``; those of one ``signature`` are one report.

    ``count`` is how often it happened since the last one; ``files`` take the place of the last
    ones', unless there are none.
    """

    kind: Name
    signature: _Title
    title: _Title
    count: Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)] = 1
    evidence: _Evidence = {}
    files: Annotated[dict[_FileName, bytes], msgspec.Meta(max_length=8)] = {}


_AnyNote = TypeVar("_AnyNote", bound=_Note)


def read(text: bytes, record: type[_AnyNote]) -> _AnyNote:
    """The note in a text that anybody may have written. Raises ValueError with the reason."""
    if len(text) > NOTE_MOST:
        raise ValueError(f"it takes {len(text)} bytes, and may take {NOTE_MOST}")
    try:
        note = msgspec.json.decode(text, type=record)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    _check(note)
    return note


def encode(note: _Note) -> bytes:
    """A note as JSON in ASCII, which can be cut anywhere. Raises ValueError with the reason."""
    try:
        text = json.dumps(msgspec.to_builtins(note), separators=(",", ":")).encode()
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    read(text, type(note))
    return text


def _check(note: _Note) -> None:
    # Checks that no bound of a field can express. 64 bits are what all who read it can hold.
    numbers: list[Mapping[str, object]] = []
    if isinstance(note, Found):
        numbers = [{"score": note.score}, note.evidence, *(c.evidence for c in note.causes)]
    elif isinstance(note, Filed):
        numbers = [note.evidence]
        size = sum(map(len, note.files.values()))
        if size > FILES_MOST:
            raise ValueError(f"its files take {size} bytes, and may take {FILES_MOST}")
    for name, value in (pair for group in numbers for pair in group.items()):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} is {value}")
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            raise ValueError(f"{name} does not fit in 64 bits")
