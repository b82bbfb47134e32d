# SPDX-License-Identifier: Apache-2.0
"""Memory of an extension over restarts: kept as bytes, never interpreted.

One file per instance below ``memory/`` of the state directory. The extension is not trusted: its
text is bounded, must be JSON, and is written at most every five seconds, by a thread of its own: an
instance's owner does not wait for the disk. A line before the text says which version of the format
it has; a file of a later version is left as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from kmind.errors import KmindError, LaterVersionError
from kmind.queue import MEMORY_MOST, Geometry, MemoryReader
from kmind.runtime.budget import OwnerBudget
from kmind.util.foreign import foreign
from kmind.util.names import file_name
from kmind.util.saver import SAVER
from kmind.util.versions import Format

__all__ = ["MEMORY", "Checkpoint", "unpack"]

MEMORY = Format("kmind.memory", (lambda record: record,))
"""Versions of the file. The first is the text alone; since the second a line stands before it."""

_EVERY_S = 5.0
_LONGEST_LINE = 200


class Checkpoint:
    """The memory of one instance, in ``folder``; None: it is forgotten with the instance.

    ``log`` is told what is wrong, once for each new kind of trouble. One thread.
    """

    def __init__(
        self,
        name: str,
        folder: Path | None,
        budget: OwnerBudget,
        *,
        log: Callable[[str], None],
        now: Callable[[], float],
    ) -> None:
        self._path = folder / f"{file_name(name)}.json" if folder else None
        self._budget = budget
        self._log = log
        self._now = now
        self._reader: MemoryReader | None = None
        self._text = b""
        self._next = -math.inf
        self._trouble = ""

    def load(self) -> bytes:
        """Return the text that was kept, as JSON; empty if there is none, or none of use."""
        if self._path is None:
            return self._text
        try:
            data = SAVER.waiting(self._path)
            if data is None:
                with self._path.open("rb") as file:
                    data = file.read(_LONGEST_LINE + MEMORY_MOST + 1)
            text = unpack(data)
        except FileNotFoundError:
            return b""
        except OSError as error:
            self._log_trouble(
                f"{self._path} cannot be read: {error.strerror}; it starts without memory"
            )
            return b""
        except LaterVersionError as error:
            self._log_trouble(
                f"{self._path} is of a later kmind ({error}): it is left as it is, and what is "
                "learnt now is forgotten with the instance; move it away to begin anew"
            )
            self._path = None
            return b""
        except KmindError as error:
            self._log_trouble(f"{self._path} is damaged: {error}; it starts without memory")
            return b""
        if why := _unfit(text):
            self._log_trouble(f"{self._path} is damaged: {why}; it starts without memory")
            return b""
        self._text = text
        return text

    def watch(self, arena: npt.NDArray[np.uint8], geometry: Geometry) -> None:
        """Look there from now on."""
        self._reader = MemoryReader(arena, geometry)

    def poll(self, *, last: bool = False) -> None:
        """Keep what is new; the ``last`` time whenever the one before was, and let go of it."""
        self._hear()
        reader = self._reader
        if last:
            self._reader = None
        if reader is None or not (last or self._now() >= self._next) or not reader.changed():
            return
        if last or self._budget.room:
            self._next = self._now() + _EVERY_S
            with self._budget.spend("memory"):
                self._save(reader)

    def _save(self, reader: MemoryReader) -> None:
        text = reader.take()
        if text is None:
            self._log_trouble("the extension's memory does not match its checksum: not saved")
        elif why := _unfit(text):
            self._log_trouble(f"the extension's memory is not saved: {why}")
        elif text != self._text:
            self._text = text
            self._budget.count("memory_writes", 1)
            if self._path is not None:
                SAVER.put(self._path, _pack(text))

    def _hear(self) -> None:
        # Result of the last write.
        trouble = SAVER.trouble(self._path) if self._path else None
        if trouble:
            self._log_trouble(f"what it learnt cannot be kept in {self._path}: {trouble}")
        elif trouble == "":
            self._trouble = ""

    def _log_trouble(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            self._log(trouble)


def _pack(text: bytes) -> bytes:
    return msgspec.json.encode({"schema": MEMORY.schema}) + b"\n" + text


def unpack(data: bytes) -> bytes:
    """The text in a file of any version. Raises KmindError where it is of none."""
    # The text alone is one JSON value, so nothing stands behind a line that is one by itself.
    line, _, text = data.partition(b"\n")
    schema = _schema(line) if text.strip() else None
    record = {"schema": schema or "kmind.memory/1", "text": text if schema else data}
    found = MEMORY.upgrade(record)["text"]
    assert isinstance(found, bytes)
    return found


def _schema(line: bytes) -> object:
    if not line.startswith(b'{"schema":') or len(line) > _LONGEST_LINE:
        return None
    try:
        return msgspec.json.decode(line)["schema"]
    except Exception:  # whatever it is, it is no line of ours
        return None


def _unfit(text: bytes) -> str:
    """Return the reason why a text is not kept, or ""."""
    if len(text) > MEMORY_MOST:
        return f"it has more than {MEMORY_MOST} bytes"
    try:
        with foreign(lambda why: KmindError(f"it is not JSON ({why})")):
            msgspec.json.decode(text)
    except KmindError as error:
        return str(error)
    return ""
