# SPDX-License-Identifier: Apache-2.0
"""Propose points with Optuna, within a trust region around the best one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import optuna

from .space import Codes, Dimension, Point, codes_of

__all__ = ["LEAST_RADIUS", "Sampler", "Search"]

Sampler = Literal["tpe", "cmaes", "random"]

LEAST_RADIUS = 0.06
"""A region smaller than that is not searched: everything in it is about the same."""

# Of 0.5, 0.3 and 0.2 the last one risked least and found as much on the made-up machines of
# the bench. Where more is to be had further away, gains make it grow.
_FIRST_RADIUS = 0.2
_GROWS, _SHRINKS = 1.5, 0.75
_ASKS = 24  # for a point that was not tried yet
_AT_ONCE = 2  # knobs that one step moves, where there are more
_START_UP = 4  # trials by chance before a sampler learns
_PATIENCE = 3  # points of the sampler without a gain before the region shrinks
_INFEASIBLE = -3.0  # log ratio that stands for what the agent refused

optuna.logging.set_verbosity(optuna.logging.ERROR)


class Search:
    """The search in one phase. ``radius`` is how far a step may go, in positions.

    First come single steps, each knob's alone: every choice, then as far as the region goes up
    and down. A gain on a step up or down is followed by another one the same way. Then the
    sampler proposes, which knows all results.

    A score is the logarithm of the gain over the baseline: what is good lies above 0.
    ``away`` are points that are not asked for again, and ``lost`` those that were a loss.
    """

    def __init__(self, dimensions: Sequence[Dimension], sampler: Sampler, seed: int) -> None:
        self.radius = _FIRST_RADIUS
        self.trials: list[tuple[Codes, float]] = []
        self.away: set[Codes] = set()
        self.lost: set[Codes] = set()
        self._dimensions = dimensions
        self._sampler = sampler
        self._rng = np.random.default_rng(seed)
        self._study = optuna.create_study(direction="maximize", sampler=_sampler(sampler, seed))
        # Of a single step there is no trial of the study.
        self._asked: dict[Codes, Any] = {}
        self._steps = _single_steps(dimensions)
        self._failures = 0

    def recall(self, trials: Sequence[tuple[Codes, float]], radius: float) -> None:
        """Begin with what an earlier search found."""
        self.radius = radius
        del self._steps[: len(trials)]
        for codes, score in trials:
            self._add(codes, score)

    def ask(self, centre: Codes) -> Codes | None:
        """A point near ``centre`` that was not tried yet; None where none is found.

        None either that lies beyond one that was lost: what was a loss a part of the way
        is not gone further.
        """
        while self._steps:
            codes = self._single(centre, *self._steps.pop(0))
            if self._new(codes, centre):
                self._asked[codes] = None
                return codes
        for _ in range(_ASKS):
            trial = self._study.ask(self._distributions())
            codes = codes_of(self._dimensions, self._step(trial, centre))
            if self._new(codes, centre):
                self._asked[codes] = trial
                return codes
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return None

    def _new(self, codes: Codes, centre: Codes) -> bool:
        tried = codes == centre or codes in self.away or codes in self._asked
        return not tried and not any(self._beyond(lost, centre, codes) for lost in self.lost)

    def _single(self, centre: Codes, number: int, way: int) -> Codes:
        # ``way``: of a choice its code, else 1 for up and -1 for down.
        dimension, here = self._dimensions[number], centre[number]
        if dimension.is_choice:
            there = here if way in dimension.out else way
        else:
            position = dimension.position(here)
            far = min(1.0, max(0.0, position + way))
            there = dimension.code(dimension.near(far, position, self.radius))
        return (*centre[:number], there, *centre[number + 1 :])

    def tell(self, codes: Codes, score: float) -> None:
        """Record the score of a proposed point."""
        trial = self._asked.pop(codes, None)
        if trial is None:
            self._add(codes, score)
        elif self._sampler == "cmaes":
            # It learns from its own points only: the score of where that was held to.
            self.trials.append((codes, score))
            self._study.tell(trial, score)
        else:
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
            self._add(codes, score)

    def refuse(self, codes: Codes) -> None:
        """A point cannot be: the agent, the policy or the kernel does not take it."""
        self.tell(codes, _INFEASIBLE)

    def gained(self, before: Codes, after: Codes) -> None:
        """Go further: there is more to be had this way."""
        self.radius = min(1.0, self.radius * _GROWS)
        self._failures = 0
        moved = [n for n, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
        if len(moved) == 1 and not self._dimensions[moved[0]].is_choice:
            number = moved[0]
            self._steps.insert(0, (number, 1 if after[number] > before[number] else -1))

    def missed(self) -> None:
        """No gain: look closer, once that was so for a while, single steps left out."""
        self._failures += not self._steps
        if self._failures >= _PATIENCE:
            self.shrink()

    def shrink(self) -> None:
        """Look closer."""
        self._failures = 0
        self.radius *= _SHRINKS

    @property
    def exhausted(self) -> bool:
        """True if the region has become too small to go on."""
        return self.radius < LEAST_RADIUS

    def _beyond(self, lost: Codes, centre: Codes, codes: Codes) -> bool:
        moved = False
        for dimension, was, here, there in zip(self._dimensions, lost, centre, codes, strict=True):
            if was == here:
                continue
            moved = True
            if dimension.is_choice and there != was:
                return False
            if not dimension.is_choice and not (there <= was < here or here < was <= there):
                return False
        return moved

    def _distributions(self) -> dict[str, Any]:
        return {
            d.info.name: optuna.distributions.CategoricalDistribution(range(len(d.info.choices)))
            if d.is_choice
            else optuna.distributions.FloatDistribution(0.0, 1.0)
            for d in self._dimensions
        }

    def _step(self, trial: Any, centre: Codes) -> Point:
        # One or two knobs move; the others stay where they are.
        count = len(self._dimensions)
        moving = set(range(count))
        if count > _AT_ONCE:
            size = int(self._rng.integers(1, _AT_ONCE + 1))
            moving = {int(n) for n in self._rng.choice(count, size, replace=False)}
        point = []
        for number, (dimension, code) in enumerate(zip(self._dimensions, centre, strict=True)):
            here = dimension.position(code)
            wanted = float(trial.params[dimension.info.name])
            if number not in moving or (dimension.is_choice and int(wanted) in dimension.out):
                wanted = here
            point.append(dimension.near(wanted, here, self.radius))
        return tuple(point)

    def _add(self, codes: Codes, score: float) -> None:
        self.trials.append((codes, score))
        params = {
            d.info.name: code if d.is_choice else min(1.0, max(0.0, d.position(code)))
            for d, code in zip(self._dimensions, codes, strict=True)
        }
        self._study.add_trial(
            optuna.trial.create_trial(
                params=params, distributions=self._distributions(), value=score
            )
        )


def _single_steps(dimensions: Sequence[Dimension]) -> list[tuple[int, int]]:
    choices = [
        (n, code)
        for n, d in enumerate(dimensions)
        if d.is_choice
        for code in d.codes
        if code != d.baseline
    ]
    others = [n for n, d in enumerate(dimensions) if not d.is_choice]
    return choices + [(n, way) for n in others for way in (1, -1)]


def _sampler(name: Sampler, seed: int) -> Any:
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if name == "cmaes":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return optuna.samplers.CmaEsSampler(
                seed=seed, n_startup_trials=_START_UP, warn_independent_sampling=False
            )
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=_START_UP)
