# SPDX-License-Identifier: Apache-2.0
"""Memory of frames, handed out and taken back; and the frames that wait for their time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Flight", "Slots"]

_Ints = npt.NDArray[np.int64]


class Slots:
    """Numbers from ``first`` on, ``count`` of them, that are free or taken."""

    def __init__(self, first: int, count: int) -> None:
        self._stack = np.arange(first, first + count)
        self.free = count
        """The number of those that are free."""

    def take(self, count: int) -> _Ints:
        """Take some that are free."""
        if count > self.free:
            raise IndexError(f"{count} of {self.free} slots")
        self.free -= count
        return self._stack[self.free : self.free + count].copy()

    def give(self, slots: _Ints) -> None:
        """Give some back."""
        self._stack[self.free : self.free + len(slots)] = slots
        self.free += len(slots)


class Flight:
    """Frames that wait, soonest first; those of one time in the order in which they were added."""

    def __init__(self) -> None:
        self._due = np.zeros(0, np.int64)
        self._slots = self._to = self._due

    def __len__(self) -> int:
        return len(self._due)

    @property
    def next(self) -> int:
        """The time at which the first one is due, in nanoseconds; only if there is one."""
        return int(self._due[0])

    def add(self, slots: _Ints, to: _Ints, due: _Ints) -> None:
        """Have frames wait until ``due``."""
        if not len(due):
            return
        late = bool(len(self._due)) and due[0] < self._due[-1]
        joined = np.concatenate((self._due, due)) if len(self._due) else due
        slots = np.concatenate((self._slots, slots)) if len(self._due) else slots
        to = np.concatenate((self._to, to)) if len(self._due) else to
        if late or (len(due) > 1 and (due[1:] < due[:-1]).any()):
            order = np.argsort(joined, kind="stable")
            joined, slots, to = joined[order], slots[order], to[order]
        self._due, self._slots, self._to = joined, slots, to

    def take(self, now: int) -> tuple[_Ints, _Ints]:
        """Slots and interfaces of those that are due."""
        count = int(self._due.searchsorted(now, "right"))
        taken = self._slots[:count], self._to[:count]
        self._due, self._slots, self._to = (
            self._due[count:],
            self._slots[count:],
            self._to[count:],
        )
        return taken
