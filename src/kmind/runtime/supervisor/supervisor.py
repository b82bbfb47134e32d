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
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from kmind.agent.core.core import Core
from kmind.events import Emit, Event, Log
from kmind.extension.discovery.conf import ModuleConf
from kmind.guard import Gate, Journal, Policy
from kmind.paths import RUN, advice_path, evidence_path, findings_path, memory_folder
from kmind.runtime.evidence_store import EvidenceStore
from kmind.runtime.findings.keeper import Findings
from kmind.runtime.services import Services
from kmind.runtime.supervisor.advice import AdviceStore
from kmind.runtime.supervisor.arbiter import Arbiter
from kmind.runtime.supervisor.devices.hotplug import Hotplug
from kmind.runtime.supervisor.devices.unwanted import Unwanted
from kmind.runtime.supervisor.event_bus import EventBus
from kmind.runtime.supervisor.instances import Instances, Place
from kmind.runtime.supervisor.loop import Loop
from kmind.runtime.supervisor.mailbox import Mailbox
from kmind.runtime.supervisor.operator import Operator
from kmind.runtime.supervisor.recovery import clear_leftovers, open_gate, take_over
from kmind.runtime.supervisor.requests import Requests
from kmind.runtime.supervisor.snapshot import Snapshot
from kmind.runtime.supervisor.state_folder import StateFolder
from kmind.runtime.supervisor.turn_times import TurnTimes

__all__ = ["Options", "Supervisor"]

"""Folder of the state and logs of running instances."""

# Of each round, for what others ask: what is left of it waits for the next.
_CALLS_S = 0.01

_T = TypeVar("_T")


@dataclass(frozen=True)
class Options:
    """Options of a supervisor.

    ``run_dir`` is for files that outlive the process, ``conf`` the admin's configuration of
    modules. With ``take_over`` it continues with the instances that run at its start, else it puts
    all back. With ``devices`` it loads modules for devices. ``cgroups`` is the prefix of the
    extensions' cgroup names.
    """

    run_dir: Path = RUN
    conf: ModuleConf = field(default_factory=ModuleConf)
    take_over: bool = True
    devices: bool = False
    cgroups: str = ""


class Supervisor:
    """All instances of a daemon.

    ``requests`` is what an admin can ask for. It closes ``core``, pinned or private, and
    ``journal``. ``emit`` is told each event but those of feature windows; ``subscribe`` brings all.
    """

    def __init__(
        self,
        core: Core,
        journal: Journal,
        policy: Policy,
        emit: Emit,
        options: Options | None = None,
    ) -> None:
        self.core = core
        self.journal = journal
        self.policy = policy
        self.options = options = options or Options()
        self._events = EventBus(emit)
        self._selector = selectors.DefaultSelector()
        self.states = StateFolder(options.run_dir / "state")
        place = Place(core, options.run_dir, options.cgroups)
        self.instances = Instances(place, self.states, self._selector, self.log)
        self.members = self.instances.by_name
        self.gate = open_gate(core, adopt=options.take_over)
        give_up, announce = self.instances.give_up, self.instances.learn
        self.admin = Operator(core, journal, policy, self.gate, give_up=give_up, announce=announce)
        advice = advice_path(journal.path)
        self.advice = self.admin.advice = AdviceStore(advice, self.admin)
        self.evidence_path = evidence_path(journal.path)
        self.evidence = EvidenceStore(self.evidence_path)
        self.findings = Findings(findings_path(journal.path), self.emit)
        self._arbiter = Arbiter(core, self.members, self.advice, self.log)
        self._shown = Snapshot(core, self.members, self._arbiter)
        self.instances.services = Services(
            journal,
            policy,
            self.emit,
            evidence=self.evidence,
            findings=self.findings,
            memory=memory_folder(journal.path),
            devices=options.run_dir / "devices",
            core=core,
            gate=self.gate,
            announce=announce,
            name_of=self._arbiter.name_of,
        )
        self._make_loop()
        self._closing = False

    def _make_loop(self) -> None:
        options = self.options
        self._loop = loop = Loop(
            self._selector,
            self.core,
            self.instances,
            self._arbiter,
            {"admin": self.admin.poll, "findings": self.findings.poll},
            moved=self._shown.forget,
        )
        self._unwanted = Unwanted(options.run_dir / "unloaded.json")
        self.requests = Requests(
            self.instances, loop, self.policy, options.conf, self._unwanted, log=self.log
        )
        self._devices: Hotplug | None = None
        if options.devices:
            load, gone = self.requests.load_alone, self.requests.device_gone
            self._devices = Hotplug(options.conf, load=load, gone=gone, log=self.log)
        self._calls = Mailbox(self._changed)
        loop.watch(self._calls.fd, self._calls.woken)
        loop.watch(self.core.actions.fd, lambda: None)
        loop.watch(self.gate.fd, self._poll_held)

    @property
    def turns(self) -> TurnTimes:
        """Durations of the turns of the owner's thread."""
        return self._loop.turns

    # For its owner

    def start(self) -> None:
        """Take over, or put back, what an earlier process left; load what is to be loaded."""
        began_ns = time.monotonic_ns()
        instances, conf = self.instances, self.options.conf
        self.core.beat()
        if self.options.take_over:
            for member in take_over(self):
                instances.add(member)
            self.admin.adopt()
        self.gate.release_inherited()  # what nobody here holds any more
        clear_leftovers(self)
        instances.safely("evidence", self.evidence.mark_interrupted)
        for member in instances.all():
            instances.set_process(member)
        self._loop.run_due()
        instances.safely("arbiter", self._arbiter.reconcile, began_ns)
        for remark in conf.remarks():
            self.log(remark)
        for line in conf.autoload:
            self.requests.autoload(line)
        if self._devices and (fd := self._devices.start()) is not None:
            self._loop.watch(fd, self._devices.collect)

    def step(self, timeout_s: float) -> None:
        """Do what there is to do, waiting for it at most that long."""
        waiting = self._devices is not None and self._devices.waiting
        self._loop.wait(0.0 if waiting else timeout_s)
        self._loop.run_due()
        self._calls.run(_CALLS_S)
        if self._devices:
            self.instances.safely("devices", self._devices.run_due)

    def submit(self, call: Callable[[], _T], *, reads: bool = False) -> Future[_T]:
        """Have a call run on the owner's thread, between two steps; thread-safe.

        ``reads`` says that it changes nothing.
        """
        return self._calls.submit(call, reads=reads)

    def subscribe(self, callback: Emit) -> Callable[[], None]:
        """Call back with each event; returns the call that ends that."""
        return self._events.subscribe(callback)

    def close(self, *, keep: bool) -> None:
        """Put everything back; with ``keep`` agents and extensions go on instead."""
        if self._closing:
            return
        self._closing = True
        instances = self.instances
        instances.safely("journal", self.journal.hurry, False)
        if not keep:
            instances.safely("admin", self.admin.undo_all)
        for name in reversed(list(self.members)):
            instances.safely(name, instances.let_go if keep else instances.drop, name)
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

    # View of others

    def status(self, name: str | None = None) -> list[dict[str, Any]]:
        """All instances, as loaded, or the one of that name; one look serves all in a round."""
        wanted = [self.instances.get(name)] if name else self.instances.all()
        return [self._shown.row(member) for member in wanted]

    def names(self) -> list[str]:
        """The names of all instances."""
        return list(self.members)

    def leases(self) -> list[dict[str, Any]]:
        """Leases that are held: ``knob``, ``target``, ``holder``, ``priority``, ``expires_s``."""
        return self._shown.leases()

    def fill(self) -> dict[str, dict[str, int]]:
        """Return the fill levels of the tables that instances share: ``used`` and ``size``."""
        return self._shown.fill()

    # For its parts

    def emit(self, event: Event) -> None:
        """Tell the listener and the subscribers; take down what is advised."""
        self._events.notify(self._arbiter.note(event))

    def log(self, message: str) -> None:
        """Say something that concerns no instance."""
        self._events.notify(Log(message=message))

    def _poll_held(self) -> None:
        # The gate saw somebody write to a sysctl that is held, or that was.
        self.gate.collect()
        for member in self.instances.all():
            self.instances.run(member, member.instance.checks.poll_knobs)
        self.instances.safely("admin", self.admin.poll)

    def _changed(self) -> None:
        # Something was done that somebody had asked for.
        self._shown.forget()
        self.turns.mark()
