# SPDX-License-Identifier: Apache-2.0
"""Has a series risen for good? A cumulative sum of robust, bounded scores."""

from __future__ import annotations

from collections import deque
from statistics import median

__all__ = ["ShiftDetector"]

_CONSISTENT = 1.4826  # makes a median deviation a standard deviation, where noise is normal


class ShiftDetector:
    """Tells a rise that lasts from a burst; ``learn_one`` each value, then read ``shifted``.

    The first ``learn`` values give ``location_``, their median, and ``scale_``, their
    median absolute deviation times 1.4826, at least ``least_scale`` (P. Rousseeuw and
    C. Croux, "Alternatives to the Median Absolute Deviation", 1993). Each later one
    adds its score, bounded by ``clip`` either way, less ``allowance``, to a sum that
    never falls below 0 (E. Page, "Continuous Inspection Schemes", 1954). There is a
    shift once the sum ``sum_`` is above ``limit`` and the median of the last ``recent``
    values is ``least_rise`` above the location; it is over once the sum is 0 again and
    that median less than half so far.

    A burst of less than half of ``recent`` values cannot do it, however high it is: it
    does not move their median. By default that is five.
    """

    def __init__(
        self,
        least_rise: float,
        *,
        learn: int = 30,
        least_scale: float = 0.05,
        allowance: float = 1.0,
        clip: float = 4.0,
        limit: float = 16.0,
        recent: int = 11,
    ) -> None:
        self.least_rise = least_rise
        self.learn = learn
        self.least_scale = least_scale
        self.allowance = allowance
        self.clip = clip
        self.limit = limit
        self.location_ = 0.0
        self.scale_ = 0.0
        self.sum_ = 0.0
        self.shifted = False
        self._first: list[float] = []
        self._recent: deque[float] = deque(maxlen=recent)

    @property
    def learnt(self) -> bool:
        """Whether there is something to compare with."""
        return len(self._first) >= self.learn

    @property
    def rise(self) -> float:
        """How far the median of the last values is above the location."""
        return median(self._recent) - self.location_ if self._recent else 0.0

    def learn_one(self, value: float) -> None:
        """Take the next value of the series."""
        if not self.learnt:
            self._first.append(value)
            if self.learnt:
                self.location_ = median(self._first)
                spread = median(abs(each - self.location_) for each in self._first)
                self.scale_ = max(_CONSISTENT * spread, self.least_scale)
            return
        self._recent.append(value)
        score = (value - self.location_) / self.scale_
        score = max(-self.clip, min(self.clip, score))
        # Bounded above too: what took long to find must not take as long to forget.
        self.sum_ = min(max(0.0, self.sum_ + score - self.allowance), 2 * self.limit)
        full = len(self._recent) == self._recent.maxlen
        if not self.shifted:
            self.shifted = full and self.sum_ > self.limit and self.rise >= self.least_rise
        elif self.sum_ == 0.0 and self.rise < self.least_rise / 2:
            self.shifted = False
