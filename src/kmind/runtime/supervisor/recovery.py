# SPDX-License-Identifier: Apache-2.0
"""Recover at the daemon's start from an earlier daemon: take over its instances, or clean up.

An instance is taken over if its state is usable, its agent's pins are there and its extension
lives: it notices nothing, and no knob is written. Of all others nothing is left: processes,
cgroups, pins and slots go, and knobs are put back.
"""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from typing import Protocol

from kmind.agent.core.core import Core
from kmind.agent.types import Mode
from kmind.driver.loop import sweep
from kmind.errors import KmindError
from kmind.events import Emit
from kmind.extension import parse_parameters
from kmind.guard import Gate, Journal, Owner, Policy
from kmind.runtime.cleanup import remove_dead_runs, restore_leftovers
from kmind.runtime.instance.agent_factory import adopt_bpf_agent, bind
from kmind.runtime.instance.class_services import check_same_class
from kmind.runtime.instance.state import InstanceState
from kmind.runtime.sandbox.cgroup.cgroup import ExtensionCgroup, list_cgroups
from kmind.runtime.sandbox.process import ExtensionProcess
from kmind.runtime.sandbox.state import ProcessState
from kmind.runtime.supervisor.instances import Instances
from kmind.runtime.supervisor.member import Member
from kmind.runtime.supervisor.operator import ADMIN
from kmind.runtime.supervisor.state_folder import StateFolder
from kmind.util.names import file_name

__all__ = ["Successor", "clear_leftovers", "open_gate", "take_over"]

_INSTANCE = re.compile(r"^[a-z][a-z0-9_]*@[^/.]+$")


class Successor(Protocol):
    """A supervisor, as far as it is needed to take over what an earlier one left."""

    core: Core
    journal: Journal
    policy: Policy
    states: StateFolder
    instances: Instances

    @property
    def emit(self) -> Emit:
        """Tells of an event."""

    def log(self, message: str) -> None:
        """Say something that concerns no instance."""


def open_gate(core: Core, *, adopt: bool) -> Gate:
    """The gate of a pinned core, an earlier one's if it is to be adopted and can be."""
    if core.root is None:
        return Gate.open(core.approved_fd)
    folder = core.root / "gate"
    if not adopt:
        Gate.discard(folder)
    try:
        return Gate.adopt(folder, core.approved_fd)
    except KmindError:
        Gate.discard(folder)
        return Gate.adopt(folder, core.approved_fd)


def take_over(supervisor: Successor) -> list[Member]:
    """The instances that go on."""
    states, _ = supervisor.states.load()
    slots = {instance.slot: instance for instance in supervisor.core.instances()}
    taken = []
    for state in states:
        try:
            if not state.running:
                raise KmindError("it was not running")
            slot = slots.get(state.slot)
            if slot is None or slot.name != file_name(state.name):
                raise KmindError(f"slot {state.slot} is not its own any more")
            taken.append(_adopt(supervisor, state, slot.class_))
        except Exception as error:  # whatever it is, the others go on
            why = str(error) if isinstance(error, KmindError) else repr(error)
            supervisor.log(f"{state.name} is not taken over: {why}")
    return taken


def _adopt(supervisor: Successor, state: InstanceState, class_: str) -> Member:
    module, target = bind(state.module, state.target)
    check_same_class(state.name, class_, module.manifest)
    params = parse_parameters(module.manifest, state.params)
    pins = supervisor.instances.place.pins(state.name)
    if pins is None:
        raise KmindError("its agent was not pinned")
    agent = adopt_bpf_agent(pins, module, core=supervisor.core, slot=state.slot)
    mode = Mode[state.mode.upper()]
    instance = supervisor.instances.instance(module, target, params, agent, state.slot, mode)
    try:
        instance.adopt(state)
    except BaseException:
        instance.stop()  # what it held is this process's by now
        raise
    models = supervisor.states.load_models(state.name)
    return Member(instance, agent, state.slot, state.module, models=models)


def clear_leftovers(supervisor: Successor) -> None:
    """Remove what is of no running instance, and put its knobs back."""
    states, bad = supervisor.states.load()
    for name, why in bad.items():
        supervisor.log(f"{name} is not taken over: {why}")
        process = supervisor.states.process(name)
        if process and process not in [state.process for state in states]:
            _end(process)
        supervisor.states.discard(name)
    for state in states:
        if state.name not in supervisor.instances.by_name:
            if state.process:
                _end(state.process)
            supervisor.states.remove(state.name)
    _remove_cgroups(supervisor)
    _remove_logs(supervisor)
    for instance in supervisor.core.instances():
        if instance.name not in (ADMIN, *_file_names(supervisor)):
            supervisor.core.unregister(instance.slot)
    _remove_pins(supervisor)
    for device in sweep():
        supervisor.log(f"{device} is freed: nobody serves it any more")
    me = Owner.me("")

    def is_abandoned(owner: Owner) -> bool:
        # After an exec this process is the owner of what it could not take over.
        return owner.same_process(me) and owner.instance not in (
            ADMIN,
            *supervisor.instances.by_name,
        )

    unrecorded = restore_leftovers(
        supervisor.journal, supervisor.policy, supervisor.emit, is_abandoned=is_abandoned
    )
    if unrecorded:
        supervisor.log(str(unrecorded))
    supervisor.journal.hurry()  # agents are served from now on


def _file_names(supervisor: Successor) -> set[str]:
    return {file_name(name) for name in supervisor.instances.by_name}


def _end(state: ProcessState) -> None:
    with suppress(KmindError):
        ExtensionProcess.adopt(state.pid, state.start, state.log).close()


def _remove_cgroups(supervisor: Successor) -> None:
    remove_dead_runs()
    names = _file_names(supervisor)
    for name in list_cgroups():
        if not name.startswith(supervisor.instances.place.cgroups):
            continue
        instance = name.removeprefix(supervisor.instances.place.cgroups)
        if _INSTANCE.match(instance) and instance not in names:
            try:
                ExtensionCgroup.adopt(name).close()
            except KmindError as error:
                supervisor.log(f"cgroup {name} is not removed: {error}")


def _remove_logs(supervisor: Successor) -> None:
    names = _file_names(supervisor)
    for path in (supervisor.instances.place.run_dir / "log").glob("*@*"):
        if path.name not in names:
            path.unlink(missing_ok=True)


def _remove_pins(supervisor: Successor) -> None:
    root = supervisor.core.root
    if root is None:
        return
    names = _file_names(supervisor)
    for folder in (root / "agents").glob("*"):
        if folder.name not in names:
            shutil.rmtree(folder, ignore_errors=True)
            (root / "instances" / folder.name).unlink(missing_ok=True)
