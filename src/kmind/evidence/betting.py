# SPDX-License-Identifier: Apache-2.0
"""Bets on the order of the arms: an interval that is valid at every moment.

Each pair gives ``d``, the logarithm of a ratio, and a fair coin said which arm came first. If
the candidate changes every block by the same factor exp(theta), then ``d - theta`` is as
likely as its negative, whatever the noise is like. So a bettor on its sign at fair odds
cannot expect to win (a test martingale: Ville 1939; Ramdas, Grünwald, Vovk and Shafer 2023,
"Game-theoretic statistics and safe anytime-valid inference"), and a wealth of 1/level is
reached with probability ``level`` at most, ever. A bet multiplies the wealth by 1 + tanh(y)
with y = strength * (d - theta) / scale: for normal noise the likelihood ratio of an effect
of ``strength`` to either sign of it, given the size of d. It is held within bounds, so that
one outlier cannot take all, and it grows with d, so that an effect below theta makes it no
easier to win. The wealth is a mixture over strengths, since the size of the effect is not
known (Robbins 1970). The interval is what the bets have not refuted.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Bet", "Bets", "detectable_delta", "strengths"]

# A quarter of the wealth on each. The first two have seen enough of a pair at two sigmas: they
# find small effects under heavy tails. The others see gross effects in five pairs at 4% error.
# The weakest is weaker in longer experiments: it is to find what they can just detect.
_STRENGTH = np.array([0.35, 0.8, 1.0, 2.0])
_BOUND = np.array([2.0, 2.0, 4.0, 4.0])
_WEAKEST = 3.0  # over the root of the number of pairs
_LOG_SHARE = math.log(0.25)
_STEPS = 48
_POWER_Z = 0.8416  # the 80% quantile of the normal law
_NODES, _MASS = np.polynomial.hermite_e.hermegauss(41)
_MASS = _MASS / _MASS.sum()

_Floats = npt.NDArray[np.float64]


def strengths(pairs: int) -> _Floats:
    """The strengths of the bets in an experiment of at most so many pairs."""
    weakest = min(float(_STRENGTH[0]), _WEAKEST / math.sqrt(max(pairs, 1)))
    return np.array([weakest, *_STRENGTH[1:]])


def _log_factors(x: Any, strength: _Floats) -> _Floats:
    # Factors of one pair for each share of the wealth: log(1 + tanh(y)).
    y = np.clip(x, -_BOUND, _BOUND) * strength
    factors: _Floats = math.log(2) - np.logaddexp(0, -2 * y)
    return factors


def _growth(delta: float, strength: _Floats) -> tuple[_Floats, _Floats]:
    # Mean and variance of a pair's log factor, each share's, under normal noise (quadrature).
    factors = _log_factors(_NODES[:, None] + delta, strength)
    mean = _MASS @ factors
    return mean, _MASS @ (factors - mean) ** 2


@lru_cache(maxsize=64)
def detectable_delta(pairs: int, level: float) -> float:
    """The smallest effect that is found in four of five experiments of so many pairs, in sigmas.

    For normal noise; what is left out is that the wealth may pass 1 / level and fall again,
    so a little more is found than said. Infinity if so few pairs can find nothing.
    """
    strength = strengths(pairs)
    low, high = 0.0, 20.0

    def found(delta: float) -> bool:
        mean, variance = _growth(delta, strength)
        reached = pairs * mean - _POWER_Z * np.sqrt(pairs * variance) + _LOG_SHARE
        return float(np.logaddexp.reduce(reached)) >= -math.log(level)

    if not found(high):
        return math.inf
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) else (middle, high)
    return high


class Bet:
    """Bets against one effect: that the true one is above ``theta``, or below it."""

    def __init__(self, theta: float, strength: _Floats, *, above: bool) -> None:
        self.theta = theta
        self._sign = 1.0 if above else -1.0
        self._strength = strength
        self._shares = np.full(len(_STRENGTH), _LOG_SHARE)
        self.log_wealth = 0.0
        self.log_best = 0.0

    def learn_one(self, difference: float, scale: float) -> None:
        """Take one pair, as ``Bets.learn_one`` does."""
        x = self._sign * (difference - self.theta) / scale
        self._shares += _log_factors(x, self._strength)
        self.log_wealth = float(np.logaddexp.reduce(self._shares))
        self.log_best = max(self.log_best, self.log_wealth)

    def reachable(self, delta: float, pairs: int, luck: float) -> float:
        """The logarithm of the wealth after so many more pairs with an effect of ``delta`` sigmas.

        ``luck`` is in standard deviations of that logarithm; never less than it was.
        """
        mean, variance = _growth(delta, self._strength)
        reached = self._shares + pairs * mean + luck * np.sqrt(pairs * variance)
        return max(float(np.logaddexp.reduce(reached)), self.log_best)

    def refuted(self, level: float) -> bool:
        """True if ``theta`` was refuted at error ``level``, now or before."""
        return self.log_best >= -math.log(level)


class Bets:
    """The pairs so far, and the interval from betting against every effect.

    ``differences`` are the logarithms of ratios, ``scales`` the noise as it was known before
    each of them.
    """

    def __init__(self, strength: _Floats) -> None:
        self.differences: list[float] = []
        self.scales: list[float] = []
        self._strength = strength

    def learn_one(self, difference: float, scale: float) -> None:
        """Take one pair; ``scale`` must not depend on this pair or a later one."""
        self.differences.append(difference)
        self.scales.append(scale)

    def low(self, level: float, pairs: int | None = None) -> float:
        """The low end: what lies below was refuted by then, at error ``level``.

        After so many pairs, or all of them.
        """
        return self._end(level, np.array(self.differences[:pairs]))

    def high(self, level: float, pairs: int | None = None) -> float:
        """The high end, likewise."""
        return -self._end(level, -np.array(self.differences[:pairs]))

    def _end(self, level: float, differences: _Floats) -> float:
        # Wealth falls as theta rises, after each pair; so does the best, which makes an
        # interval that never widens. The crossing is found by halving.
        if not len(differences):
            return -math.inf
        scales = np.array(self.scales[: len(differences)])
        need = -math.log(level)

        def refuted(theta: float) -> bool:
            x = ((differences - theta) / scales)[:, None]
            shares = np.cumsum(_log_factors(x, self._strength), axis=0) + _LOG_SHARE
            return bool(np.logaddexp.reduce(shares, axis=1).max() >= need)

        low = float(differences.min() - _BOUND.max() * scales.max())
        high = float(differences.max())
        if not refuted(low):
            return -math.inf
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if refuted(middle) else (low, middle)
        return low
