# SPDX-License-Identifier: Apache-2.0
"""One file of a recording while it grows, and its change into Parquet.

Parquet's footer stands at its end, so a file that is cut short cannot be read. What grows
is therefore an Arrow stream, compressed batch by batch, which can be read up to its last
whole batch; when it is full it becomes a Parquet file. So what was flushed survives the
recorder's death. (A power cut may take the open stream back to what the kernel had written.)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from kmind.learn._arrow import ipc, pa, parquet
from kmind.learn._stream import batches_of_stream
from kmind.learn.meta import KEY, Counts, Meta
from kmind.learn.schema import make_schema

__all__ = ["CLOSED", "OPEN", "Part"]

OPEN = ".arrows"
"""Suffix of a file that grows, or whose recorder died."""

CLOSED = ".parquet"
"""Suffix of one that is complete."""

_GROUP_ROWS = 1 << 18  # of a row group


class _Sink:
    # Writes all or, where the disk is full, takes back the whole batch.

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self.good = 0
        self.end = 0
        self.closed = False

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            done += os.write(self.fd, view[done:])
        self.end += done
        return done

    def flush(self) -> None:
        pass

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            os.close(self.fd)

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


class Part:
    """A file that grows: ``path`` without its suffix. Raises OSError where the disk does."""

    def __init__(self, path: Path, meta: Meta) -> None:
        self.path = path
        self.rows = 0
        self._meta = meta
        self._schema = make_schema(meta)
        self._sink = _Sink(_with(path, OPEN))
        options = ipc.IpcWriteOptions(compression="zstd")
        self._stream = ipc.new_stream(self._sink, self._schema, options=options)
        self._sink.good = self._sink.end

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._sink.good

    def write(self, columns: list[Any]) -> None:
        """Append rows; once it returns they can be read, whatever becomes of this process."""
        batch = pa.RecordBatch.from_arrays(columns, schema=self._schema)
        try:
            self._stream.write_batch(batch)
        except BaseException:
            with suppress(OSError):
                os.ftruncate(self._sink.fd, self._sink.good)
            raise
        self._sink.good = self._sink.end
        self.rows += len(batch)

    def abandon(self) -> None:
        """Leave it as it is: an open stream, readable up to the last whole batch."""
        self._sink.close()

    def close(self, counts: Counts) -> Path | None:
        """Make it a Parquet file; its path, or None if it has no rows and was removed."""
        with suppress(OSError):  # the mark of the end: batches are found without it
            self._stream.close()
        self._sink.close()
        grown, unfinished, whole = (_with(self.path, s) for s in (OPEN, ".tmp", CLOSED))
        if not self.rows:
            grown.unlink()
            return None
        text = _copy(self._meta, counts).encode()
        schema = self._schema.with_metadata({KEY: text})
        try:
            with parquet.ParquetWriter(
                unfinished,
                schema,
                compression="zstd",
                use_dictionary=False,
                write_page_checksum=True,
            ) as writer:
                for table in _groups(batches_of_stream(grown)):
                    writer.write_table(table.cast(schema), row_group_size=_GROUP_ROWS)
            _sync(unfinished)
        except BaseException:
            with suppress(OSError):
                unfinished.unlink()
            raise
        unfinished.rename(whole)
        grown.unlink()
        return whole


def _groups(batches: Iterator[Any]) -> Iterator[Any]:
    waiting: list[Any] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) >= _GROUP_ROWS:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting)


def _copy(meta: Meta, counts: Counts) -> Meta:
    return msgspec.structs.replace(meta, counts=counts)


def _with(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
