# SPDX-License-Identifier: Apache-2.0
"""Making the experiment by which a case is decided: a new one, or one that was cut off goes on."""

from __future__ import annotations

import numpy as np

from kmind.evidence import Experiment
from kmind.extension.manifest.outcome import EvidencePart
from kmind.runtime.experiment.case import Case
from kmind.runtime.experiment.designs import trial_design
from kmind.runtime.experiment.measure.aa_noise import AaNoise
from kmind.runtime.experiment.trial.recall import Recall
from kmind.runtime.experiment.trial.recheck import RecheckClock

__all__ = ["ExperimentFactory"]


class ExperimentFactory:
    """Makes experiments by the module's plan, and by the noise that was seen."""

    def __init__(
        self, plan: EvidencePart, noise: AaNoise, recall: Recall, rng: np.random.Generator
    ) -> None:
        self._plan = plan
        self._noise = noise
        self._recall = recall
        self._rng = rng

    def first(self, case: Case) -> tuple[Experiment, float] | None:
        """An experiment on a value that does not stand yet, and the error that it drew.

        One that goes on draws none. None if nothing is left of the day's budget.
        """
        guards = self._noise.guards()
        design = trial_design(case, self._plan)
        experiment = self._recall.cut_short(case, design, self._rng, guards)
        if experiment is not None:
            return experiment, 0.0
        level = self._recall.draw(case.granted)
        if not level:
            return None
        design = trial_design(case, self._plan, level)
        noise = self._noise.noise(case.outcome.name)
        return Experiment(design, self._rng, noise, guards, case.sides), level

    def again(self, case: Case, clock: RecheckClock | None) -> Experiment:
        """An experiment on a value that stands."""
        design = trial_design(case, self._plan)
        experiment = clock.go_on(case, design, self._rng) if clock else None
        if experiment is not None:
            return experiment
        noise, guards = self._noise.noise(case.outcome.name), self._noise.guards()
        return Experiment(design, self._rng, noise, guards, case.sides)
