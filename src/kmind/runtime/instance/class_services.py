# SPDX-License-Identifier: Apache-2.0
"""Services of an instance that its module's class decides on: see ``kmind.classes``.

A service that a class asks for first is made here. What an extension may hand over goes by the
class too (`kmind.runtime.instance.extension.inbox`); what may be granted, by the manifest that it
allows.
"""

from __future__ import annotations

import selectors
from collections.abc import Callable
from dataclasses import dataclass

from kmind.classes import EXPERIMENTS, OBJECTIVE, find_class
from kmind.errors import KmindError
from kmind.extension import Manifest
from kmind.runtime.experiment.experiments import Experiments
from kmind.runtime.experiment.measure.effort import Effort
from kmind.runtime.experiment.no_experiments import NoExperiments
from kmind.runtime.holds.trial_holds import TrialHolds
from kmind.runtime.objective.service import ObjectiveService
from kmind.runtime.services import InstanceSpec, Services

__all__ = ["ClassServices", "check_same_class", "make_class_services"]


@dataclass(frozen=True)
class ClassServices:
    """Services by class. ``objective`` is None for a class that has none."""

    objective: ObjectiveService | None
    experiments: Experiments | NoExperiments


def make_class_services(
    spec: InstanceSpec,
    services: Services,
    selector: selectors.BaseSelector,
    holds: TrialHolds,
    effort: Callable[[], Effort | None],
) -> ClassServices:
    """Make those that the class of the instance's module gets."""
    class_ = spec.manifest.class_
    gets = find_class(class_).services
    return ClassServices(
        objective=ObjectiveService(spec, services, selector) if OBJECTIVE in gets else None,
        experiments=Experiments(spec, services, holds, effort=effort)
        if EXPERIMENTS in gets
        else NoExperiments(holds, class_),
    )


def check_same_class(instance: str, class_: str, now: Manifest, *, hint: str = "") -> None:
    """Refuse a module that has become one of another class: its instance has other services.

    Raises KmindError. ``class_`` is the one that the instance was loaded with.
    """
    if now.class_ != class_:
        raise KmindError(
            f"{instance} is a {class_}, and the module {now.name} is a {now.class_} now",
            hint=hint,
        )
