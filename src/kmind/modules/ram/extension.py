# SPDX-License-Identifier: Apache-2.0
"""A disk in memory that outlives the process."""

from __future__ import annotations

import mmap
from typing import ClassVar

import numpy as np

from kmind.driver import Batch, BlockDriver, Op, Setup

__all__ = ["Ram"]

# Members of an enumeration take half a microsecond to look up in Python 3.11.
_READ, _WRITE = int(Op.READ), int(Op.WRITE)


class Ram(BlockDriver):
    """Serves the memory that it is opened with."""

    operations: ClassVar[frozenset[Op]] = frozenset({Op.WRITE_ZEROES, Op.DISCARD})

    def open(self, setup: Setup) -> None:
        """Take the memory, all of it."""
        assert setup.memory is not None, "the manifest asks for it"
        self._mapped = setup.memory
        self._memory = memoryview(setup.memory)
        self.size = len(setup.memory)

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
