# SPDX-License-Identifier: Apache-2.0
"""Many instances, owned by one thread: loaded, watched, arbitrated, handed on, unloaded.

Each is on its own: what goes wrong in one ends in emergency for that one. They wait
together, in one selector, and look round on the same beat, so that idle ones cost
little. What an instance needs to go on is written down as it changes: a later process
takes over what is still running, or puts everything back (`kmind.runtime.supervisor.recovery`).

Everything but ``submit`` belongs to one thread.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from kmind.agent.core.core import Core
from kmind.agent.kernel.agent import BpfAgent
from kmind.agent.types import Mode
from kmind.errors import KmindError, UndoError, UsageError
from kmind.events import Emit, Event, Log
from kmind.extension import Module, Value, find_module, parse_parameters
from kmind.extension.conf import Autoload, ModuleConf
from kmind.extension.depends import load_order, target_of
from kmind.extension.parameters import split_word
from kmind.guard import Actuator, Gate, Journal, Policy
from kmind.knobs import Knob, Target, parse_target
from kmind.runtime.experiment.store import EvidenceStore, default_evidence_path
from kmind.runtime.findings.keeper import Findings
from kmind.runtime.findings.store import default_findings_path
from kmind.runtime.holds.grants import grants_for
from kmind.runtime.instance import models as models
from kmind.runtime.instance.agent_factory import bind, make_bpf_agent, upgrade_bpf_agent, words_of
from kmind.runtime.instance.checkpoint import default_memory_folder
from kmind.runtime.instance.instance import Instance, Sandbox
from kmind.runtime.instance.validate import check_settable, check_wishes
from kmind.runtime.objective.poller import check_asker
from kmind.runtime.supervisor.advice import AdviceStore
from kmind.runtime.supervisor.arbiter import Arbiter
from kmind.runtime.supervisor.devices.hotplug import Devices
from kmind.runtime.supervisor.devices.unwanted import Unwanted
from kmind.runtime.supervisor.event_bus import Events
from kmind.runtime.supervisor.mailbox import Calls
from kmind.runtime.supervisor.member import Member
from kmind.runtime.supervisor.operator import Admin
from kmind.runtime.supervisor.recovery import clear_leftovers, open_gate, take_over
from kmind.runtime.supervisor.snapshot import Shown
from kmind.runtime.supervisor.state_folder import StateFolder
from kmind.runtime.supervisor.turn_times import TurnTimes
from kmind.util.names import file_name
from kmind.util.text import error_place

__all__ = ["DEADLINE_S", "RUN_DIR", "Supervisor"]

RUN_DIR = Path("/run/kmind")
"""Where state and logs of what is running are kept."""

DEADLINE_S = 3.0
"""An extension that gives no sign of life for that long is stalled."""

_BEAT_S = 1.0
_WAIT_S = 0.01
# Of each round, for what others ask: what is left of it waits for the next.
_CALLS_S = 0.01

_T = TypeVar("_T")


class Supervisor:
    """All instances of a daemon.

    It closes ``core``, pinned or private, and ``journal``. ``emit`` is told each event but
    those of feature windows; ``subscribe`` brings all. ``run_dir`` is for what outlives the
    process, ``conf`` what the admin wants loaded and how. With ``take_over`` it goes on with
    what runs at its start, else it puts all back. With ``devices`` it loads modules for
    devices. ``cgroups`` stands before the names of the extensions' cgroups.
    """

    def __init__(
        self,
        *,
        core: Core,
        journal: Journal,
        policy: Policy,
        emit: Emit,
        run_dir: Path = RUN_DIR,
        conf: ModuleConf | None = None,
        take_over: bool = True,
        devices: bool = False,
        cgroups: str = "",
    ) -> None:
        self.core = core
        self.journal = journal
        self.policy = policy
        self.run_dir = run_dir
        self.cgroups = cgroups
        self.members: dict[str, Member] = {}
        self.states = StateFolder(run_dir / "state")
        self.gate = open_gate(core, adopt=take_over)
        self.admin = Admin(
            core, journal, policy, self.gate, give_up=self._give_up, stands=self._stands
        )
        advice = AdviceStore(journal.path.with_name("advice.db"), self.admin)
        self.advice = self.admin.advice = advice
        self.evidence_path = default_evidence_path(journal.path)
        self.evidence = EvidenceStore(self.evidence_path)
        self.findings = Findings(default_findings_path(journal.path), self.emit)
        self._conf = conf or ModuleConf()
        self._take_over = take_over
        self._events = Events(emit)
        self._unwanted = Unwanted(run_dir / "unloaded.json")
        self._devices: Devices | None = None
        if devices:
            self._devices = Devices(
                self._conf, load=self._load_alone, gone=self._device_gone, log=self.log
            )
        self._arbiter = Arbiter(core, self.members, self.advice, self.log)
        self.turns = TurnTimes()
        self._shown = Shown(core, self.members, self._arbiter)
        self._calls = Calls(self._changed)
        self._selector = selectors.DefaultSelector()
        self.watch(self._calls.fd, self._calls.woken)
        self.watch(core.action_fd, lambda: None)
        self.watch(self.gate.fd, self._look_at_held)
        self._beat_at = 0.0
        self._closing = False

    # For its owner

    def start(self) -> None:
        """Take over, or put back, what an earlier process left; load what is to be loaded."""
        began_ns = time.monotonic_ns()
        self.core.beat()
        if self._take_over:
            for member in take_over(self):
                self._add(member)
            self.admin.adopt()
        self.gate.release_inherited()  # what nobody here holds any more
        clear_leftovers(self)
        self._safely("evidence", self.evidence.mark_interrupted)
        for member in self.members.values():
            self._set_process(member)
        self._turn()
        self._safely("arbiter", self._arbiter.reconcile, began_ns)
        for remark in self._conf.remarks():
            self.log(remark)
        for line in self._conf.autoload:
            self._autoload(line)
        if self._devices and (fd := self._devices.start()) is not None:
            self.watch(fd, self._devices.collect)

    def step(self, timeout_s: float) -> None:
        """Do what there is to do, waiting for it at most that long."""
        self._wait(timeout_s)
        self._turn()
        self._calls.run(_CALLS_S)
        if self._devices:
            self._safely("devices", self._devices.turn)

    def submit(self, call: Callable[[], _T], *, reads: bool = False) -> Future[_T]:
        """Have a call run on the owner's thread, between two steps; thread-safe.

        ``reads`` says that it changes nothing.
        """
        return self._calls.submit(call, reads=reads)

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back from ``step`` whenever a descriptor is readable."""
        self._selector.register(fd, selectors.EVENT_READ, callback)

    def subscribe(self, callback: Emit) -> Callable[[], None]:
        """Call back with each event; returns the call that ends that."""
        return self._events.subscribe(callback)

    def close(self, *, keep: bool) -> None:
        """Put everything back; with ``keep`` agents and extensions go on instead."""
        if self._closing:
            return
        self._closing = True
        self._safely("journal", self.journal.hurry, False)
        if not keep:
            self._safely("admin", self.admin.undo_all)
        for name in reversed(list(self.members)):
            self._safely(name, self._let_go if keep else self._drop, name)
        self._calls.close()
        self._selector.close()
        if self._devices:
            self._devices.close()
        if not keep:
            self._unwanted.clear()
        for part in (self.gate, self.advice, self.evidence, self.findings, self.journal):
            part.close()
        if keep:
            self.core.close()
        else:
            if self.core.root is not None:
                Gate.discard(self.core.root / "gate")
            self.core.remove()

    # What an admin asks for

    def load(
        self,
        module: str,
        target: str,
        words: Sequence[str],
        *,
        mode: Mode | None,
        dry_run: bool = False,
        asker: int = 0,
    ) -> dict[str, Any]:
        """Make an instance, after those of the modules that it depends on.

        ``asker`` is the user id of whoever asked: root's command objectives are root's alone.
        Raises KmindError; then it is not there, and nothing is changed.
        """
        found, where = bind(module, target)
        name = f"{found.manifest.name}@{where.name}"
        if name in self.members:
            raise KmindError(f"{name} is loaded already", hint=f"kmind reload {name}")
        options = self._conf.options(found.manifest.name)
        params = parse_parameters(found.manifest, words, options)
        check_asker(found.manifest, params, [split_word(word)[0] for word in words], asker)
        wanted = self._conf.mode(found.manifest.name)
        mode = mode or (Mode[wanted.upper()] if wanted else Mode.ADVISE)
        check_wishes(found, where, params, self.policy, mode)
        before = self._depends(found, where)
        plan = {
            "name": name,
            "module": found.manifest.name,
            "target": where.name,
            "mode": mode.name.lower(),
            "params": params,
            "depends": [f"{each}@{on}" for each, on in before],
        }
        if dry_run:
            grants, refused = grants_for(found, where, self.policy, params)
            knobs = {g.knob.name: [g.bound.minimum, g.bound.maximum] for g in grants if g.usable}
            return plan | {"dry_run": True, "knobs": knobs, "refused": refused}
        for each, on in before:
            self.load(each, on, (), mode=None)
        member = self._make(module, found, where, params, mode)
        self._add(member)
        try:
            member.instance.launch()
            self._save(member)
            self._await(member)
            member.instance.begin()
        except BaseException:
            self._drop(name)
            raise
        self._set_process(member)
        self._save(member)
        self._unwanted.discard(name)
        return plan | {"pid": member.instance.extension_pid, "slot": member.slot}

    def unload(self, name: str) -> dict[str, Any]:
        """End an instance; what it had changed, and whether that is restored."""
        member = self._member(name)
        for other, each in self.members.items():
            ours, theirs = member.instance, each.instance
            on = target_of(ours.module, theirs.target.name)
            if (
                ours.module.manifest.name in theirs.module.manifest.depends
                and on == ours.target.name
            ):
                raise KmindError(f"{other} depends on {name}", hint=f"first: kmind unload {other}")
        summary = self._drop(name)
        self._unwanted.add(name)
        return {"name": name, **summary}

    def reload(self, name: str) -> dict[str, Any]:
        """Upgrade the agent in place, and start the extension anew; the way out of emergency.

        Raises KmindError. Where the new agent is refused the old one goes on; where the
        new extension does not start the instance is in emergency.
        """
        member = self._member(name)
        instance = member.instance
        module, _ = bind(member.module, instance.target.name)
        declared = {parameter.name for parameter in module.manifest.parameters}
        kept = {name: value for name, value in instance.params.items() if name in declared}
        params = parse_parameters(module.manifest, words_of(kept))
        deciding = models.active(member.agent)
        try:
            upgrade_bpf_agent(member.agent, module, instance.target, params, deadline_s=DEADLINE_S)
        except UndoError as error:  # nobody knows how far it works
            self._fail(member, f"its agent could not be upgraded: {error}")
            raise
        lost = member.models.again(member.agent, deciding)
        if lost:
            self.log(f"{name} decides by no model: {lost}")
        try:
            instance.relaunch(module, params)
            self._save(member)
            self._await(member)
            instance.resume()
        except BaseException as error:
            instance.emergency(f"it could not be started again: {error}")
            raise
        finally:
            member.failed = False
            self._after_turn(member)
            self._set_process(member)
            self._save(member)
        generation = member.agent.generation
        return {"name": name, "generation": generation, "pid": instance.extension_pid}

    def _fail(self, member: Member, why: str) -> None:
        member.instance.emergency(why)
        self._after_turn(member)

    def set_mode(self, name: str, mode: Mode) -> dict[str, Any]:
        """Move an instance to a mode; what that does not hold is put back."""
        member = self._member(name)
        instance = member.instance
        before = instance.mode
        check_settable(instance.module, instance.target, instance.params, mode)
        instance.set_mode(mode)
        self._after_turn(member)
        self._save(member)
        return {"name": name, "mode": mode.name.lower(), "before": before.name.lower()}

    def models(self, name: str) -> list[dict[str, Any]]:
        """The models in an instance's slots; none where its module decides by none."""
        return models.show(self._member(name).agent)

    def deploy_model(self, name: str, data: bytes) -> dict[str, Any]:
        """Have an instance decide by the model of this model file, once it has passed.

        Raises ModelError; then it decides as it did.
        """
        member = self._member(name)
        part = member.instance.module.manifest.model
        wanted = {each: member.instance.params[each] for each in part.trained_with} if part else {}
        result = models.deploy(member.agent, member.models, data, wanted)
        try:
            if self.core.root:
                self.states.save_models(name, member.models)
        except KmindError as error:
            self.log(str(error))
        return {"name": name, **result}

    def rollback_model(self, name: str) -> dict[str, Any]:
        """Have an instance decide by its earlier model again."""
        return {"name": name, **models.roll_back(self._member(name).agent)}

    def status(self, name: str | None = None) -> list[dict[str, Any]]:
        """All instances, as loaded, or the one of that name; one look serves all in a round."""
        wanted = [self._member(name)] if name else list(self.members.values())
        return [self._shown.row(member) for member in wanted]

    def names(self) -> list[str]:
        """The names of all instances."""
        return list(self.members)

    def leases(self) -> list[dict[str, Any]]:
        """Leases that are held: ``knob``, ``target``, ``holder``, ``priority``, ``expires_s``."""
        return self._shown.leases()

    def fill(self) -> dict[str, dict[str, int]]:
        """How full the tables are that instances share: ``used`` and ``size`` of each."""
        return self._shown.fill()

    # For its parts

    def emit(self, event: Event) -> None:
        """Tell the listener and the subscribers; take down what is advised."""
        self._events.tell(self._arbiter.note(event))

    def log(self, message: str) -> None:
        """Say something that concerns no instance."""
        self._events.tell(Log(message=message))

    def pins(self, name: str) -> Path | None:
        """Where the agent of an instance is pinned; None for a private core."""
        return self.core.folder(name) if self.core.root else None

    def make_instance(
        self,
        module: Module,
        target: Target,
        params: Mapping[str, Value],
        agent: BpfAgent,
        slot: int,
        mode: Mode,
    ) -> Instance:
        """An instance that is not started yet."""
        name = f"{module.manifest.name}@{target.name}"
        log = str(self.run_dir / "log" / file_name(name)) if self.core.root else ""
        return Instance(
            module,
            target,
            params,
            agent=agent,
            actuator=Actuator(self.journal, self.policy, gate=self.gate),
            policy=self.policy,
            mode=mode,
            emit=self.emit,
            evidence=self.evidence,
            findings=self.findings,
            memory=default_memory_folder(self.journal.path),
            sandbox=Sandbox(cgroup=self.cgroups + file_name(name), log=log),
            free=partial(self.core.free, slot),
            stands=self._stands,
            name_of=self._arbiter.name_of,
            deadline_s=DEADLINE_S,
        )

    # Inside: the members

    def _member(self, name: str) -> Member:
        if name not in self.members:
            loaded = f"loaded: {', '.join(self.members) or 'nothing'}"
            raise UsageError(f"there is no instance {name!r}", hint=loaded)
        return self.members[name]

    def _depends(self, module: Module, target: Target) -> list[tuple[str, str]]:
        # What has to be loaded before, by name, each with its target.
        def find(name: str) -> Module:
            return module if name == module.manifest.name else find_module(name)

        loaded = [each.instance.module for each in self.members.values()]
        order = load_order([module.manifest.name], loaded=loaded, find=find)
        own = module.manifest.name
        needed = [(m.manifest.name, target_of(m, target.name)) for m in order]
        return [(n, on) for n, on in needed if n != own and f"{n}@{on}" not in self.members]

    def _make(
        self,
        wanted: str,
        module: Module,
        target: Target,
        params: Mapping[str, Value],
        mode: Mode,
    ) -> Member:
        manifest = module.manifest
        name = f"{manifest.name}@{target.name}"
        slot = self.core.register(file_name(name), manifest.name, manifest.class_, 0, 0)
        try:
            agent = make_bpf_agent(
                module, target, params, deadline_s=DEADLINE_S, core=self.core, slot=slot
            )
            try:
                if pins := self.pins(name):
                    agent.pin(pins)
            except BaseException:
                agent.close()
                raise
        except BaseException:
            self.core.unregister(slot)
            raise
        instance = self.make_instance(module, target, params, agent, slot, mode)
        return Member(instance, agent, slot, str(module.folder) if "/" in wanted else wanted)

    def _autoload(self, line: Autoload) -> None:
        mode = Mode[line.mode.upper()] if line.mode else None
        try:
            if self._is_settled(line.module, parse_target(line.target).name):
                return
            self.load(line.module, line.target, line.words, mode=mode)
        except KmindError as error:
            self.log(f"{line.at}: {line.module} is not loaded for {line.target}: {error}")

    def _is_settled(self, module: str, target: str) -> bool:
        # It is there, or the admin does not want it.
        name = f"{module}@{target}"
        return name in self.members or name in self._unwanted

    def _load_alone(self, module: str, target: str) -> None:
        if not self._is_settled(module, target):
            self.load(module, target, (), mode=None)

    def _device_gone(self, device: str) -> None:
        for name, member in reversed(list(self.members.items())):
            target = member.instance.target
            if target.kind == "block" and target.name == device:
                self.log(f"{name} is unloaded: {device} has gone")
                self._drop(name)

    def _add(self, member: Member) -> None:
        instance = member.instance
        self.members[instance.name] = member
        self.watch(instance.fileno(), lambda: self._run(member, instance.turn))

    def _drop(self, name: str) -> dict[str, Any]:
        member = self.members.pop(name)
        self._selector.unregister(member.instance.fileno())
        try:
            return member.instance.stop()
        finally:
            self.core.unregister(member.slot)
            self.states.remove(name)

    def _let_go(self, name: str) -> None:
        member = self.members.pop(name)
        self._save(member)
        self._selector.unregister(member.instance.fileno())
        member.instance.let_go()
        member.agent.release()

    def _await(self, member: Member) -> None:
        # The others go on meanwhile; what else is asked for waits.
        while not member.instance.ready():
            self._wait(_WAIT_S)
            self._turn()

    def _save(self, member: Member) -> None:
        words = {"slot": member.slot, "generation": member.agent.generation}
        state = member.instance.record(module=member.module, **words)
        try:
            if self.core.root:
                self.states.save(state)
        except KmindError as error:
            self.log(str(error))

    def _set_process(self, member: Member) -> None:
        pid, uid = member.instance.process
        self.core.set_process(member.slot, pid, uid)

    # Inside: the loop

    def _changed(self) -> None:
        # Something was done that somebody had asked for.
        self._shown.forget()
        self.turns.mark()

    def _wait(self, timeout_s: float) -> None:
        if self._devices and self._devices.waiting:
            timeout_s = 0.0
        due = min([self._beat_at, *(each.instance.due for each in self.members.values())])
        self.turns.end()
        ready = self._selector.select(max(0.0, min(timeout_s, due - time.monotonic())))
        self.turns.begin()
        self._shown.forget()
        for key, _ in ready:
            key.data()

    def _turn(self) -> None:
        for name, actions in self._arbiter.take():
            self._run(self.members[name], self._arbiter.carry_out, self.members[name], actions)
        now = time.monotonic()
        if now >= self._beat_at:
            self.core.beat()
            self._safely("admin", self.admin.look)
            self._safely("findings", self.findings.look)
            self._beat_at = (now // _BEAT_S + 1) * _BEAT_S
            for member in list(self.members.values()):
                self._run(member, member.instance.compare_mode)
        for member in list(self.members.values()):
            if now >= member.instance.due:
                self._run(member, member.instance.turn)
            if member.instance.dirty:
                self._save(member)

    def _run(self, member: Member, call: Callable[..., None], *args: Any) -> None:
        # What goes wrong in one instance ends in emergency for that one.
        try:
            call(*args)
        except Exception as error:
            self.log(f"{member.instance.name}: {error_place(error)}")
            why = f"internal error: {error!r}"
            self._safely(member.instance.name, member.instance.emergency, why)
        self._after_turn(member)

    def _after_turn(self, member: Member) -> None:
        failed = bool(member.instance.failed)
        if failed and not member.failed:
            self.core.release(member.slot)
            self._set_process(member)
            self._save(member)
        member.failed = failed

    def _safely(self, what: str, call: Callable[..., object], *args: object) -> None:
        try:
            call(*args)
        except Exception as error:
            self.log(f"{what}: {error_place(error)}")

    def _look_at_held(self) -> None:
        # The gate saw somebody write to a sysctl that is held, or that was.
        self.gate.collect()
        for member in list(self.members.values()):
            self._run(member, member.instance.look)
        self._safely("admin", self.admin.look)

    def _stands(self, knob: int, target: int, value: int) -> None:
        # Each agent judges steps and rules by what stands, whoever set it.
        for member in list(self.members.values()):
            member.instance.learn(knob, target, value)

    def _give_up(self, knob: Knob, target: Target, to: str) -> None:
        for member in list(self.members.values()):
            self._run(member, member.instance.hand_over, knob.id, target.id, to)
