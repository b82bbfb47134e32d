# SPDX-License-Identifier: Apache-2.0
"""A disk in memory: the simplest driver, and the price of the way to it."""

from __future__ import annotations

import mmap
import os
from typing import ClassVar

import numpy as np

from kmind.driver.block import Batch, BlockDriver, Op

__all__ = ["Ram"]

# Members of an enumeration take half a microsecond to look up in Python 3.11.
_READ, _WRITE = int(Op.READ), int(Op.WRITE)


class Ram(BlockDriver):
    """Memory of ``size`` bytes, its own or that of a memfd, which outlives the process."""

    operations: ClassVar[frozenset[Op]] = frozenset({Op.WRITE_ZEROES, Op.DISCARD})

    def __init__(self, size: int, memfd: int = -1) -> None:
        self.size = size
        self._file = os.dup(memfd) if memfd >= 0 else os.memfd_create("kmind-ram", os.MFD_CLOEXEC)
        os.ftruncate(self._file, size)
        self._mapped = mmap.mmap(self._file, size)
        self._memory = memoryview(self._mapped)

    def serve(self, batch: Batch) -> None:
        """Answer everything at once."""
        memory = self._memory
        for op, start, length, data in zip(
            batch.op.tolist(), batch.offset.tolist(), batch.length.tolist(), batch.data, strict=True
        ):
            if op == _READ:
                data[:] = memory[start : start + length]
            elif op == _WRITE:
                memory[start : start + length] = data
            else:
                self._free(start, length)
        batch.finish(np.arange(len(batch)))

    def _free(self, start: int, length: int) -> None:
        if not (start | length) % mmap.PAGESIZE:
            self._mapped.madvise(mmap.MADV_REMOVE, start, length)  # holes read as zeros
        else:
            self._memory[start : start + length] = bytes(length)
