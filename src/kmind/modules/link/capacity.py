# SPDX-License-Identifier: Apache-2.0
"""The bottleneck of a path: when each frame is through, by a rate or by a trace of deliveries.

All times are whole nanoseconds, and all arithmetic is exact: nothing adds up over time.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["DELIVERY_BYTES", "Capacity", "Rate", "Trace"]

_Ints = npt.NDArray[np.int64]

DELIVERY_BYTES = 1514
"""Bytes that one line of a trace lets through: an MTU of 1,500 with its Ethernet header."""

_SECOND = 1_000_000_000


class Capacity(Protocol):
    """A queue's server: frames go through it one after another."""

    def backlog(self, now: int) -> int:
        """Bytes that are not through yet."""

    def send(self, now: int, wire: _Ints) -> _Ints:
        """Times at which frames of these bytes, behind all before, are through."""

    @property
    def through(self) -> int:
        """The time at which all frames so far are."""


class Rate:
    """A constant rate in bits a second; idle until ``start``."""

    def __init__(self, bits: int, start: int = 0) -> None:
        self._bits = bits
        # All is through at _base ns and _rest / _bits ns, which is less than one.
        self._base, self._rest = start, 0

    def backlog(self, now: int) -> int:
        """Bytes that are not through yet, rounded up."""
        left = (self._base - now) * self._bits + self._rest
        return max(-(-left // (8 * _SECOND)), 0)

    def send(self, now: int, wire: _Ints) -> _Ints:
        """Times at which frames of these bytes, behind all before, are through, rounded up."""
        if self._base < now:
            self._base, self._rest = now, 0
        # 64 bits hold a GiB of frames at once, which is more than any batch has.
        work = np.cumsum(wire) * (8 * _SECOND) + self._rest
        times: _Ints = self._base - (-work // self._bits)
        more, self._rest = divmod(int(work[-1]), self._bits)
        self._base += more
        return times

    @property
    def through(self) -> int:
        """The time at which all frames so far are, rounded up."""
        return self._base + bool(self._rest)


class Trace:
    """Deliveries at given times, which begin anew after the last; ``start`` is their time 0.

    Each lets `DELIVERY_BYTES` through: several small frames, or a part of a large one. One that
    finds nothing to send is lost. The same as mm-link of mahimahi does (Netravali et al. 2015),
    but for the Ethernet header, which it does not see.
    """

    def __init__(self, deliveries: _Ints, start: int) -> None:
        self._times, self._start = deliveries, start
        self._period = int(deliveries[-1])
        self._used = 0  # bytes of all deliveries from the start on, sent or lost

    def backlog(self, now: int) -> int:
        """Bytes that are not through yet."""
        return max(self._used - self._gone(now), 0)

    def send(self, now: int, wire: _Ints) -> _Ints:
        """Times at which frames of these bytes, behind all before, are through."""
        ends = max(self._used, self._gone(now)) + np.cumsum(wire)
        self._used = int(ends[-1])
        return self._at((ends - 1) // DELIVERY_BYTES)

    @property
    def through(self) -> int:
        """The time of the last delivery that was used."""
        if not self._used:
            return self._start
        return int(self._at(np.array([(self._used - 1) // DELIVERY_BYTES]))[0])

    def _at(self, number: _Ints) -> _Ints:
        turns, rest = np.divmod(number, len(self._times))
        times: _Ints = self._start + turns * self._period + self._times[rest]
        return times

    def _gone(self, now: int) -> int:
        # Bytes of the deliveries up to now.
        if now < self._start:
            return 0
        turns, rest = divmod(now - self._start, self._period)
        count = turns * len(self._times) + int(self._times.searchsorted(rest, "right"))
        return count * DELIVERY_BYTES
