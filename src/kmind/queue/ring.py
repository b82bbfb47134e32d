# SPDX-License-Identifier: Apache-2.0
"""Reading a submission ring: batches of records as views into the arena."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kmind.abi import layout
from kmind.queue.layout import Bytes
from kmind.queue.order import fence

__all__ = ["Reader"]

_WORD = 1 << 32


class Reader:
    """The only reader of one ring. Not thread-safe.

    ``control`` is the ring's ``struct kmind_ring`` and ``slots`` a structured
    array whose length is a power of two and whose dtype begins with ``commit``
    and ``seq``. Records that were dropped show as gaps in ``seq`` and are added
    up in ``lost``; records out of order are added up in ``reordered`` (an
    interrupt that pushed in the middle of a push is in order: it took its
    number later).
    """

    def __init__(self, control: Bytes, slots: npt.NDArray[np.void]) -> None:
        ring = control.view(layout.RING)
        self._head = ring["head"]
        self._tail_word = ring["tail"]
        self._slots = slots
        self._commit = slots["commit"]
        self._seq = slots["seq"]
        self._mask = len(slots) - 1
        self._count = np.arange(1, len(slots) + 1, dtype=np.uint32)
        self._tail = int(self._tail_word[0])
        # One that goes on where another stopped cannot know how many were dropped before.
        self._next_seq = None if self._tail else 0
        self.lost = 0
        self.reordered = 0

    def __len__(self) -> int:
        """Records that wait, those still being written among them."""
        return min((int(self._head[0]) - self._tail) % _WORD, len(self._slots))

    def peek(self, limit: int | None = None) -> npt.NDArray[np.void]:
        """The records that are complete, oldest first: a view, not a copy.

        One call returns what lies in one piece, so after the ring's end comes a
        second call. The view stays valid until ``release``.
        """
        start = self._tail & self._mask
        count = min(len(self), len(self._slots) - start)
        if limit is not None:
            count = min(count, limit)
        if count == 0:
            return self._slots[:0]
        done = self._commit[start : start + count] - np.uint32(self._tail) == self._count[:count]
        if not done.all():
            count = int(done.argmin())
        fence()
        return self._slots[start : start + count]

    def release(self, count: int) -> None:
        """Give the oldest ``count`` records back to the agent."""
        if count <= 0:
            return
        start = self._tail & self._mask
        seq = self._seq[start : start + count]
        last = int(seq[-1])
        if self._next_seq is None:
            self._next_seq = int(seq[0])
        missing = ((last - self._next_seq) % _WORD) + 1 - count
        if 0 < missing < _WORD // 2:
            self.lost += missing
        if count > 1:
            self.reordered += int((seq[1:] - seq[:-1] > np.uint32(_WORD // 2)).sum())
        self._next_seq = (last + 1) % _WORD
        self._tail = (self._tail + count) % _WORD
        fence()
        self._tail_word[0] = self._tail
