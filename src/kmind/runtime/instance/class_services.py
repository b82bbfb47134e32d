# SPDX-License-Identifier: Apache-2.0
"""Services of an instance that its module's class decides on: see ``kmind.classes``.

A service that a class asks for first is made here. What an extension may hand over goes by the
class too (`kmind.runtime.instance.extension.inbox`); what may be granted, by the manifest that it
allows.
"""

from __future__ import annotations

import selectors
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kmind.classes import DEVICE, EXPERIMENTS, OBJECTIVE, find_class
from kmind.errors import KmindError
from kmind.extension import Manifest, Value
from kmind.runtime.experiment.experiments import Experiments
from kmind.runtime.experiment.measure.effort import Effort
from kmind.runtime.experiment.no_experiments import NoExperiments
from kmind.runtime.holds.trial_holds import TrialHolds
from kmind.runtime.instance.device.service import DeviceService
from kmind.runtime.objective.service import ObjectiveService
from kmind.runtime.services import InstanceSpec, Services

__all__ = ["ClassServices", "check_same_class", "make_class_services", "open_device"]


@dataclass(frozen=True)
class ClassServices:
    """Services by class. ``objective`` and ``device`` are None for a class that has none."""

    objective: ObjectiveService | None
    device: DeviceService | None
    experiments: Experiments | NoExperiments


def make_class_services(
    spec: InstanceSpec,
    services: Services,
    selector: selectors.BaseSelector,
    holds: TrialHolds,
    effort: Callable[[], Effort | None],
    device: DeviceService | None,
) -> ClassServices:
    """Make those that the class of the instance's module gets; ``device`` is one that is open."""
    class_ = spec.manifest.class_
    gets = find_class(class_).services
    return ClassServices(
        objective=ObjectiveService(spec, services, selector) if OBJECTIVE in gets else None,
        device=device or _device(spec.name, spec.manifest, services),
        experiments=Experiments(spec, services, holds, effort=effort)
        if EXPERIMENTS in gets
        else NoExperiments(holds, class_),
    )


def open_device(
    name: str, manifest: Manifest, params: Mapping[str, Value], services: Services
) -> DeviceService | None:
    """Open the device of a driver, before its agent is loaded; None for other modules.

    Raises KmindError. Whoever makes no instance with it has to stop it.
    """
    device = _device(name, manifest, services)
    if device:
        device.open(params)
    return device


def _device(name: str, manifest: Manifest, services: Services) -> DeviceService | None:
    if DEVICE not in find_class(manifest.class_).services:
        return None
    log = services.logger(name)
    return DeviceService(name, manifest, folder=services.devices, log=log, now=services.now)


def check_same_class(instance: str, class_: str, now: Manifest, *, hint: str = "") -> None:
    """Refuse a module that has become one of another class: its instance has other services.

    Raises KmindError. ``class_`` is the one that the instance was loaded with.
    """
    if now.class_ != class_:
        raise KmindError(
            f"{instance} is a {class_}, and the module {now.name} is a {now.class_} now",
            hint=hint,
        )
