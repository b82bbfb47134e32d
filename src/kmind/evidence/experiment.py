# SPDX-License-Identifier: Apache-2.0
"""One experiment: which arm comes next, what the pairs say, and when to stop."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from kmind.errors import UsageError
from kmind.evidence._base import Arm, Design, Interval, Outcome
from kmind.evidence.betting import Bets
from kmind.evidence.guard import Guard
from kmind.evidence.noise import Noise, detectable_ratio, log_ratio, robust_scale, usable

__all__ = ["Experiment"]

_UNKNOWN_SIGMA = 0.1
_PRIOR = 8  # so many pairs the noise of the A/A blocks is worth, in the scale
_GAPS = 6  # so many blocks without a reading, more than the other arm or in a row, end it


class Experiment:
    """A candidate against the incumbent, in pairs of neighbouring blocks in random order.

    Ask ``arm``, measure one block under it, hand it to ``learn_one``, until ``outcome`` is
    something. Without a clock: time is counted in blocks. ``noise`` and ``guards`` are copied.
    """

    def __init__(
        self,
        design: Design,
        rng: np.random.Generator,
        noise: Noise | None = None,
        guards: Iterable[Guard] = (),
    ) -> None:
        self.design = design
        self.noise = copy.deepcopy(noise) if noise is not None else Noise()
        self.guards = [copy.deepcopy(guard) for guard in guards]
        self.blocks: list[tuple[Arm, float | None]] = []
        self.outcome: Outcome | None = None
        self.reason = ""
        self.bets = Bets()
        self._rng = rng
        self._readings: list[dict[str, float | None]] = []
        self._given = self.noise.to_dict()
        self._collapse = self._own_guard()
        wanted = design.calibration
        known = [self.noise.blocks, *(guard.blocks for guard in self.guards)]
        self.calibration = wanted if min(known) < wanted else 0
        self._order: list[Arm] = []
        self._pair: dict[Arm, float | None] = {}
        self._gaps = {"incumbent": 0, "candidate": 0}
        self._gaps_in_a_row = 0

    def _own_guard(self) -> Guard | None:
        if not self.design.collapse:
            return None
        guard = Guard("outcome", self.design.better, self.design.collapse, patience=2, at_once=True)
        for value in self._given["values"]:
            guard.learn_one(value)
        return guard

    @property
    def calibrating(self) -> bool:
        """Whether the next block is one of the first, which only learn the noise."""
        return len(self.blocks) < self.calibration

    @property
    def arm(self) -> Arm:
        """The arm that the next block is to run under."""
        if self.calibrating:
            return "incumbent"
        if not self._order:
            order: list[Arm] = ["incumbent", "candidate"]
            self._order = order if self._rng.random() < 0.5 else order[::-1]
        return self._order[0]

    @property
    def detectable(self) -> float:
        """The smallest gain that would be found in four of five, as a ratio; said beforehand."""
        return self._detectable(self.noise.sigma)

    def _detectable(self, sigma: float | None) -> float:
        if sigma is None:
            return math.inf
        pairs = (self.design.max_blocks - self.calibration) // 2
        ratio = detectable_ratio(sigma, pairs, self.design.keep_level)
        return ratio * (1 + self.design.min_gain)

    def learn_one(
        self, value: float | None, guards: Mapping[str, float | None] | None = None
    ) -> None:
        """Take one block of the arm ``arm``, and the guards' readings in it.

        None, NaN, infinite or negative: no reading, which voids the pair. Zero is a reading.
        """
        if self.outcome is not None:
            raise UsageError("the experiment is over", hint="look at its outcome")
        value = float(value) if value is not None and usable(value) else None
        arm, calibrating = self.arm, self.calibrating
        readings = dict(guards or {})
        self.blocks.append((arm, value))
        self._readings.append(readings)
        self._watch(arm, value, readings)
        if calibrating:
            self.noise.learn_one(value)
        else:
            self._order.pop(0)
            self._pair[arm] = value
            self._count_gaps(arm, value)
            if len(self._pair) == 2:
                self._close_pair()
        if self.outcome is None:
            self._decide()

    def abort(self, reason: str) -> None:
        """End it without a verdict; a no-op if it is over."""
        if self.outcome is None:
            self.outcome, self.reason = "aborted", reason

    def _watch(self, arm: Arm, value: float | None, readings: Mapping[str, float | None]) -> None:
        watched = [(guard, readings.get(guard.name)) for guard in self.guards]
        if self._collapse is not None and value is not None:
            watched.append((self._collapse, value))
        for guard, reading in watched:
            if arm == "incumbent":
                guard.learn_one(reading)
            elif broken := guard.judge(reading):
                self.abort(broken)

    def _count_gaps(self, arm: Arm, value: float | None) -> None:
        if value is not None:
            self._gaps_in_a_row = 0
            return
        self._gaps[arm] += 1
        self._gaps_in_a_row += 1
        if self._gaps_in_a_row >= _GAPS:
            self.abort(f"{self._gaps_in_a_row} blocks in a row had no reading")
        elif self._gaps["candidate"] - self._gaps["incumbent"] >= _GAPS:
            self.abort("blocks under the candidate lack readings that the incumbent's have")

    def _close_pair(self) -> None:
        incumbent, candidate = self._pair["incumbent"], self._pair["candidate"]
        self._pair = {}
        if incumbent is None or candidate is None:
            return
        ratio = log_ratio(candidate, incumbent)
        self.bets.learn_one(ratio if self.design.better == "higher" else -ratio, self._scale())

    def _scale(self) -> float:
        # Only of what was known before this pair: the bet's size must not depend on its sign.
        prior = self.noise.sigma
        prior = _UNKNOWN_SIGMA if prior is None else prior
        past = np.array(self.bets.differences)
        if not len(past):
            return prior
        now = robust_scale(list(past - np.median(past)))
        weight = len(past) / (len(past) + _PRIOR)
        return math.sqrt(weight * now**2 + (1 - weight) * prior**2)

    @property
    def pairs(self) -> int:
        """How many pairs count."""
        return len(self.bets.differences)

    @property
    def interval(self) -> Interval | None:
        """The effect so far; None before ``min_pairs`` pairs."""
        if self.pairs < self.design.min_pairs:
            return None
        low = self.bets.low(self.design.keep_level)
        high = self.bets.high(self.design.loss_level)
        middle = float(np.median(self.bets.differences))
        middle = max(middle, low) if high < low else min(max(middle, low), high)
        return Interval(
            math.exp(middle), math.exp(low), math.exp(high) if high < 50 else math.inf, self.pairs
        )

    def _decide(self) -> None:
        interval = self.interval
        if interval is not None and not self._pair:
            if interval.low > 1 + self.design.min_gain:
                self.outcome, self.reason = "gain", "the whole interval is above the bar"
            elif interval.high < 1:
                self.outcome, self.reason = "loss", "the whole interval is below 1"
            elif interval.high <= 1 + self.design.min_gain:
                self.outcome, self.reason = "no change", "the gain asked for is refuted"
        over = not self._order and len(self.blocks) + 2 > self.design.max_blocks
        if self.outcome is None and over:
            self.outcome, self.reason = "no change", "the time is over"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, for the store and the chart."""
        interval = self.interval
        detectable = self.detectable
        return {
            "design": self.design.to_dict(),
            "noise": self._given,
            "guards": [guard.to_dict() for guard in self.guards],
            "calibration": self.calibration,
            "blocks": [list(block) for block in self.blocks],
            "readings": self._readings,
            "interval": interval.to_dict() if interval else None,
            "detectable": detectable if math.isfinite(detectable) else None,
            "outcome": self.outcome,
            "reason": self.reason,
        }

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], rng: np.random.Generator | None = None
    ) -> Experiment:
        """Read what ``to_dict`` wrote, by living through its blocks once more.

        ``rng`` gives the order of the pairs that are still to come.
        """
        made = cls(
            Design.from_dict(data["design"]),
            rng if rng is not None else np.random.default_rng(),
            Noise.from_dict(data["noise"]),
            [Guard.from_dict(guard) for guard in data["guards"]],
        )
        made.calibration = int(data["calibration"])
        for (arm, value), readings in zip(data["blocks"], data["readings"], strict=True):
            if not made.calibrating and not made._order:
                other: Arm = "candidate" if arm == "incumbent" else "incumbent"
                made._order = [arm, other]
            made.learn_one(value, readings)
        if data["outcome"] == "aborted":
            made.abort(str(data["reason"]))
        return made
