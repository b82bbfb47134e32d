# SPDX-License-Identifier: Apache-2.0
"""Forecasting a series with a trend, and how much better that is than no forecast."""

from __future__ import annotations

__all__ = ["Holt"]

_FORGET = 0.05  # share of the newest error in the mean


class Holt:
    """Exponential smoothing of level and trend; ``learn_one`` a value, ``predict`` later ones.

    C. Holt, "Forecasting seasonals and trends by exponentially weighted moving
    averages" (1957), International Journal of Forecasting 20 (2004). ``alpha`` weighs
    the newest value in the level, ``beta`` the newest change in the trend.

    ``skill`` compares the mean absolute error of its own forecasts, one step ahead,
    with that of taking the last value for the next: 1 - ours / theirs (after
    R. Hyndman and A. Koehler, "Another look at measures of forecast accuracy", 2006).
    Below 0 the trend misleads, and ``predict`` leaves it out.
    """

    def __init__(self, alpha: float = 0.6, beta: float = 0.3) -> None:
        self.alpha = alpha
        self.beta = beta
        self.level_: float | None = None
        self.trend_ = 0.0
        self._last = 0.0
        self._error = 0.0
        self._naive_error = 0.0

    @property
    def skill(self) -> float:
        """From minus infinity to 1; 0 where nothing can be told yet."""
        return 1 - self._error / self._naive_error if self._naive_error > 0 else 0.0

    def learn_one(self, value: float) -> None:
        """Take the next value."""
        if self.level_ is None:
            self.level_ = self._last = value
            return
        expected = self.level_ + self.trend_
        self._error += _FORGET * (abs(value - expected) - self._error)
        self._naive_error += _FORGET * (abs(value - self._last) - self._naive_error)
        level = self.alpha * value + (1 - self.alpha) * expected
        self.trend_ += self.beta * (level - self.level_ - self.trend_)
        self.level_ = level
        self._last = value

    def predict(self, steps: float) -> float:
        """The value so many steps ahead, never below 0; the last value if that does better."""
        if self.level_ is None:
            return 0.0
        if self.skill < 0:
            return max(0.0, self._last)
        return max(0.0, self.level_ + steps * self.trend_)
