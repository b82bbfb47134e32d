# SPDX-License-Identifier: Apache-2.0
"""Judge the pairs: compute the interval, and decide whether to stop."""

from __future__ import annotations

import math

import numpy as np

from kmind.evidence._base import Design, Interval, Outcome
from kmind.evidence.betting import Bet, Bets, strengths
from kmind.evidence.noise import clipped_mean, robust_scale

__all__ = ["Judge"]

_UNKNOWN_SIGMA = 0.1  # before any block has said; a matter of power, not of validity
_PRIOR_PAIRS = 8  # so many pairs the noise of the A/A blocks is worth
# When to give up, chosen on seeds of its own: of gains that would be kept by waiting for the end
# this loses one or two in a hundred, and ends an A/A experiment three times sooner.
_FUTILE_FROM = 16  # pairs, and
_FUTILE_SHARE = 0.2  # of those that the time is enough for
_LIKELY = 1.5  # standard errors
_LUCK = 1.0  # standard deviations


class Judge:
    """Takes pairs and says when they are enough.

    ``sigma`` is the noise of a pair's log ratio as A/A blocks had it, None if not known.
    """

    def __init__(self, design: Design, sigma: float | None) -> None:
        self.design = design
        strength = strengths(design.max_blocks // 2)
        self.bets = Bets(strength)
        self._sigma = _UNKNOWN_SIGMA if sigma is None else sigma
        bar = math.log1p(design.min_gain)
        self._gain = Bet(bar, strength, above=True)
        self._no_gain = Bet(bar, strength, above=False)
        self._loss = Bet(0.0, strength, above=False)

    @property
    def pairs(self) -> int:
        """Number of usable pairs."""
        return len(self.bets.differences)

    def learn_one(self, difference: float) -> None:
        """Take one pair's log ratio, above 0 if the candidate was better."""
        scale = self._scale()
        self.bets.learn_one(difference, scale)
        for bet in (self._gain, self._no_gain, self._loss):
            bet.learn_one(difference, scale)

    def _residuals(self) -> list[float]:
        past = np.array(self.bets.differences)
        return list(past - np.median(past))

    def _scale(self) -> float:
        # Of earlier pairs only: what is staked on a pair must not depend on its sign.
        if not self.pairs:
            return self._sigma
        weight = self.pairs / (self.pairs + _PRIOR_PAIRS)
        seen = robust_scale(self._residuals())
        return math.sqrt(weight * seen**2 + (1 - weight) * self._sigma**2)

    def _middle(self, pairs: int | None = None) -> float:
        return clipped_mean(self.bets.differences[:pairs])

    def interval(self, pairs: int | None = None) -> Interval:
        """The effect after so many pairs, from one on; after all of them, if None."""
        low = self.bets.low(self.design.keep_level, pairs)
        high = max(self.bets.high(self.design.loss_level, pairs), low)
        middle = min(max(self._middle(pairs), low), high)
        count = self.pairs if pairs is None else pairs
        return Interval(math.exp(middle), math.exp(low), math.exp(high), count)

    def decide(self, pairs_left: int) -> tuple[Outcome, str] | None:
        """The outcome with one sentence for it, or None while there is more to see."""
        keep, lose = self.design.keep_level, self.design.loss_level
        if self.pairs >= self.design.min_pairs:
            if self._gain.refuted(keep):
                return "gain", self._sentence("the candidate is better beyond noise")
            if self._loss.refuted(lose):
                return "loss", self._sentence("the candidate is worse beyond noise")
            if self._no_gain.refuted(lose):
                return "no change", self._sentence("the gain is smaller than required")
        if pairs_left <= 0:
            return "no change", self._sentence("no gain was detected within the time limit")
        if self._screened() and self._middle() <= self._gain.theta:
            return "no change", self._sentence("a gain has become unlikely")
        enough = max(_FUTILE_FROM, _FUTILE_SHARE * self.design.max_blocks / 2)
        if self.design.screen_pairs:
            enough = 2 * self.design.screen_pairs
        if self.pairs >= enough and self._futile(pairs_left):
            return "no change", self._sentence("a gain could not be detected in the time left")
        return None

    def _screened(self) -> bool:
        # True if the pairs are checked now: the first time, and whenever they have doubled.
        times, rest = divmod(self.pairs, self.design.screen_pairs or self.pairs + 1)
        return rest == 0 and times.bit_count() == 1

    def _futile(self, pairs_left: int) -> bool:
        # Take an effect at the upper end of what is likely, and a lucky course from here on.
        scale = robust_scale(self._residuals())
        likely = self._middle() + _LIKELY * scale / math.sqrt(self.pairs) - self._gain.theta
        if likely <= 0:
            return True
        reached = self._gain.reachable(likely / scale, pairs_left, _LUCK)
        return reached < -math.log(self.design.keep_level)

    def _sentence(self, finding: str) -> str:
        if not self.pairs:
            return f"{finding}: no pair of blocks could be compared"
        seen = self.interval()
        high = f"{seen.high:.3f}" if math.isfinite(seen.high) else "infinity"
        return (
            f"{finding}: effect x{seen.ratio:.3f} "
            f"({100 * (1 - self.design.alpha):.3g}% CI {seen.low:.3f} to {high}; "
            f"{self.pairs} pairs)"
        )
