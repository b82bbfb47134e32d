# SPDX-License-Identifier: Apache-2.0
"""Requests for a file's data, read from their headers: checked, and in a driver's terms."""

from __future__ import annotations

import errno
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from kmind.driver.block import Op, Requests
from kmind.driver.fuse.protocol import FALLOCATE, REQUEST, RESENT, Opcode

__all__ = ["NO_OP", "SERVE", "as_ops", "decode"]

NO_OP = 255
"""Stands for a request that is not for data."""

SERVE = -1
"""The verdict on a request that the driver has to answer."""

_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 16  # include/uapi/linux/falloc.h
_OPCODES = 64
# Members of an enumeration take half a microsecond to look up in Python 3.11.
_WRITE = int(Op.WRITE)
_TO_OP = np.full(_OPCODES, NO_OP, np.uint8)
_LEAST = np.zeros(_OPCODES, np.int64)
for _code, _op, _bytes in (
    (Opcode.READ, Op.READ, 80),
    (Opcode.WRITE, Op.WRITE, 80),
    (Opcode.FSYNC, Op.FLUSH, 56),
    (Opcode.FALLOCATE, Op.WRITE_ZEROES, 72),
):
    _TO_OP[_code] = _op
    _LEAST[_code] = _bytes


def as_ops(opcode: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint8]:
    """The operation of each FUSE opcode, or NO_OP."""
    return _TO_OP.take(opcode, mode="clip")


def decode(
    heads: npt.NDArray[Any],
    received: npt.NDArray[np.int64],
    *,
    size: int,
    max_io: int,
    operations: Collection[Op],
) -> tuple[Requests, npt.NDArray[np.int64] | None]:
    """Read REQUEST records of opcodes that have an operation; ``received`` is their bytes.

    Returns the requests, and the verdict on each: SERVE, 0 where there is nothing to do, or an
    error number; None if the driver has to serve all. Reads are cut at the end of the file, as
    read(2) is; writes beyond it fail with ENOSPC.
    """
    op = as_ops(heads["opcode"])
    # Nearly every batch is of reads and writes that fit: few array operations tell, and each
    # costs a microsecond. A number beyond 63 bits is negative here.
    offset = heads["offset"].astype(np.int64)
    length = heads["size"].astype(np.int64)
    if (
        op.max() <= _WRITE
        and offset.min() >= 0
        and length.min() > 0
        and length.max() <= max_io
        and (offset + length).max() <= size
        and (received == REQUEST.itemsize + length * op).all()
    ):
        return Requests(op, offset, length, _replayed(heads), np.zeros(len(op), bool)), None
    return _decode_any(heads, received, op, size, max_io, operations)


def _decode_any(
    heads: npt.NDArray[Any],
    received: npt.NDArray[np.int64],
    op: npt.NDArray[np.uint8],
    size: int,
    max_io: int,
    operations: Collection[Op],
) -> tuple[Requests, npt.NDArray[np.int64]]:
    reads, writes, zeroes = op == Op.READ, op == Op.WRITE, op == Op.WRITE_ZEROES
    asked_at, asked = heads["offset"], heads["size"].astype(np.uint64)
    unmap = np.zeros(len(op), bool)
    verdict = np.full(len(op), SERVE, np.int64)
    if zeroes.any():
        ranges = heads.view(FALLOCATE)
        asked = np.where(zeroes, ranges["length"], asked)
        mode = ranges["mode"] & ~np.uint32(_KEEP_SIZE)
        unmap = zeroes & (ranges["mode"] == _PUNCH_HOLE | _KEEP_SIZE)
        verdict[zeroes & ~unmap & (mode != _ZERO_RANGE)] = errno.EOPNOTSUPP
    end = np.uint64(size)
    offset = np.minimum(asked_at, end)
    length = np.minimum(asked, end - offset)
    flush = op == Op.FLUSH
    offset[flush] = length[flush] = 0
    verdict[writes & (length < asked)] = errno.ENOSPC
    verdict[~flush & (verdict == SERVE) & (length == 0)] = 0
    for one in (Op.FLUSH, Op.WRITE_ZEROES):
        if one not in operations:
            verdict[op == one] = 0 if one == Op.FLUSH else errno.EOPNOTSUPP
    # Stated last, so that nothing else is said of what is not to be believed.
    wrong = received < _LEAST[heads["opcode"]]
    wrong |= (reads | writes) & (asked > max_io)
    wrong |= writes & (asked.astype(np.int64) != received - REQUEST.itemsize)
    verdict[wrong] = errno.EINVAL
    offsets, lengths = offset.astype(np.int64), length.astype(np.int64)
    return Requests(op, offsets, lengths, _replayed(heads), unmap), verdict


def _replayed(heads: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    marked: npt.NDArray[np.bool_] = (heads["unique"] & RESENT) != 0
    return marked
