# SPDX-License-Identifier: Apache-2.0
"""Bets on the order of the arms: an interval that is valid at every moment.

Each pair gives ``d``, the logarithm of a ratio, and a fair coin said which arm came first. If
the candidate changes every block by the same factor exp(theta), then ``d - theta`` is as
likely as its negative, whatever the noise is like. So whoever bets on its sign at fair odds
cannot expect to gain (a test martingale: Ville 1939; Ramdas et al. 2023, "Game-theoretic
statistics and safe anytime-valid inference"), and a wealth of 1/alpha is reached with
probability alpha at most, ever. Bets are 1 + tanh(y), which is the likelihood ratio of y to -y
between two normal laws, with y = strength * d / scale, held within bounds so that one outlier
cannot take all. The wealth is a mixture over strengths, as the size of the effect is not known
(Robbins 1970). The thetas that the bets have not refuted are the interval.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["Bets"]

_STRENGTH = np.array([0.25, 0.5, 1.0, 2.0])
_BOUND = np.array([4.0, 4.0, 4.0, 4.0])
_LOG_WEIGHT = np.log(np.array([0.25, 0.25, 0.25, 0.25]))
_STEPS = 48

Floats = npt.NDArray[np.float64]


class Bets:
    """The pairs so far, and what betting on them says.

    ``differences`` are the logarithms of ratios, ``scales`` the noise as it was known before
    each of them.
    """

    def __init__(self) -> None:
        self.differences: list[float] = []
        self.scales: list[float] = []

    def learn_one(self, difference: float, scale: float) -> None:
        """Take one pair; ``scale`` must not depend on this pair or a later one."""
        self.differences.append(difference)
        self.scales.append(scale)

    def log_wealth(self, theta: float, *, above: bool) -> Floats:
        """The logarithm of the wealth after each pair, from betting against ``theta``.

        ``above``: that the effect is above it, else below. One number a pair.
        """
        d, s = np.array(self.differences), np.array(self.scales)
        x = (d - theta) / s if above else (theta - d) / s
        y = np.clip(x[:, None], -_BOUND, _BOUND) * _STRENGTH
        grown: Floats = np.cumsum(math.log(2) - np.logaddexp(0, -2 * y), axis=0) + _LOG_WEIGHT
        wealth: Floats = np.logaddexp.reduce(grown, axis=1)
        return wealth

    def low(self, level: float) -> float:
        """The low end: all effects below it were refuted at some time, at error ``level``."""
        return self._end(level, above=True)

    def high(self, level: float) -> float:
        """The high end, likewise."""
        return self._end(level, above=False)

    def _end(self, level: float, *, above: bool) -> float:
        # The wealth falls as theta nears the differences: so one crossing, found by halving.
        sign = 1.0 if above else -1.0
        if not self.differences:
            return -sign * math.inf
        reach = float(_BOUND.max()) * max(self.scales)
        if above:
            refuted, kept = min(self.differences) - reach, max(self.differences)
        else:
            refuted, kept = max(self.differences) + reach, min(self.differences)
        enough = -math.log(level)
        if self.log_wealth(refuted, above=above).max() < enough:
            return -sign * math.inf
        for _ in range(_STEPS):
            middle = (refuted + kept) / 2
            if self.log_wealth(middle, above=above).max() >= enough:
                refuted = middle
            else:
                kept = middle
        return refuted
