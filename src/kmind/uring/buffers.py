# SPDX-License-Identifier: Apache-2.0
"""Memory for a driver's requests, there before the first of them."""

from __future__ import annotations

import mmap

import numpy as np
import numpy.typing as npt

from kmind.errors import RingError, UsageError
from kmind.uring.prepare import Ints

__all__ = ["Buffers"]


class Buffers:
    """``count`` buffers of ``size`` bytes, each at the start of a page, in one mapping.

    All pages are faulted in here, so that what a grant counts (`total`) is what the process has,
    and none is asked for in the middle of a request, when memory may be short. A child that is
    forked does not have them, so a fork write-protects none either. They go with the last array
    that was made from them. Raises RingError where the kernel refuses so much.
    """

    def __init__(self, count: int, size: int) -> None:
        if count < 1 or size < 1:
            raise UsageError(f"there cannot be {count} buffers of {size} bytes")
        self.size = size
        """Bytes of one."""
        self.stride = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        """Bytes from one to the next."""
        self.total = count * self.stride
        """Bytes of all: whole pages."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
        try:
            memory = mmap.mmap(-1, self.total, flags=flags)
            memory.madvise(mmap.MADV_DONTFORK)
        except (OSError, OverflowError, ValueError) as error:
            raise RingError(
                f"no memory for {count} buffers of {size} bytes: {error}",
                hint="have fewer, or smaller ones",
            ) from None
        self._rows = np.frombuffer(memory, np.uint8).reshape(count, self.stride)
        self.address: int = self._rows.ctypes.data
        """Address of the first one."""

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]:
        """One of them, as writable bytes."""
        return self._rows[index, : self.size]

    @property
    def rows(self) -> npt.NDArray[np.uint8]:
        """All of them, a row each, without a copy."""
        return self._rows[:, : self.size]

    @property
    def span(self) -> tuple[int, int]:
        """Address and size of all, as `register_buffers` takes them."""
        return self.address, self.total

    def addresses(self, index: Ints) -> Ints:
        """Addresses of these, as `kmind.uring.prepare` takes them."""
        return self.address + self.stride * index
