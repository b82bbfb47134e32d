# SPDX-License-Identifier: Apache-2.0
"""A guard: a metric that must not get much worse, whatever the outcome gains."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kmind.errors import UsageError
from kmind.evidence._base import Better
from kmind.evidence.noise import usable

__all__ = ["Guard"]

_KEPT = 64


@dataclass
class Guard:
    """One metric, judged block by block against its level under the incumbent.

    A block under the candidate is bad if it is ``limit`` times worse than that level (the
    median of incumbent blocks, or the latest of them where that is worse: the load may have
    changed) and ``slack`` worse in its unit, or if it has no reading: a guard fails closed.
    So many bad ones in a row as ``patience`` break it. With ``at_once`` the first of them
    breaks it, until the candidate has had ``patience`` good ones, unless the incumbent had
    such blocks too.
    """

    name: str
    better: Better
    limit: float
    patience: int = 2
    slack: float = 0.0
    at_once: bool = False
    _levels: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT), repr=False)
    _bad: int = field(default=0, repr=False)
    _good: int = field(default=0, repr=False)

    def __post_init__(self) -> None:
        if not (self.limit > 1 and math.isfinite(self.limit)) or self.patience < 1:
            raise UsageError(
                f"guard {self.name}: limit {self.limit}, patience {self.patience}",
                hint="the limit is a factor above 1; the patience is at least 1",
            )
        if self.better not in ("higher", "lower"):
            raise UsageError(
                f"guard {self.name}: better is {self.better!r}", hint="give higher or lower"
            )

    def learn_one(self, value: float | None) -> None:
        """Take one block under the incumbent; what cannot be used is left out."""
        if value is not None and usable(value):
            self._levels.append(value)

    @property
    def blocks(self) -> int:
        """Number of incumbent blocks that the level is computed from."""
        return len(self._levels)

    @property
    def level(self) -> float | None:
        """The median under the incumbent, or None before the first block."""
        return float(np.median(self._levels)) if self._levels else None

    def is_bad(self, value: float | None) -> bool:
        """True if one block under the candidate is beyond the limit."""
        level = self.level
        if level is None or value is None or not usable(value):
            return True
        return self._beyond(value, level) and self._beyond(value, self._levels[-1])

    def _beyond(self, value: float, level: float) -> bool:
        if self.better == "lower":
            return value > level * self.limit and value > level + self.slack
        return value < level / self.limit and value < level - self.slack

    def _untried(self) -> bool:
        # Nor has the incumbent ever been as bad by itself.
        level = self.level
        beyond = level is not None and any(self._beyond(value, level) for value in self._levels)
        return self._good < self.patience and not beyond

    def judge(self, value: float | None) -> str:
        """Take one block under the candidate; a sentence if the guard is broken, else ""."""
        if not self.is_bad(value):
            self._bad = 0
            self._good += 1
            return ""
        self._bad += 1
        patience = 1 if self.at_once and self._untried() else self.patience
        if self._bad < patience:
            return ""
        if self.level is None:
            return f"guard {self.name} has no level under the incumbent"
        if value is None or not usable(value):
            return f"guard {self.name} had no reading for {self._bad} blocks"
        return (
            f"guard {self.name}: {value:.4g} under the candidate, {self.level:.4g} under the "
            f"incumbent, more than {self.limit:g} times worse"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain JSON, without the levels."""
        names = ("name", "better", "limit", "patience", "slack", "at_once")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Guard:
        """Read what ``to_dict`` wrote."""
        return cls(**data)
