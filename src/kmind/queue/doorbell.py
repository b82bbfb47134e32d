# SPDX-License-Identifier: Apache-2.0
"""The doorbell: a BPF ring buffer that is only ever waited on.

Mapped by hand from its descriptor (layout: kernel/bpf/ringbuf.c, one page with
the consumer's position, one with the producer's), because the extension has
neither libbpf nor the right to ask bpf(2) for anything.
"""

from __future__ import annotations

import mmap
import select

import numpy as np

__all__ = ["Doorbell"]

_PAGE = mmap.PAGESIZE


class Doorbell:
    """Waits for the agent to ring."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._consumer_map = mmap.mmap(fd, _PAGE, mmap.MAP_SHARED)
        self._producer_map = mmap.mmap(fd, _PAGE, mmap.MAP_SHARED, mmap.PROT_READ, offset=_PAGE)
        self._consumer = np.frombuffer(self._consumer_map, np.uint64, 1)
        self._producer = np.frombuffer(self._producer_map, np.uint64, 1)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def fileno(self) -> int:
        """The descriptor that becomes readable."""
        return self._fd

    def drain(self) -> None:
        """Forget all rings so far."""
        self._consumer[0] = self._producer[0]

    def wait(self, timeout_s: float) -> bool:
        """Sleep until it rings, or so many seconds; true if it rang."""
        rang = bool(self._poll.poll(max(0, int(timeout_s * 1000))))
        if rang:
            self.drain()
        return rang

    def close(self) -> None:
        """Unmap; the descriptor stays the caller's."""
        del self._consumer, self._producer
        self._consumer_map.close()
        self._producer_map.close()
