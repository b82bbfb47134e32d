# SPDX-License-Identifier: Apache-2.0
"""One experiment: which arm comes next, and what became of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from kmind.errors import UsageError
from kmind.evidence._base import Arm, Design, Interval, Outcome
from kmind.evidence._verdict import Judge
from kmind.evidence.guard import Guard
from kmind.evidence.noise import Noise, log_ratio, usable
from kmind.evidence.side import Side

__all__ = ["Experiment"]

_GAPS = 6  # so many blocks without a reading, in a row or more than the incumbent's, end it
_BOTH: tuple[Arm, Arm] = ("incumbent", "candidate")


class Experiment:
    """A candidate against the incumbent, in pairs of neighbouring blocks in random order.

    Ask ``arm``, measure one block under it, hand it to ``learn_one``, until ``outcome`` is
    something; ``reason`` is then one sentence, and ``broken`` says that it speaks against the
    candidate without a verdict: a guard ended it, or blocks that only the candidate had no reading
    in, or the caller stops it. Without a clock: time is counted in blocks.
    ``noise`` (A/A blocks), ``guards`` and ``sides`` are copied. ``blocks`` is what was measured:
    arm and value, None for no reading. ``calibration`` of them, the first, are A/A. ``effort`` is
    kept with it: what the one that proposed the candidate used meanwhile, by arm, if known.
    """

    def __init__(
        self,
        design: Design,
        rng: np.random.Generator,
        noise: Noise | None = None,
        guards: Iterable[Guard] = (),
        sides: Iterable[Side] = (),
    ) -> None:
        self.design = design
        self.noise = copy.deepcopy(noise) if noise is not None else Noise()
        self.guards = [copy.deepcopy(guard) for guard in guards]
        self.sides = [copy.deepcopy(side) for side in sides]
        self.blocks: list[tuple[Arm, float | None]] = []
        self.outcome: Outcome | None = None
        self.reason = ""
        self.broken = False
        self.effort: dict[str, Any] | None = None
        self._void = False
        self._given = self.noise.to_dict()
        self._rng = rng
        self._collapse: Guard | None = None
        if design.collapse:
            self._collapse = Guard("outcome", design.better, design.collapse, at_once=True)
            for value in self._given["values"]:
                self._collapse.learn_one(value)
        known = min([self.noise.blocks, *(guard.blocks for guard in self.guards)])
        self.calibration = max(0, design.calibration - known)
        self._readings: list[dict[str, float | None]] = []
        self._order: list[Arm] = []
        self._pair: dict[Arm, float | None] = {}
        self._beside: dict[Arm, dict[str, float | None]] = {}
        self._gaps = dict.fromkeys(_BOTH, 0)
        self._gaps_in_a_row = 0
        self._judge = Judge(design, self.noise.sigma)

    @property
    def calibrating(self) -> bool:
        """True if the next block is one of the first, which only measure the noise."""
        return len(self.blocks) < self.calibration

    @property
    def arm(self) -> Arm:
        """The arm that the next block is to run under: a coin decides within each pair."""
        if self.calibrating:
            return "incumbent"
        if not self._order:
            self._order = list(_BOTH if self._rng.random() < 0.5 else _BOTH[::-1])
        return self._order[0]

    @property
    def detectable(self) -> float:
        """The smallest gain that would be found in four of five, as a ratio.

        From A/A blocks alone, so it can be said beforehand; infinity while there are too few.
        """
        pairs = (self.design.max_blocks - self.calibration) // 2
        return self.noise.detectable(self.design, max_pairs=pairs)

    def collapsed(self, value: float | None) -> bool:
        """True if a block is ``collapse`` times worse than the incumbent's level, or zero.

        Was that the arm, or the load itself? A block of the incumbent, right after it, can tell.
        """
        if not value or self._collapse is None or not self._collapse.blocks:
            return value == 0
        return self._collapse.is_bad(value)

    @property
    def pairs(self) -> int:
        """Number of usable pairs."""
        return self._judge.pairs

    @property
    def interval(self) -> Interval | None:
        """The effect so far; None before ``min_pairs`` pairs."""
        return self._judge.interval() if self.pairs >= self.design.min_pairs else None

    def intervals(self, at_most: int) -> list[Interval]:
        """The interval as it stood after some of the pairs, evenly chosen, the last among them."""
        after = range(self.design.min_pairs, self.pairs + 1)
        chosen = np.unique(np.linspace(0, len(after) - 1, min(at_most, len(after))).round())
        return [self._judge.interval(after[int(index)]) for index in chosen]

    def learn_one(
        self, value: float | None, guards: Mapping[str, float | None] | None = None
    ) -> None:
        """Take one block of the arm ``arm``, and what guards and sides read in it.

        None, NaN, infinite or negative: no reading, which voids the pair. Zero is a reading.
        Raises UsageError if the experiment is over.
        """
        if self.outcome is not None:
            raise UsageError("the experiment is over", hint="look at its outcome")
        self._take(value, guards or {})
        self._decide()

    def _decide(self) -> None:
        between = not self.calibrating and not self._pair
        if self.outcome is not None or not between:
            return
        left = (self.design.max_blocks - len(self.blocks)) // 2
        verdict = self._judge.decide(left)
        unsure = next((side for side in self.sides if not side.fine), None)
        if worse := next((side for side in self.sides if side.worse), None):
            self._break(f"guard {worse.name}: effect x{worse.ratio:.3f}{_bound(worse)}")
        elif verdict is not None and verdict[0] == "gain" and unsure is not None:
            # A gain, but at whose cost? More pairs will tell, if there are any.
            if left <= 0:
                self.outcome = "no change"
                self.reason = f"guard {unsure.name} was not seen to hold{_bound(unsure)}"
        elif verdict is not None:
            self.outcome, self.reason = verdict

    def abort(self, reason: str) -> None:
        """End it without a verdict; nothing happens if it is over."""
        if self.outcome is None:
            self.outcome, self.reason = "aborted", reason

    def void(self, reason: str, *, broken: bool = False) -> None:
        """Take its verdict back: what was measured does not bear it. It is not gone on with.

        ``broken``: it speaks against the candidate, as a guard does.
        """
        self.outcome, self.reason, self._void = "aborted", reason, True
        self.broken = self.broken or broken

    def _break(self, reason: str) -> None:
        if self.outcome is None:
            self.broken = True
            self.abort(reason)

    def _take(self, value: float | None, readings: Mapping[str, float | None]) -> None:
        value = float(value) if value is not None and usable(value) else None
        arm, calibrating = self.arm, self.calibrating
        self.blocks.append((arm, value))
        names = [guard.name for guard in self.guards] + [side.name for side in self.sides]
        self._readings.append({name: _plain(readings.get(name)) for name in names})
        self._watch(arm, value)
        self._count_gaps(arm, value, calibrating)
        if calibrating:
            self.noise.learn_one(value)
            if not self.calibrating:
                self._judge = Judge(self.design, self.noise.sigma)
            return
        self._order.pop(0)
        self._pair[arm], self._beside[arm] = value, self._readings[-1]
        if len(self._pair) == len(_BOTH):
            self._close_pair()

    def _watch(self, arm: Arm, value: float | None) -> None:
        watched = [(guard, self._readings[-1][guard.name]) for guard in self.guards]
        if self._collapse is not None and value is not None:
            watched.append((self._collapse, value))
        for guard, reading in watched:
            if arm == "incumbent":
                guard.learn_one(reading)
            elif broken := guard.judge(reading):
                self._break(broken)

    def _count_gaps(self, arm: Arm, value: float | None, calibrating: bool) -> None:
        if value is not None:
            self._gaps_in_a_row = 0
            return
        self._gaps[arm] += not calibrating
        self._gaps_in_a_row += 1
        if self._gaps_in_a_row >= _GAPS:
            self.abort(f"{self._gaps_in_a_row} blocks in a row had no reading")
        elif self._gaps["candidate"] - self._gaps["incumbent"] >= _GAPS:
            self._break("blocks under the candidate lack readings that the incumbent's have")

    def _close_pair(self) -> None:
        incumbent, candidate = self._pair["incumbent"], self._pair["candidate"]
        self._pair = {}
        if incumbent is not None and candidate is not None:
            ratio = log_ratio(candidate, incumbent)
            self._judge.learn_one(ratio if self.design.better == "higher" else -ratio)
            for side in self.sides:
                side.learn_one(*(self._beside[arm].get(side.name) for arm in _BOTH))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, for the store and the chart; unbounded numbers are null."""
        interval, detectable = self.interval, self.detectable
        return {
            "design": self.design.to_dict(),
            "noise": self._given,
            "guards": [guard.to_dict() for guard in self.guards],
            "sides": [side.to_dict() for side in self.sides],
            "calibration": self.calibration,
            "blocks": [list(block) for block in self.blocks],
            "readings": self._readings,
            "interval": interval.to_dict() if interval else None,
            "detectable": detectable if math.isfinite(detectable) else None,
            "outcome": self.outcome,
            "reason": self.reason,
            "broken": self.broken or self._void,
            "effort": self.effort,
        }

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], rng: np.random.Generator | None = None
    ) -> Experiment:
        """Read what ``to_dict`` wrote; the outcome is the stored one.

        ``rng`` gives the order of pairs that are still to come, a fresh one if it is None.
        """
        experiment = cls._replayed(data, rng)
        experiment.outcome, experiment.reason = data["outcome"], data["reason"]
        experiment.broken = bool(data.get("broken", False))
        experiment.effort = data.get("effort")
        return experiment

    @classmethod
    def judged(cls, data: Mapping[str, Any]) -> Experiment:
        """Read what ``to_dict`` wrote, and come to the verdict again: for what may be a lie.

        Outcome, interval and reason are what the blocks come to; only that it was ended from
        outside, and why, is believed. ValueError where they do not come to the stored outcome,
        go on after their end, or are in an order that no experiment has.
        """
        experiment = cls._replayed(data, None, judge=True)
        if [list(block) for block in experiment.blocks] != [
            list(block) for block in data["blocks"]
        ]:
            raise ValueError("its blocks are in no order")
        if experiment.outcome is None and data["outcome"] == "aborted":
            experiment.abort(data["reason"])
        if experiment.outcome != data["outcome"]:
            outcome = experiment.outcome or "no verdict"
            raise ValueError(f"it says {data['outcome']}, and its blocks say {outcome}")
        return experiment

    @classmethod
    def go_on(
        cls,
        data: Mapping[str, Any],
        rng: np.random.Generator,
        guards: Iterable[Guard] = (),
    ) -> Experiment | None:
        """Go on with what was ended from outside, as its ``to_dict`` left it; None if it was not.

        Neither with one that has a verdict, that was broken, or that has no block yet. The
        interval is valid at any pair where one stops, and so at any where one goes on. A block
        whose partner was not measured does not count. Levels of ``guards`` that know too few
        blocks are learnt from the blocks of then.
        """
        if data["outcome"] != "aborted" or data.get("broken", True):
            return None
        experiment = cls._replayed({**data, "guards": []}, rng)
        if not experiment.blocks:
            return None
        experiment.outcome, experiment.reason = None, ""  # a load that paused
        experiment._readings = list(data["readings"])
        if experiment._pair:
            experiment.blocks.pop()
            experiment._readings.pop()
        experiment._order, experiment._pair, experiment._beside = [], {}, {}
        experiment._gaps, experiment._gaps_in_a_row = dict.fromkeys(_BOTH, 0), 0
        experiment.guards = [copy.deepcopy(guard) for guard in guards]
        for guard in experiment.guards:
            if guard.blocks >= experiment.design.calibration:
                continue
            for (arm, _), readings in zip(experiment.blocks, experiment._readings, strict=True):
                if arm == "incumbent":
                    guard.learn_one(readings.get(guard.name))
        return experiment

    @classmethod
    def _replayed(
        cls, data: Mapping[str, Any], rng: np.random.Generator | None, *, judge: bool = False
    ) -> Experiment:
        experiment = cls(
            Design.from_dict(data["design"]),
            rng if rng is not None else np.random.default_rng(),
            Noise.from_dict(data["noise"]),
            [Guard.from_dict(guard) for guard in data["guards"]],
            [Side.from_dict(side) for side in data.get("sides", ())],
        )
        experiment.calibration = int(data["calibration"])
        for (arm, value), readings in zip(data["blocks"], data["readings"], strict=True):
            if judge and experiment.outcome is not None:
                raise ValueError("it has blocks after its end")
            if not experiment.calibrating and not experiment._order:
                experiment._order = list(_BOTH if arm == "incumbent" else _BOTH[::-1])
            experiment._take(value, readings)
            if judge:
                experiment._decide()
        return experiment


def _bound(side: Side) -> str:
    return f", and {1 / side.limit:.3f} is the least that is allowed"


def _plain(value: float | None) -> float | None:
    return float(value) if value is not None and usable(value) else None
