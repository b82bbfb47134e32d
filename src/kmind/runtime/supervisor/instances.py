# SPDX-License-Identifier: Apache-2.0
"""The instances of a supervisor: made, kept on record, and ended."""

from __future__ import annotations

import selectors
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmind.agent.core.core import Core
from kmind.agent.kernel.agent import BpfAgent
from kmind.agent.types import Mode
from kmind.errors import KmindError, UsageError
from kmind.extension import Module, Value
from kmind.knobs import Knob, Target
from kmind.runtime.instance.agent_factory import make_bpf_agent
from kmind.runtime.instance.class_services import open_device
from kmind.runtime.instance.device.service import DeviceService
from kmind.runtime.instance.instance import Instance
from kmind.runtime.services import InstanceSpec, Sandbox, Services
from kmind.runtime.supervisor.member import Member
from kmind.runtime.supervisor.state_folder import StateFolder
from kmind.util.names import file_name
from kmind.util.text import error_place

__all__ = ["DEADLINE_S", "Instances", "Place"]

DEADLINE_S = 3.0
"""An extension that gives no sign of life for that long is stalled."""


@dataclass(frozen=True)
class Place:
    """Locations of instances' files, pins and cgroups.

    ``run_dir`` is for files that outlive the process; ``cgroups`` is the prefix of the extensions'
    cgroup names.
    """

    core: Core
    run_dir: Path
    cgroups: str

    def pins(self, name: str) -> Path | None:
        """Return where the agent of an instance is pinned; None for a private core."""
        return self.core.folder(name) if self.core.root else None

    def sandbox(self, name: str) -> Sandbox:
        """Return what is around an instance's extension."""
        log = str(self.run_dir / "log" / file_name(name)) if self.core.root else ""
        return Sandbox(cgroup=self.cgroups + file_name(name), log=log)


class Instances:
    """All instances of a supervisor, ``by_name``, in the order of their loading.

    ``services`` is set once all of them are made. ``selector`` waits for each instance;
    ``states`` is where their state is written down for a later process.
    """

    services: Services

    def __init__(
        self,
        place: Place,
        states: StateFolder,
        selector: selectors.BaseSelector,
        log: Callable[[str], None],
    ) -> None:
        self.by_name: dict[str, Member] = {}
        self.place = place
        self._core = place.core
        self._states = states
        self._selector = selector
        self._log = log

    def get(self, name: str) -> Member:
        """Return one. Raises UsageError for a name that there is not."""
        if name not in self.by_name:
            some = ", ".join(self.by_name) or "nothing"
            raise UsageError(f"there is no instance {name!r}", hint=f"loaded: {some}")
        return self.by_name[name]

    def all(self) -> list[Member]:
        """Return all as they are now: one may go while the others have their turns."""
        return list(self.by_name.values())

    # Making and ending

    def make(
        self,
        wanted: str,
        module: Module,
        target: Target,
        params: Mapping[str, Value],
        mode: Mode,
    ) -> Member:
        """Load the agent of a new one, which is neither started nor added.

        ``wanted`` is what ``find_module`` takes. Raises KmindError; nothing is left then.
        """
        manifest = module.manifest
        name = f"{manifest.name}@{target.name}"
        device = open_device(name, manifest, params, self.services)
        try:
            return self._make(wanted, module, target, params, mode, device)
        except BaseException:
            if device:
                device.stop("")
            raise

    def _make(
        self,
        wanted: str,
        module: Module,
        target: Target,
        params: Mapping[str, Value],
        mode: Mode,
        device: DeviceService | None,
    ) -> Member:
        manifest = module.manifest
        name = f"{manifest.name}@{target.name}"
        slot = self._core.register(file_name(name), manifest.name, manifest.class_, 0, 0)
        try:
            agent = make_bpf_agent(
                module,
                target,
                params,
                deadline_s=DEADLINE_S,
                core=self._core,
                slot=slot,
                constants=device.constants if device else None,
            )
            try:
                if pins := self.place.pins(name):
                    agent.pin(pins)
            except BaseException:
                agent.close()
                raise
        except BaseException:
            self._core.unregister(slot)
            raise
        instance = self.instance(module, target, params, agent, slot, mode, device)
        return Member(instance, agent, slot, str(module.folder) if "/" in wanted else wanted)

    def instance(
        self,
        module: Module,
        target: Target,
        params: Mapping[str, Value],
        agent: BpfAgent,
        slot: int,
        mode: Mode,
        device: DeviceService | None = None,
    ) -> Instance:
        """Return an instance that is not started yet."""
        sandbox = self.place.sandbox(f"{module.manifest.name}@{target.name}")
        spec = InstanceSpec(
            module,
            target,
            params,
            mode,
            agent,
            slot=slot,
            sandbox=sandbox,
            deadline_s=DEADLINE_S,
        )
        return Instance(spec, self.services, device)

    def add(self, member: Member) -> None:
        """Give it turns from now on."""
        instance = member.instance
        self.by_name[instance.name] = member
        self._selector.register(
            instance.fd, selectors.EVENT_READ, lambda: self.run(member, instance.run_due)
        )

    def drop(self, name: str) -> dict[str, Any]:
        """End one; what it had changed, and whether that is restored."""
        member = self.by_name.pop(name)
        self._selector.unregister(member.instance.fd)
        try:
            return member.instance.stop()
        finally:
            self._core.unregister(member.slot)
            self._states.remove(name)

    def let_go(self, name: str) -> None:
        """Leave one to a later process."""
        member = self.by_name.pop(name)
        self.save(member)
        self._selector.unregister(member.instance.fd)
        member.instance.let_go()
        member.agent.release()

    # On record

    def save(self, member: Member) -> None:
        """Write down what a later process needs to go on with it."""
        generation = member.agent.generation
        state = member.instance.record(
            module=member.module, slot=member.slot, generation=generation
        )
        try:
            if self._core.root:
                self._states.save(state)
        except KmindError as error:
            self._log(str(error))

    def save_models(self, member: Member) -> None:
        """Write down the models that it was given."""
        try:
            if self._core.root:
                self._states.save_models(member.instance.name, member.models)
        except KmindError as error:
            self._log(str(error))

    def set_process(self, member: Member) -> None:
        """Let the core object know the extension's process, for its accounts."""
        member.process = pid, uid = member.instance.extension.process
        self._core.set_process(member.slot, pid, uid)

    # Turns

    def run(self, member: Member, call: Callable[..., None], *args: Any) -> None:
        """Call for one; what goes wrong in it ends in emergency for that one."""
        try:
            call(*args)
        except Exception as error:
            self._log(f"{member.instance.name}: {error_place(error)}")
            why = f"internal error: {error!r}"
            self.safely(member.instance.name, member.instance.emergency, why)
        self.follow(member)

    def safely(self, what: str, call: Callable[..., object], *args: object) -> None:
        """Call; an error is told as a line of the log."""
        try:
            call(*args)
        except Exception as error:
            self._log(f"{what}: {error_place(error)}")

    def follow(self, member: Member) -> None:
        """Release the leases of one that has just failed, and write that down; or a new process."""
        failed = bool(member.instance.failed)
        if failed and not member.failed:
            self._core.leases.release(member.slot)
            self.set_process(member)
            self.save(member)
        elif member.process != member.instance.extension.process and not member.instance.starting:
            self.set_process(member)
            self.save(member)
        member.failed = failed

    def fail(self, member: Member, why: str) -> None:
        """End one in emergency."""
        member.instance.emergency(why)
        self.follow(member)
        self.set_process(member)
        self.save(member)

    def learn(self, knob: int, target: int, value: int) -> None:
        """Let each agent judge steps and rules by the current value, whoever set it."""
        for member in self.all():
            member.instance.holds.knobs.learn(knob, target, value)

    def give_up(self, knob: Knob, target: Target, to: str) -> None:
        """Have all put back what they hold of a knob."""
        for member in self.all():
            self.run(member, member.instance.holds.hand_over, knob.id, target.id, to)
