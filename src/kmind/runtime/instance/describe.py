# SPDX-License-Identifier: Apache-2.0
"""An instance in words and records: its status, the state for a later owner, its start."""

from __future__ import annotations

from typing import Any, Protocol

from kmind.agent.types import Mode
from kmind.events import Start
from kmind.extension import Module, Value
from kmind.knobs import Target
from kmind.runtime.holds.trial_holds import TrialHolds
from kmind.runtime.instance.device.service import DeviceService
from kmind.runtime.instance.extension.service import ExtensionService
from kmind.runtime.instance.state import InstanceState
from kmind.runtime.instance.telemetry import Telemetry, View
from kmind.runtime.instance.verdicts import Verdicts
from kmind.runtime.service import Service
from kmind.runtime.services import InstanceSpec

__all__ = ["Described", "describe", "start_event", "state_of"]


class Described(Protocol):
    """Part of an instance that is described: see `kmind.runtime.instance.instance`."""

    spec: InstanceSpec
    name: str
    module: Module
    target: Target
    params: dict[str, Value]
    mode: Mode
    failed: str
    starting: bool
    started: float
    view: View
    services: tuple[Service, ...]
    extension: ExtensionService
    device: DeviceService | None
    holds: TrialHolds
    telemetry: Telemetry
    verdicts: Verdicts

    def account(self) -> dict[str, int]:
        """Return its counters."""


def describe(instance: Described) -> dict[str, Any]:
    """Return what an admin may want to know of it; JSON can hold it."""
    manifest = instance.module.manifest
    agent = instance.spec.agent
    known: dict[str, Any] = {
        "name": instance.name,
        "module": manifest.name,
        "version": manifest.version,
        "class": manifest.class_,
        "target": instance.target.name,
        "mode": "emergency" if instance.failed else instance.mode.name.lower(),
        "state": "failed" if instance.failed else "starting" if instance.starting else "running",
        "failed": instance.failed,
        "started": instance.started,
        "params": instance.params,
        "hooks": dict(agent.hooks.attached()),
        "missing": dict(agent.hooks.missing()),
        "account": instance.account(),
        "features": dict(instance.view.features),
        "status": dict(instance.view.status),
    }
    for service in instance.services:
        known |= service.status()
    return known


def state_of(instance: Described, *, module: str, slot: int, generation: int) -> InstanceState:
    """Return what ``Instance.adopt`` takes."""
    return InstanceState(
        name=instance.name,
        module=module,
        target=instance.target.name,
        params=instance.params,
        mode=instance.mode.name.lower(),  # type: ignore[arg-type]
        slot=slot,
        generation=generation,
        started=instance.started,
        process=instance.extension.state(),
        device=instance.device.state() if instance.device else None,
        holds=instance.holds.holds(),
        yielded=instance.holds.knobs.yielded,
        windows=instance.telemetry.told,
        last_id=instance.verdicts.last_id,
        running=not (instance.starting or instance.failed),
    )


def start_event(instance: Described, how: str) -> Start:
    """Return the event of its start; ``how`` as the event has it."""
    extension, agent = instance.extension.current, instance.spec.agent
    return Start(
        instance=instance.name,
        how=how,
        module=instance.module.manifest.name,
        target=instance.target.name,
        backend=agent.backend,
        mode=instance.mode.name.lower(),
        params=instance.params,
        knobs={
            granted.knob.name: granted.info().baseline for granted in instance.holds.knobs.usable()
        },
        extension={"pid": extension.pid, "uid": extension.uid},
        hooks=dict(agent.hooks.attached()),
        missing=dict(agent.hooks.missing()),
    )
