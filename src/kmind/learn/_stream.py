# SPDX-License-Identifier: Apache-2.0
"""The batches of an Arrow stream, each bounded before it is decompressed.

A stream is messages: flatbuffers that say where the buffers of a batch lie, each of which begins
with the bytes that it has decompressed (Message.fbs of the Arrow format). pyarrow does not
tell them, so they are read here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from kmind.errors import RecordingError
from kmind.learn._arrow import ipc, pa
from kmind.util.foreign import foreign

__all__ = ["MOST", "batches_of_stream"]

MOST = 256 << 20
"""Bytes of memory that one batch, or one row group, may take."""

_HEADER = 2  # fields of the table Message, by their order in Message.fbs
_LENGTH, _BUFFERS, _COMPRESSION = 0, 2, 3  # and of RecordBatch
_WIDEST = 8  # bytes of a value


def batches_of_stream(path: Path) -> Iterator[Any]:
    """The whole batches of a stream, in order; what was cut short at its end is left out.

    Raises pyarrow's ArrowInvalid if not even the schema is there, and RecordingError for a
    batch that would take more than ``MOST`` bytes of memory.
    """
    with pa.OSFile(str(path)) as file:
        messages = ipc.MessageReader.open_stream(file)
        schema = ipc.read_schema(messages.read_next_message())
        while True:
            try:
                message = messages.read_next_message()
            except (StopIteration, pa.ArrowInvalid, OSError):
                return
            if message.type != "record batch":
                raise RecordingError(f"{path} is damaged: it holds a {message.type}")
            with foreign(partial(_damaged, path)):
                size = _size(bytes(message.metadata), message.body, len(schema))
            if size > MOST:
                raise RecordingError(
                    f"{path} would take {size >> 20} MiB of memory, by its own word",
                    hint=f"a batch has at most {MOST >> 20} MiB",
                )
            try:
                batch = ipc.read_record_batch(message, schema)
            except (pa.ArrowInvalid, OSError):
                return
            yield batch


def _size(metadata: bytes, body: Any, columns: int) -> int:
    (root,) = struct.unpack_from("<I", metadata)
    batch = _pointed(metadata, _field(metadata, root, _HEADER))
    length = _field(metadata, batch, _LENGTH)
    (rows,) = struct.unpack_from("<q", metadata, length) if length else (0,)
    if rows < 0:
        raise ValueError("a batch has less than no rows")
    packed = 0
    if _field(metadata, batch, _COMPRESSION):
        vector = _pointed(metadata, _field(metadata, batch, _BUFFERS))
        (count,) = struct.unpack_from("<I", metadata, vector)
        if 16 * count > len(metadata):
            raise ValueError("it names more buffers than there are")
        for number in range(count):
            at, size = struct.unpack_from("<qq", metadata, vector + 4 + 16 * number)
            if size >= 8 and at >= 0:
                (whole,) = struct.unpack("<q", bytes(body[at : at + 8]))
                packed += max(whole, size)
    return max(packed, int(rows) * _WIDEST * columns)


def _pointed(data: bytes, at: int) -> int:
    if not at:
        raise ValueError("a batch lacks a part")
    return at + int(struct.unpack_from("<I", data, at)[0])


def _field(data: bytes, table: int, number: int) -> int:
    """The place of a table's field; 0 if it is left out."""
    back = int(struct.unpack_from("<i", data, table)[0])
    directory = table - back
    if directory < 0:
        raise ValueError("a table lies outside")
    size = int(struct.unpack_from("<H", data, directory)[0])
    place = 4 + 2 * number
    if place + 2 > size:
        return 0
    offset = int(struct.unpack_from("<H", data, directory + place)[0])
    return table + offset if offset else 0


def _damaged(path: Path, why: str) -> RecordingError:
    return RecordingError(f"{path} is damaged: {why}", hint="it was changed, or is not a recording")
