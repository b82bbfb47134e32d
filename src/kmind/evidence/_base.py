# SPDX-License-Identifier: Apache-2.0
"""The words of an experiment: what is planned, what comes out, and an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from kmind.errors import UsageError

__all__ = ["Arm", "Better", "Design", "Interval", "Outcome"]

Arm = Literal["incumbent", "candidate"]
"""The current value, or the one on trial."""

Better = Literal["higher", "lower"]
"""Direction in which a metric improves."""

Outcome = Literal["gain", "loss", "no change", "aborted"]
"""Result of an experiment. Only a gain is kept."""


@dataclass(frozen=True)
class Design:
    """Plan of an experiment, fixed before the first block. Wrong numbers raise UsageError.

    A block is measured for ``block_s`` seconds, after ``wash_out_s`` seconds that are not measured;
    ``max_s`` bounds the experiment, calibration included. ``alpha`` is the error probability of the
    interval, valid at any time of looking; ``keep_share`` of it is spent on the lower bound, which
    decides about a gain. ``min_gain`` is the gain that the lower bound must exceed. The first
    ``calibration`` blocks run under the incumbent, if its noise or the level of a guard is not
    known yet. A candidate that is ``collapse`` times worse than the incumbent's level is dropped at
    once (0: never).

    ``screen_pairs`` is for callers with many candidates and little time (0: never): when there are
    so many pairs, and at each doubling, the effect so far has to be above 1 + ``min_gain``, or the
    experiment ends without a change; from twice as many pairs on it may be given up. That costs
    true gains, most of all where they are no larger than the noise. It cannot raise the rate of
    false gains, since it only ends experiments that have shown no gain yet.
    """

    block_s: float = 0.3
    wash_out_s: float = 0.1
    alpha: float = 0.05
    min_gain: float = 0.0
    max_s: float = 60.0
    min_pairs: int = 3
    better: Better = "higher"
    calibration: int = 8
    collapse: float = 3.0
    keep_share: float = 0.8
    screen_pairs: int = 0

    def __post_init__(self) -> None:
        for name in ("block_s", "wash_out_s", "max_s", "min_gain", "collapse"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"design: {name} is {value}", hint="give a number from 0 up")
        for name in ("alpha", "keep_share"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(
                    f"design: {name} is {getattr(self, name)}", hint="give a share between 0 and 1"
                )
        if self.better not in ("higher", "lower"):
            raise UsageError(f"design: better is {self.better!r}", hint="give higher or lower")
        if self.block_s == 0 or self.min_pairs < 1 or self.calibration < 1:
            raise UsageError(
                "design: no block, no pair, or no calibration",
                hint="block_s above 0, min_pairs from 1, calibration from 1",
            )
        if self.screen_pairs < 0:
            raise UsageError(
                f"design: screen_pairs is {self.screen_pairs}", hint="give 0 for never, or more"
            )
        if 0 < self.collapse <= 1:
            raise UsageError(
                f"design: collapse is {self.collapse}", hint="a ratio above 1, or 0 for never"
            )
        if self.max_blocks < 2:
            raise UsageError(
                f"design: no pair of blocks fits into {self.max_s} s",
                hint=f"a pair takes {2 * self.period_s:g} s",
            )

    @property
    def period_s(self) -> float:
        """Duration of one block with its wash-out, in seconds."""
        return self.block_s + self.wash_out_s

    @property
    def max_blocks(self) -> int:
        """Number of blocks that fit into ``max_s``."""
        return int(self.max_s / self.period_s + 1e-9)

    @property
    def keep_level(self) -> float:
        """The error that the interval's low end may make."""
        return self.alpha * self.keep_share

    @property
    def loss_level(self) -> float:
        """The error that the interval's high end may make."""
        return self.alpha - self.keep_level

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Design:
        """Read what ``to_dict`` wrote; what is not known is left out."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in data.items() if name in known})


@dataclass(frozen=True)
class Interval:
    """The effect, candidate to incumbent, as a ratio that is better above 1.

    ``low`` and ``high`` hold the true ratio with probability 1 - alpha, at all moments at
    once; an end that the pairs say nothing about yet is 0 or infinity. ``better`` of the
    design is taken care of: half the latency is a ratio of 2.
    """

    ratio: float
    low: float
    high: float
    pairs: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON: an unbounded high end is null."""
        return asdict(self) | {"high": self.high if math.isfinite(self.high) else None}
