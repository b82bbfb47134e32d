# SPDX-License-Identifier: Apache-2.0
"""Judge an instance's recommendations: trials of single values, or confirmations of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kmind.agent.types import Action, Mode
from kmind.extension import Manifest
from kmind.extension import Value as Parameter
from kmind.runtime.experiment.confirm.confirm import Confirm
from kmind.runtime.experiment.measure.effort import Effort
from kmind.runtime.experiment.trial.controller import ExperimentController
from kmind.runtime.holds.grants import Granted
from kmind.runtime.holds.trial_holds import TrialHolds
from kmind.runtime.objective.sources import Heard, Objective
from kmind.runtime.service import Service
from kmind.runtime.services import InstanceSpec, Services
from kmind.util.text import clean

__all__ = ["Experiments"]

_METRIC = 200  # characters of an objective that are told and kept


class Experiments(Service):
    """`ExperimentController`, or `Confirm` where the module measures by itself."""

    def __init__(
        self,
        spec: InstanceSpec,
        services: Services,
        holds: TrialHolds,
        *,
        rng: np.random.Generator | None = None,
        effort: Callable[[], Effort | None] | None = None,
    ) -> None:
        self._controller = ExperimentController(spec, services, holds, rng=rng, effort=effort)
        self._confirm = Confirm(spec, services, holds, rng=rng, effort=effort)
        self._given = spec.manifest, spec.params

    def configure(self, manifest: Manifest, params: Mapping[str, Parameter]) -> None:
        """Use another version of the module from now on."""
        self._controller.configure(manifest, params)
        self._confirm.configure(manifest, params)
        self._given = manifest, params

    @property
    def _judge(self) -> ExperimentController | Confirm:
        return self._confirm if self._given[0].evidence.by == "module" else self._controller

    def listen(self, objective: Objective) -> Callable[[Heard], None]:
        """Return the receiver of the owner's readings of the objective.

        Its direction is the admin's setting, or else the objective's own.
        """
        manifest, params = self._given
        part = manifest.objective
        assert part is not None
        direction = str(params[part.better])
        better = direction if direction != "auto" else objective.better
        metric = clean(str(params[part.what]), _METRIC)
        return self._confirm.listen(metric, "lower" if better == "lower" else "higher")

    @property
    def due(self) -> float:
        """Time of the next turn, in the clock's seconds."""
        return self._judge.due

    @property
    def running(self) -> bool:
        """True while an experiment runs, or is about to."""
        return self._judge.running

    def run_due(self) -> None:
        """Do what is due."""
        self._judge.run_due()

    def poll(self, *, busy: bool) -> None:
        """Say whether the agent sees anything; about once a second."""
        self._judge.poll(busy=busy)

    def status(self) -> dict[str, Any]:
        """Return the experiment that runs, or null."""
        return self._judge.status()

    def approved(
        self, granted: Granted, action: Action, reason: str, evidence: Mapping[str, Any]
    ) -> None:
        """Measure, apply or refuse what was approved. JournalError passes through."""
        self._judge.approved(granted, action, reason, evidence)

    def renewed(self, granted: Granted, action: Action) -> None:
        """Hold on to what was recommended again."""
        self._judge.renewed(granted, action)

    def set_mode(self, mode: Mode) -> None:
        """Follow to another mode; what is being measured ends."""
        self._controller.set_mode(mode)
        self._confirm.set_mode(mode)

    def abort(self, why: str) -> None:
        """End the experiment that runs or waits, and put the previous value back."""
        self._judge.abort(why)

    def adopt(self) -> set[int]:
        """Changes, by the journal's number, that an earlier owner did not measure to the end."""
        return self._controller.adopt()

    def take_up(self) -> None:
        """Go on with what an earlier owner had kept and stands."""
        self._judge.take_up()
