# SPDX-License-Identifier: Apache-2.0
"""Requests of an admin to a supervisor: load, unload, reload, change modes, deploy models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kmind.agent.types import Mode
from kmind.errors import KmindError, UndoError
from kmind.extension import Module, Value, find_module, parse_parameters
from kmind.extension.discovery.conf import Autoload, ModuleConf
from kmind.extension.discovery.depends import load_order, target_of
from kmind.guard import Policy
from kmind.knobs import Target, parse_target
from kmind.runtime.holds.grants import grants_for
from kmind.runtime.instance import models
from kmind.runtime.instance.agent_factory import bind, upgrade_bpf_agent
from kmind.runtime.instance.class_services import check_same_class
from kmind.runtime.instance.validate import check_request, check_settable
from kmind.runtime.objective.poller import check_requester
from kmind.runtime.supervisor.devices.unwanted import Unwanted
from kmind.runtime.supervisor.instances import DEADLINE_S, Instances
from kmind.runtime.supervisor.loop import Loop
from kmind.util.words import plain_names

__all__ = ["Requests"]


class Requests:
    """Does what is asked for, with ``instances``; ``log`` is told what nobody waits for.

    ``conf`` is what the admin wants loaded and how, and ``unwanted`` what they have unloaded.
    """

    def __init__(
        self,
        instances: Instances,
        loop: Loop,
        policy: Policy,
        conf: ModuleConf,
        unwanted: Unwanted,
        *,
        log: Callable[[str], None],
    ) -> None:
        self._instances = instances
        self._members = instances.by_name
        self._loop = loop
        self._policy = policy
        self._conf = conf
        self._unwanted = unwanted
        self._log = log

    def load(
        self,
        module: str,
        target: str,
        parameters: Mapping[str, Value],
        *,
        mode: Mode | None,
        dry_run: bool = False,
        asker: int = 0,
    ) -> dict[str, Any]:
        """Make an instance, after those of the modules that it depends on.

        ``target`` may be "" for a module that works on the whole system. ``parameters`` are those
        given, as text or values. ``asker`` is the user id of whoever asked: root's command
        objectives are root's alone. Raises KmindError; then it is not there, and nothing is
        changed.
        """
        found, where = bind(module, target)
        name = f"{found.manifest.name}@{where.name}"
        if name in self._members:
            raise KmindError(f"{name} is loaded already", hint=f"kmind reload {name}")
        given, options = plain_names(parameters), self._conf.options(found.manifest.name)
        params = parse_parameters(found.manifest, given, options)
        check_requester(found.manifest, params, given, asker)
        wanted = self._conf.mode(found.manifest.name)
        mode = mode or (Mode[wanted.upper()] if wanted else Mode.ADVISE)
        check_request(found, where, params, self._policy, mode)
        before = self._depends(found, where)
        plan = {
            "name": name,
            "module": found.manifest.name,
            "target": where.name,
            "mode": mode.name.lower(),
            "params": params,
            "depends": [f"{needed}@{on}" for needed, on in before],
        }
        if dry_run:
            granted, refused = grants_for(found, where, self._policy, params)
            knobs = {g.knob.name: [g.bound.minimum, g.bound.maximum] for g in granted if g.usable}
            return plan | {"dry_run": True, "knobs": knobs, "refused": refused}
        for needed, on in before:
            self.load(needed, on, {}, mode=None)
        member = self._instances.make(module, found, where, params, mode)
        self._instances.add(member)
        try:
            member.instance.launch()
            self._instances.save(member)
            self._loop.await_ready(member)
            member.instance.begin()
        except BaseException:
            self._instances.drop(name)
            raise
        self._instances.set_process(member)
        self._instances.save(member)
        self._unwanted.discard(name)
        return plan | {"pid": member.instance.extension.current.pid, "slot": member.slot}

    def unload(self, name: str, *, force: bool = False) -> dict[str, Any]:
        """End an instance; what it had changed, and whether that is restored.

        A driver's device is not ended while it is in use: KmindError says by whom. With ``force``
        its I/O fails instead.
        """
        member = self._instances.get(name)
        for other, dependent in self._members.items():
            ours, theirs = member.instance, dependent.instance
            on = target_of(ours.module, theirs.target.name)
            if (
                ours.module.manifest.name in theirs.module.manifest.depends
                and on == ours.target.name
            ):
                raise KmindError(f"{other} depends on {name}", hint=f"first: kmind unload {other}")
        device = member.instance.device
        if device and not force:
            device.begin_close()
            self._loop.await_closed(device)
        summary = self._instances.drop(name)
        self._unwanted.add(name)
        return {"name": name, **summary}

    def reload(self, name: str) -> dict[str, Any]:
        """Upgrade the agent in place, and start the extension anew; the way out of emergency.

        Raises KmindError. Where the new agent is refused the old one goes on; where the
        new extension does not start the instance is in emergency.
        """
        member = self._instances.get(name)
        instance = member.instance
        module, _ = bind(member.module, instance.target.name)
        check_same_class(
            name,
            instance.module.manifest.class_,
            module.manifest,
            hint=f"kmind unload {name}, and load it again",
        )
        declared = {parameter.name for parameter in module.manifest.parameters}
        kept = {name: value for name, value in instance.params.items() if name in declared}
        params = parse_parameters(module.manifest, kept)
        deciding = models.active(member.agent.models)
        device = instance.device
        if device:
            device.check_replayable()
            device.reopen(params)
        try:
            upgrade_bpf_agent(
                member.agent,
                module,
                instance.target,
                params,
                deadline_s=DEADLINE_S,
                constants=device.constants if device else None,
            )
        except UndoError as error:  # nobody knows how far it works
            self._instances.fail(member, f"its agent could not be upgraded: {error}")
            raise
        lost = member.models.again(member.agent.models, deciding)
        if lost:
            self._log(f"{name} has no model now: {lost}")
        try:
            instance.relaunch(module, params)
            self._instances.save(member)
            self._loop.await_ready(member)
            instance.resume()
        except BaseException as error:
            instance.emergency(f"it could not be started again: {error}")
            raise
        finally:
            member.failed = False
            self._instances.follow(member)
            self._instances.set_process(member)
            self._instances.save(member)
        generation = member.agent.generation
        return {"name": name, "generation": generation, "pid": instance.extension.current.pid}

    def set_mode(self, name: str, mode: Mode) -> dict[str, Any]:
        """Move an instance to a mode; what that does not hold is put back."""
        member = self._instances.get(name)
        instance = member.instance
        before = instance.mode
        check_settable(instance.module, instance.target, instance.params, mode)
        instance.set_mode(mode)
        self._instances.follow(member)
        self._instances.save(member)
        return {"name": name, "mode": mode.name.lower(), "before": before.name.lower()}

    def models(self, name: str) -> list[dict[str, Any]]:
        """The models in an instance's slots; none where its module decides by none."""
        return models.show(self._instances.get(name).agent.models)

    def deploy_model(self, name: str, data: bytes) -> dict[str, Any]:
        """Have an instance decide by the model of this model file, once it has passed.

        Raises ModelError; then it decides as it did.
        """
        member = self._instances.get(name)
        part = member.instance.module.manifest.model
        wanted = (
            {parameter: member.instance.params[parameter] for parameter in part.trained_with}
            if part
            else {}
        )
        result = models.deploy(member.agent.models, member.models, data, wanted)
        self._instances.save_models(member)
        return {"name": name, **result}

    def rollback_model(self, name: str) -> dict[str, Any]:
        """Have an instance decide by its earlier model again."""
        return {"name": name, **models.roll_back(self._instances.get(name).agent.models)}

    def autoload(self, line: Autoload) -> None:
        """Load what a line of the configuration names, unless it is there or was unloaded."""
        mode = Mode[line.mode.upper()] if line.mode else None
        try:
            if self._is_settled(line.module, parse_target(line.target).name):
                return
            self.load(line.module, line.target, line.parameters, mode=mode)
        except KmindError as error:
            self._log(f"{line.at}: {line.module} is not loaded for {line.target}: {error}")

    def _is_settled(self, module: str, target: str) -> bool:
        # It is there, or the admin does not want it.
        name = f"{module}@{target}"
        return name in self._members or name in self._unwanted

    def load_alone(self, module: str, target: str) -> None:
        """Load a module for a device, unless it is there or was unloaded. Raises KmindError."""
        if not self._is_settled(module, target):
            self.load(module, target, {}, mode=None)

    def device_gone(self, device: str) -> None:
        """Unload what works on a disk that has gone."""
        for name, member in reversed(list(self._members.items())):
            target = member.instance.target
            if target.kind == "block" and target.name == device:
                self._log(f"{name} is unloaded: {device} has gone")
                self._instances.drop(name)

    def _depends(self, module: Module, target: Target) -> list[tuple[str, str]]:
        # Dependencies, by name, each with its target.
        def find(name: str) -> Module:
            return module if name == module.manifest.name else find_module(name)

        loaded = [member.instance.module for member in self._members.values()]
        order = load_order([module.manifest.name], loaded=loaded, find=find)
        own = module.manifest.name
        needed = [(m.manifest.name, target_of(m, target.name)) for m in order]
        return [(n, on) for n, on in needed if n != own and f"{n}@{on}" not in self._members]
