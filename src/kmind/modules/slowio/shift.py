# SPDX-License-Identifier: Apache-2.0
"""Has a series risen for good? A cumulative sum of robust, bounded scores."""

from __future__ import annotations

from collections import deque
from statistics import median

__all__ = ["Baseline", "CumulativeSum", "ShiftDetector"]

_CONSISTENT = 1.4826  # makes a median deviation a standard deviation, where noise is normal


class Baseline:
    """Location and scale of a series while nothing happens; ``learn_one`` each of its values.

    The first ``learn`` values give ``location_``, their median, and ``scale_``, their
    median absolute deviation times 1.4826, at least ``least_scale`` (P. Rousseeuw and
    C. Croux, "Alternatives to the Median Absolute Deviation", 1993).
    """

    def __init__(self, *, learn: int = 30, least_scale: float = 0.05) -> None:
        self.learn = learn
        self.least_scale = least_scale
        self.location_ = 0.0
        self.scale_ = 0.0
        self._first: list[float] = []

    @property
    def learnt(self) -> bool:
        """True once there is a baseline to compare with."""
        return len(self._first) >= self.learn

    def learn_one(self, value: float) -> None:
        """Take the next value of the series; nothing once enough is learnt."""
        if self.learnt:
            return
        self._first.append(value)
        if self.learnt:
            self.location_ = median(self._first)
            spread = median(abs(each - self.location_) for each in self._first)
            self.scale_ = max(_CONSISTENT * spread, self.least_scale)

    def score(self, value: float) -> float:
        """Return a value's distance above the location, in scales."""
        return (value - self.location_) / self.scale_


class CumulativeSum:
    """Adds up scores, each bounded by ``clip`` either way, less ``allowance``.

    The sum ``sum_`` never falls below 0 (E. Page, "Continuous Inspection Schemes", 1954), nor
    rises above twice the ``limit``: what took long to find must not take as long to forget.
    """

    def __init__(self, *, allowance: float = 1.0, clip: float = 4.0, limit: float = 16.0) -> None:
        self.allowance = allowance
        self.clip = clip
        self.limit = limit
        self.sum_ = 0.0

    def learn_one(self, score: float) -> None:
        """Add the next score."""
        bounded = max(-self.clip, min(self.clip, score))
        self.sum_ = min(max(0.0, self.sum_ + bounded - self.allowance), 2 * self.limit)


class ShiftDetector:
    """Tells a rise that lasts from a burst; ``learn_one`` each value, then read ``shifted``.

    The first values give a ``baseline``; the score of each later one against it is added to
    ``scores``. There is a shift once their sum is above its limit and the median of the last
    ``recent`` values is ``least_rise`` above the location; it is over once the sum is 0 again
    and that median less than half so far.

    A burst of less than half of ``recent`` values cannot do it, however high it is: it
    does not move their median. By default that is five.
    """

    def __init__(
        self,
        least_rise: float,
        *,
        baseline: Baseline | None = None,
        scores: CumulativeSum | None = None,
        recent: int = 11,
    ) -> None:
        self.least_rise = least_rise
        self.baseline = baseline or Baseline()
        self.scores = scores or CumulativeSum()
        self.shifted = False
        self._recent: deque[float] = deque(maxlen=recent)

    @property
    def rise(self) -> float:
        """Distance of the median of the last values above the location."""
        return median(self._recent) - self.baseline.location_ if self._recent else 0.0

    def learn_one(self, value: float) -> None:
        """Take the next value of the series."""
        if not self.baseline.learnt:
            self.baseline.learn_one(value)
            return
        self._recent.append(value)
        self.scores.learn_one(self.baseline.score(value))
        full = len(self._recent) == self._recent.maxlen
        if not self.shifted:
            above = self.scores.sum_ > self.scores.limit
            self.shifted = full and above and self.rise >= self.least_rise
        elif self.scores.sum_ == 0.0 and self.rise < self.least_rise / 2:
            self.shifted = False
