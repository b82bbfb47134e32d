# SPDX-License-Identifier: Apache-2.0
"""A side metric: one that does not decide, and that a gain must not be bought with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kmind.errors import UsageError
from kmind.evidence._base import Better
from kmind.evidence.noise import clipped_mean, log_ratio, robust_scale, usable

__all__ = ["Side"]

_ERRORS = 3.0  # standard errors beyond the limit, and so many pairs: then it is worse
_PAIRS = 5
_LEAST_PAIRS = 3
_WORST = -math.log(1000)  # what a missing reading counts as, of the candidate alone


@dataclass
class Side:
    """Compares the same pairs of blocks as the experiment does, by another metric.

    ``limit`` is how many times worse it may get, above 1. ``floor`` is added to both readings, in
    the metric's unit: so that of next to nothing no multiple is taken.
    """

    name: str
    better: Better
    limit: float
    floor: float = 0.0
    differences: list[float] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if not (self.limit > 1 and math.isfinite(self.limit)) or not 0 <= self.floor < math.inf:
            raise UsageError(
                f"side {self.name}: limit {self.limit}, floor {self.floor}",
                hint="the limit is a factor above 1; the floor is at least 0",
            )
        if self.better not in ("higher", "lower"):
            raise UsageError(
                f"side {self.name}: better is {self.better!r}", hint="give higher or lower"
            )

    def learn_one(self, incumbent: float | None, candidate: float | None) -> None:
        """Take a pair of blocks.

        One that the incumbent has no reading in says nothing; one that only the candidate has
        none in counts as the worst that there is, for a guard fails closed.
        """
        if incumbent is None or not usable(incumbent):
            return
        if candidate is None or not usable(candidate):
            self.differences.append(_WORST)
            return
        ratio = log_ratio(candidate + self.floor, incumbent + self.floor)
        self.differences.append(ratio if self.better == "higher" else -ratio)

    @property
    def ratio(self) -> float:
        """The effect so far, better above 1; 1 before the first pair."""
        return math.exp(clipped_mean(self.differences)) if self.differences else 1.0

    @property
    def fine(self) -> bool:
        """True if the side metric is within its limit, with one standard error to spare."""
        return len(self.differences) >= _LEAST_PAIRS and self._margin(-1.0) >= 0

    @property
    def worse(self) -> bool:
        """True if the side metric is beyond its limit by three standard errors."""
        return len(self.differences) >= _PAIRS and self._margin(_ERRORS) < 0

    def _margin(self, errors: float) -> float:
        middle = clipped_mean(self.differences)
        scale = robust_scale([difference - middle for difference in self.differences])
        return middle + errors * scale / math.sqrt(len(self.differences) - 1) + math.log(self.limit)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain JSON, without the pairs."""
        names = ("name", "better", "limit", "floor")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Side:
        """Read what ``to_dict`` wrote."""
        return cls(**data)
