# SPDX-License-Identifier: Apache-2.0
"""Does a value help? Pairs of short blocks, one under each value, compared.

Each pair gives the logarithm of a ratio of speeds. Student's interval over the
pairs says gain, loss or neither; looks after 3, 4, 5 and 6 pairs share the 5%
(Bonferroni), so that stopping early does not lower the bar.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Effect", "Trial"]

# Quantiles of Student's t at 1 - 0.05 / 2 / 4, for 3 to 6 pairs.
_QUANTILE = {3: 8.860, 4: 5.392, 5: 4.315, 6: 3.810}
_GUARD = 0.7  # a first block so much slower ends the trial


@dataclass(frozen=True)
class Effect:
    """Ratio of speeds, candidate to incumbent, with its 95% interval."""

    ratio: float
    low: float
    high: float
    pairs: int


@dataclass
class Trial:
    """One candidate against the incumbent.

    The blocks come as incumbent, candidate, incumbent, candidate, ... ``min_gain``
    is the share that the interval's low end must exceed for a gain.
    """

    candidate: int
    incumbent: int
    min_gain: float
    under_incumbent: list[float] = field(default_factory=list)
    under_candidate: list[float] = field(default_factory=list)

    @property
    def next_value(self) -> int:
        """The value that the next block is to run under."""
        first = len(self.under_incumbent) <= len(self.under_candidate)
        return self.incumbent if first else self.candidate

    def learn_one(self, speed: float) -> None:
        """Take the mean speed of one block, in any unit."""
        blocks = self.under_incumbent if self.next_value == self.incumbent else self.under_candidate
        blocks.append(speed)

    @property
    def effect(self) -> Effect | None:
        """What the pairs say so far; None before the third."""
        pairs = list(zip(self.under_incumbent, self.under_candidate, strict=False))
        if len(pairs) not in _QUANTILE:
            return None
        # Half a request a second more on both sides, so that silence has a logarithm.
        logs = [math.log((after + 0.5) / (before + 0.5)) for before, after in pairs]
        mean = statistics.fmean(logs)
        half = _QUANTILE[len(pairs)] * statistics.stdev(logs) / math.sqrt(len(pairs))
        return Effect(math.exp(mean), math.exp(mean - half), math.exp(mean + half), len(pairs))

    @property
    def outcome(self) -> Literal["gain", "loss", "no change"] | None:
        """The end of the trial, or None while it goes on."""
        if len(self.under_candidate) == 1 and len(self.under_incumbent) == 1:
            return "loss" if self.under_candidate[0] < _GUARD * self.under_incumbent[0] else None
        if len(self.under_candidate) < len(self.under_incumbent):
            return None
        effect = self.effect
        if effect is None:
            return None
        if effect.low > 1 + self.min_gain:
            return "gain"
        if effect.high < 1:
            return "loss"
        return "no change" if effect.pairs == max(_QUANTILE) else None
