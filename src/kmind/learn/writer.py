# SPDX-License-Identifier: Apache-2.0
"""Writing a recording: a folder of files, bounded in size, from a thread of its own.

Nobody waits for the disk. What comes while the queue to the writing thread is full is
dropped and counted, as in a kernel ring.
"""

from __future__ import annotations

import errno
import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy.typing as npt

from kmind.errors import RecordingError
from kmind.learn._part import CLOSED, Part
from kmind.learn.meta import Counts, Meta
from kmind.learn.schema import columns_of

__all__ = ["Output", "Writer", "open_output"]

_MIB = 1 << 20
_QUEUE = 64  # batches under way
_LEAST_PART = 64 << 10
_MOST_PART = 64 * _MIB
_SHARES = 8  # parts that one stream's share of the bound holds

_Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Output:
    """Destination of a recording: a folder, or, through one, a single ``file``."""

    folder: Path
    file: Path | None = None


def open_output(path: Path) -> Output:
    """Make the place for a recording: ``path`` is a folder, or a file if it ends in .parquet.

    Raises RecordingError if something is there already.
    """
    single = path.suffix == CLOSED
    folder = path.with_name(path.name + ".open") if single else path
    for place in (path, folder):
        if place.exists() and not (place.is_dir() and not any(place.iterdir())):
            raise RecordingError(f"{place} exists already", hint="name another place")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordingError(f"{folder} cannot be made: {error.strerror}") from None
    return Output(folder, path if single else None)


@dataclass
class _Stream:
    meta: Meta
    name: str
    part: Part | None = None
    number: int = 0
    dropped: int = 0
    removed: int = 0
    counts: Callable[[], Counts] = Counts


class Writer:
    """Writes rows of several streams. One thread may ``put``; another one writes.

    ``max_bytes`` bounds all files together: the oldest are removed. A single file ends
    the recording instead (``full``).
    """

    def __init__(self, output: Output, max_bytes: int, streams: int) -> None:
        self._output = output
        self._max_bytes = max_bytes
        share = max_bytes // max(1, streams) // _SHARES
        self._part_bytes = max_bytes if output.file else min(max(share, _LEAST_PART), _MOST_PART)
        self._queue: queue.Queue[tuple[_Stream, _Array, _Array | None] | None] = queue.Queue(_QUEUE)
        self._streams: list[_Stream] = []
        self._done: deque[tuple[_Stream, Path, int, int]] = deque()
        self._failure: Exception | None = None
        self.full = False
        self._thread = threading.Thread(target=self._run, name="kmind-record", daemon=True)
        self._thread.start()

    def add(self, meta: Meta, counts: Callable[[], Counts] = Counts) -> int:
        """A new stream; its number. ``counts`` is asked when a file of it is closed."""
        name = f"{meta.instance.replace('/', '!')}.{meta.stream}"
        if meta.table:
            name = f"{name}-{meta.table}"
        self._streams.append(_Stream(meta, name, counts=counts))
        return len(self._streams) - 1

    def put(self, stream: int, rows: _Array, knobs: _Array | None = None) -> bool:
        """Have rows written that nobody changes any more; false if they were dropped."""
        into = self._streams[stream]
        try:
            self._queue.put_nowait((into, rows, knobs))
        except queue.Full:
            into.dropped += len(rows)
            return False
        return True

    def dropped(self, stream: int) -> int:
        """Rows that the disk was too slow for."""
        return self._streams[stream].dropped

    def check(self) -> None:
        """Raise RecordingError if writing has failed."""
        if self._failure is not None:
            raise self._failed(self._failure)

    def close(self) -> None:
        """Write what waits, close all files. Raises RecordingError if that failed.

        What could not become Parquet stays as a stream that can be read.
        """
        self._queue.put(None)
        self._thread.join()
        for stream in self._streams:
            if stream.part is None:
                continue
            try:
                if self._failure is None:
                    self._close_part(stream)
                else:
                    stream.part.abandon()
            except Exception as error:
                self._failure = error
        self.check()
        self._collect()

    # In the thread.

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._failure is None and not self.full:
                try:
                    self._write(*item)
                except Exception as error:
                    self._failure = error
            else:
                item[0].dropped += len(item[1])

    def _write(self, stream: _Stream, rows: _Array, knobs: _Array | None) -> None:
        if stream.part is None:
            stream.number += 1
            meta = msgspec.structs.replace(stream.meta, part=stream.number)
            stream.part = Part(self._output.folder / f"{stream.name}.{stream.number:06}", meta)
        stream.part.write(columns_of(stream.meta, rows, knobs))
        # First make room: so a file that is closed says what was removed before it.
        self._keep_bound()
        if self._output.file:
            self.full = stream.part.size >= self._part_bytes
        elif stream.part.size >= self._part_bytes:
            self._close_part(stream)

    def _close_part(self, stream: _Stream) -> None:
        part, stream.part = stream.part, None
        assert part is not None
        lost = msgspec.structs.replace(
            stream.counts(), queue_dropped=stream.dropped, removed=stream.removed
        )
        if path := part.close(lost):
            self._done.append((stream, path, path.stat().st_size, part.rows))

    def _keep_bound(self) -> None:
        size = sum(size_ for _, _, size_, _ in self._done)
        size += sum(stream.part.size for stream in self._streams if stream.part)
        while size > self._max_bytes and self._done:
            stream, path, bytes_, rows = self._done.popleft()
            path.unlink()
            stream.removed += rows
            size -= bytes_

    def _collect(self) -> None:
        # A single file takes its name when it is complete.
        if self._output.file is None:
            return
        for _, path, _, _ in self._done:
            path.rename(self._output.file)
        self._output.folder.rmdir()

    def _failed(self, error: Exception) -> RecordingError:
        where = self._output.folder
        why = f"{type(error).__name__}: {error}"
        if isinstance(error, OSError):
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            why = "the disk is full" if full else (error.strerror or why)
        return RecordingError(
            f"recording to {where} ended: {why}",
            hint=f"the data written so far can be read: kmind inspect {where}",
        )
