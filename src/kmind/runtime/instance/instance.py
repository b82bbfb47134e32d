# SPDX-License-Identifier: Apache-2.0
"""One running instance: its agent, its extension's process, and what it holds.

Its owner calls ``start``, then ``step`` again and again, then ``stop``: from one
thread. An owner of many starts it in parts (``launch``, ``ready``, ``begin``), waits on
its ``fileno`` until it is ``due``, hands it its actions (``take``) and lets it ``turn``.
What happens is told through ``emit``, as an event's name and its fields.

An approved change stands until its hold ends, and a renewal extends it. Whatever goes
wrong ends in emergency: everything is put back at once, and ``failed`` says why.
"""

from __future__ import annotations

import math
import selectors
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from kmind import events
from kmind.agent.protocol import OwnedAgent
from kmind.agent.types import Action, Mode
from kmind.errors import JournalError, KmindError
from kmind.events import Emit
from kmind.extension import KnobInfo, Module
from kmind.extension import Value as Parameter
from kmind.guard import Actuator, Policy
from kmind.knobs import Target
from kmind.runtime.budget import OwnerBudget
from kmind.runtime.experiment.experiments import Experiments
from kmind.runtime.experiment.store import EvidenceStore
from kmind.runtime.findings.keeper import Findings
from kmind.runtime.holds.grants import Granted, grants_for
from kmind.runtime.holds.trial_holds import MeasuredChanges
from kmind.runtime.instance.checkpoint import Memory
from kmind.runtime.instance.extension_handle import Extension, Sandbox
from kmind.runtime.instance.hook_gating import HookWatch, lost_hooks
from kmind.runtime.instance.inbox import make_inbox
from kmind.runtime.instance.listener import Listener
from kmind.runtime.instance.misuse import Misuse
from kmind.runtime.instance.state import InstanceState
from kmind.runtime.instance.telemetry import View, Watcher
from kmind.runtime.instance.verdicts import Verdicts
from kmind.runtime.objective.poller import Asking, check_objective

__all__ = ["Instance", "OwnedAgent", "Sandbox", "View"]

_START_S = 30.0
# How often windows, knobs and limits are looked at; less often where nothing happens.
_LOOK_S, _IDLE_LOOK_S = 0.5, 1.0
_CHECK_S, _IDLE_CHECK_S = 1.0, 2.0
# So many windows' worth of time with traffic, between two looks.
_BUSY_WINDOWS = 3
# In the deadline; so that a beat falls between two windows of an idle agent.
_BEATS = 2.5
# Ids that an earlier extension may have used without our hearing of it.
_IDS_APART = 1 << 16


class Instance:
    """A module bound to a target.

    ``deadline_s`` is the agent's watchdog deadline. ``sandbox`` confines the extension, and says
    whether it outlives this process. ``evidence`` keeps experiments, ``findings`` findings and
    reports, the folder ``memory`` what the extension remembers; by default all are forgotten with
    the instance. ``free`` is called with knob and target, by number, when one is held no longer,
    ``stands`` with knob, target and value when one was set or put back; ``name_of`` names a slot.
    """

    def __init__(
        self,
        module: Module,
        target: Target,
        params: Mapping[str, Parameter],
        *,
        agent: OwnedAgent,
        actuator: Actuator,
        policy: Policy,
        mode: Mode,
        emit: Emit,
        evidence: EvidenceStore | None = None,
        findings: Findings | None = None,
        memory: Path | None = None,
        sandbox: Sandbox | None = None,
        free: Callable[[int, int], None] = lambda knob, target: None,
        stands: Callable[[int, int, int], None] = lambda knob, target, value: None,
        name_of: Callable[[int], str] = str,
        deadline_s: float = 1.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.module = module
        self.target = target
        self.params = dict(params)
        self.name = f"{module.manifest.name}@{target.name}"
        self.mode = mode
        self.failed = ""
        self.view = View()
        self.started = time.time()
        self._agent = agent
        self._policy = policy
        self._emit = emit
        self._sandbox = sandbox or Sandbox()
        self._deadline_s = deadline_s
        self._now = now
        self._changes = MeasuredChanges(
            self.name,
            target,
            agent=agent,
            actuator=actuator,
            mode=mode,
            emit=emit,
            free=free,
            stands=stands,
            now=now,
        )
        store = evidence or EvidenceStore(None)
        self._trials = Experiments(
            self.name,
            module.manifest,
            params,
            target,
            agent=agent,
            changes=self._changes,
            store=store,
            emit=emit,
            mode=mode,
            now=now,
            effort=lambda: self._extension.effort() if self._extension else None,
        )
        self._budget = OwnerBudget(now)
        self._memory = Memory(self.name, memory, self._budget, log=self._log, now=now)
        who, found = (self.name, module.manifest, target), findings or Findings(None, emit)
        self._inbox = make_inbox(*who, agent.backend, store, found, self._knobs, self._log, now)
        self._asking: Asking | None = None
        self._extension: Extension | None = None
        self._starting = False
        self._give_up_at = math.inf
        self._recorded_id = 0
        self._selector = selectors.DefaultSelector()
        say = partial(self._log, source="extension")
        self._listener = Listener(self._selector, self._budget, say, now)
        self._verdicts = Verdicts(
            self.name, self._changes, self._trials, emit, self._budget, name_of=name_of, now=now
        )
        self._watcher = Watcher(self.name, module.manifest, agent, self.view, emit, self._budget)
        self._hooks = HookWatch(module.manifest, agent)
        self._misuse = Misuse(self.name, agent, emit)
        self._look_at = self._check_at = 0.0
        self._stopped = False

    # Starting

    def start(self, cancelled: Callable[[], bool] = lambda: False) -> bool:
        """Launch it and wait for it; False if it was cancelled before it was ready.

        Raises KmindError if the extension ended.
        """
        self.launch()
        while not self.ready():
            if cancelled():
                return False
            self._selector.select(0.005)
        self.begin()
        self._selector.register(self._agent.action_fd, selectors.EVENT_READ)
        return True

    def launch(self) -> None:
        """Grant the knobs, and start the extension."""
        self._changes.grant(self._granted())
        for line in lost_hooks(self.module.manifest, self.target, self._agent.missing()):
            self._log(line)
        self._agent.set_mode(self.mode)
        self._start_extension()

    def ready(self) -> bool:
        """Whether the extension's heart beats. Raises KmindError if it has ended instead."""
        extension = self._extension_or_raise()
        self._listener.listen()
        if extension.beats():
            return True
        status = extension.ended()
        if status or self._now() > self._give_up_at:
            self._close_extension()
            raise KmindError(
                f"the extension of {self.name} {status or 'did not start in time'}",
                hint="the lines above are what it said; nothing was changed",
            )
        return False

    def begin(self) -> None:
        """Attach the hooks, arm the tick, and go to work."""
        self._starting = False
        self._agent.start()
        self._begin_asking()
        self._announce("loaded")

    def adopt(self, state: InstanceState) -> None:
        """Go on with what an earlier process started and wrote down; no knob is written.

        ``agent`` is the one that was adopted. Raises KmindError if the extension has
        ended; then nothing of it is left to this object.
        """
        if state.process is None:
            raise KmindError(f"the extension of {self.name} was not started")
        self._extension = Extension.adopt(self._agent, state.process, self._inbox)
        self._listener.watch(self._extension)
        self._memory.watch(self._agent.arena, self._agent.geometry)
        self._begin_asking()
        self._misuse.adopt()
        self.started = state.started
        self._verdicts.last_id = self._recorded_id = state.last_id
        self._watcher.told = state.windows
        self._changes.adopt(self._granted(), state.holds, state.yielded, self._trials.adopt())
        self._trials.take_up()
        self._announce("taken over")

    def relaunch(self, module: Module, params: Mapping[str, Parameter]) -> None:
        """Start the extension anew, of ``module``'s present code; then ``ready`` and ``resume``.

        What is held is held on, until its hold ends.
        """
        first_id = self._verdicts.last_id + _IDS_APART
        if first_id >= 1 << 32:
            raise KmindError(
                f"the extension of {self.name} has used up all ids of recommendations",
                hint=f"kmind unload {self.name}, and load it again",
            )
        self._starting = True
        self._close_extension()
        self.module = module
        self.params = dict(params)
        told = self._watcher.told
        self._watcher = Watcher(
            self.name, module.manifest, self._agent, self.view, self._emit, self._budget
        )
        self._watcher.told = told
        self._hooks = HookWatch(module.manifest, self._agent)
        self._trials.configure(module.manifest, params)
        self._changes.reclaim()
        self._changes.grant(self._granted())
        self._start_extension(first_id)

    def resume(self) -> None:
        """Go to work again, with another extension; this is also the way out of emergency."""
        self._starting = False
        self.failed = ""
        self._agent.set_mode(self.mode)
        self._begin_asking()
        self._announce("reloaded")

    # Running

    def fileno(self) -> int:
        """A descriptor that is readable when the extension ended or said something."""
        return self._selector.fileno()

    @property
    def due(self) -> float:
        """When it wants its next turn, in seconds of ``time.monotonic``."""
        if self.failed or self._starting or self._stopped:
            return math.inf
        parts = self._changes.next_end, self._trials.due, self._listener.due
        return min(self._look_at, self._check_at, *parts)

    def step(self, timeout_s: float) -> None:
        """Do what there is to do, waiting for it at most ``timeout_s`` seconds."""
        if self.failed:
            return
        self._selector.select(max(0.0, min(timeout_s, self.due - self._now())))
        self.take(self._agent.poll(0))
        self.compare_mode()
        self.turn()

    def take(self, actions: Iterable[Action]) -> None:
        """Do what the agent said."""
        actions = list(actions)
        stalled = any(a.kind == "mode" and a.mode == Mode.EMERGENCY for a in actions)
        stalled = stalled and not (self._starting or self.failed)
        try:
            for action in actions:
                if action.kind == "verdict":
                    self._verdicts.take(action, halt=bool(stalled or self.failed))
        except JournalError as error:
            self.emergency(f"changes cannot be kept on record: {error}")
        if stalled:
            self._stall()

    def compare_mode(self) -> None:
        """Notice an emergency that the ring to the owner had no room for."""
        going = not (self.failed or self._starting or self._stopped)
        if going and self._agent.mode == Mode.EMERGENCY:
            self._stall()

    def _stall(self) -> None:
        self.emergency(f"the extension of {self.name} was silent for {self._deadline_s:g} s")

    def turn(self) -> None:
        """Do what is due; never waits."""
        if self.failed or self._starting or self._stopped:
            return
        stirred = bool(self._selector.select(0))  # it ended, or said something
        if stirred or self._now() >= self._listener.due:
            self._listener.listen()
        if self._asking:
            self._asking.turn()
        now = self._now()
        over = ""
        try:
            self._changes.end_holds()
            self._trials.turn()
            if now >= self._check_at:
                self._check_at = _next(now, _CHECK_S if self._changes.held else _IDLE_CHECK_S)
                self.look()
                self._misuse.look()
                over = self._extension_or_raise().exceeded() or self._budget.exceeded()
                if not self.target.is_present():
                    self.emergency(f"{self.target.name} has gone")
                    return
        except JournalError as error:
            self.emergency(f"changes cannot be kept on record: {error}")
            return
        if now >= self._look_at:
            seen = self._watcher.look()
            self._hooks.look(now, quiet=not seen.busy, keep=self._trials.running)
            busy = seen.busy >= _BUSY_WINDOWS
            self._trials.look(busy=busy)
            self._memory.look()
            self._look_at = _next(now, _LOOK_S if busy else _IDLE_LOOK_S)
            self.view.mode = self.mode.name.lower()
        if ending := (stirred and self._extension_or_raise().ended()) or over:
            self.emergency(f"the extension of {self.name} {ending}")

    def look(self) -> None:
        """See what the knobs hold now, and yield those that somebody else has set."""
        self.view.knobs = self._changes.look()

    def holding(self, knob: int, target: int) -> bool:
        """Whether that knob, by the agent's numbers, stands at a value of this instance."""
        return self._changes.holding(knob, target)

    def learn(self, knob: int, target: int, value: int) -> None:
        """Let the agent know what another instance, or the admin, has set."""
        self._changes.learn(knob, target, value)

    def hand_over(self, knob: int, target: int, to: str) -> None:
        """Put a knob back that ``to`` has the lease of now; nothing if it is not held."""
        self._changes.hand_over(knob, target, to)

    def settle(self, knob: int, target: int, value: int, rec_id: int, why: str) -> bool:
        """Refuse what was approved unless it stands; whether it was refused."""
        each = self._changes.granted(knob, target)
        if each is None or self._changes.stands(each, value):
            return False
        self._changes.refuse(each, rec_id, KmindError(why))
        return True

    def refuse(self, action: Action, why: str) -> None:
        """Do not carry out what the agent approved, and tell the extension."""
        if each := self._changes.granted(action.knob, action.target):
            self._changes.refuse(each, action.id, KmindError(why))

    def set_mode(self, mode: Mode) -> None:
        """Move to another mode; what that one does not hold is put back."""
        if mode == Mode.EMERGENCY:
            self.emergency("the admin said so")
            return
        if self.failed:
            raise KmindError(
                f"{self.name} is in emergency: {self.failed}", hint=f"kmind reload {self.name}"
            )
        self._agent.set_mode(mode)
        self.mode = mode
        self._trials.set_mode(mode)
        self._changes.set_mode(mode)
        self._emit(events.Mode(instance=self.name, mode=mode.name.lower(), why="the admin said so"))

    def emergency(self, why: str) -> None:
        """Refuse everything, put everything back, and end the extension."""
        if self.failed:
            return
        self.failed = why
        try:
            self._agent.set_mode(Mode.EMERGENCY)
        except KmindError as error:
            self._log(str(error))
        self._changes.undo_all("emergency")
        self._close_extension()
        self._emit(events.Mode(instance=self.name, mode="emergency", why=self.failed))
        self.view.mode = "emergency"

    # Ending

    def stop(self) -> dict[str, Any]:
        """Put everything back and end extension and agent; what was changed, in words.

        ``changes`` lists each knob with its values and what it holds now; ``restored``
        says whether each holds its baseline again, or what somebody else has set, or has gone.
        """
        self._changes.undo_all("the run ended")
        self._watcher.look()
        self._close_extension()
        try:
            account = self.account()
        except KmindError:
            account = {}
        self._agent.close()
        self._selector.close()
        self._stopped = True
        changes = self._changes.summary()
        restored = all(c["yielded"] or c["gone"] or c["now"] == c["baseline"] for c in changes)
        summary: dict[str, Any] = {"changes": changes, "restored": restored, "failed": self.failed}
        self._emit(events.Stop(instance=self.name, account=account, **summary))
        return summary

    def let_go(self) -> None:
        """Leave agent, extension and knobs as they are, for another process to adopt.

        But an experiment ends, with what stood before.
        """
        self._trials.abort("the daemon is being replaced")
        self._memory.look(last=True)
        self._end_asking()
        self._listener.unwatch()
        if self._extension:
            for line in self._extension.release():
                self._log(line, "extension")
        self._extension = None  # it looks into the arena, which lies there no longer
        self._selector.close()
        self._stopped = True

    # Telling

    @property
    def dirty(self) -> bool:
        """Whether ``record`` says something else than it did that must not be lost."""
        return self._changes.dirty or self._verdicts.last_id > self._recorded_id + _IDS_APART // 2

    @property
    def process(self) -> tuple[int, int]:
        """Process and user id of the extension; 0 where there is none, or no user of its own."""
        extension = self._extension
        return (extension.pid, extension.uid or 0) if extension else (0, 0)

    def record(self, *, module: str, slot: int, generation: int) -> InstanceState:
        """What ``adopt`` takes."""
        self._changes.dirty = False
        self._recorded_id = self._verdicts.last_id
        return InstanceState(
            name=self.name,
            module=module,
            target=self.target.name,
            params=self.params,
            mode=self.mode.name.lower(),  # type: ignore[arg-type]
            slot=slot,
            generation=generation,
            started=self.started,
            process=self._extension.state() if self._extension else None,
            holds=self._changes.holds(),
            yielded=self._changes.yielded,
            windows=self._watcher.told,
            last_id=self._verdicts.last_id,
            running=not (self._starting or self.failed),
        )

    def account(self) -> dict[str, int]:
        """The agent's counters, and what the extension has cost its owner."""
        return {**self._agent.account(), **self._budget.account()}

    @property
    def extension_pid(self) -> int:
        """Process id of the extension."""
        return self._extension_or_raise().pid

    def status(self) -> dict[str, Any]:
        """What an admin may want to know of it; JSON can hold it."""
        manifest = self.module.manifest
        return {
            "name": self.name,
            "module": manifest.name,
            "version": manifest.version,
            "class": manifest.class_,
            "target": self.target.name,
            "mode": "emergency" if self.failed else self.mode.name.lower(),
            "state": "failed" if self.failed else "starting" if self._starting else "running",
            "failed": self.failed,
            "started": self.started,
            "params": self.params,
            "knobs": self._changes.values(),
            "holds": self._changes.describe_holds(),
            "experiment": self._trials.status(),
            "yielded": list(self._changes.yielded),
            "extension": self._extension.describe() if self._extension else None,
            "hooks": dict(self._agent.programs()),
            "missing": dict(self._agent.missing()),
            "account": self.account(),
            "features": dict(self.view.features),
            "status": dict(self.view.status),
        }

    # Inside

    def _granted(self) -> list[Granted]:
        granted, refused = grants_for(self.module, self.target, self._policy, self.params)
        for name, why in refused.items():
            self._log(f"knob {name} is not granted: {why}")
        return granted

    def _knobs(self) -> dict[str, KnobInfo]:
        return {each.knob.name: each.info() for each in self._changes.usable()}

    def _start_extension(self, first_id: int = 1) -> None:
        self._starting = True
        self._give_up_at = self._now() + _START_S
        self._extension = Extension.start(
            self.name,
            self.module,
            self.target,
            self.params,
            self._knobs(),
            self._agent,
            inbox=self._inbox,
            sandbox=self._sandbox,
            beat_s=self._deadline_s / _BEATS,
            first_id=first_id,
            memory=self._memory.load(),
            tell=self._log,
        )
        self._memory.watch(self._agent.arena, self._agent.geometry)
        self._listener.watch(self._extension)

    def _close_extension(self) -> None:
        self._end_asking()
        if self._extension is None:
            return
        if not self._stopped:
            self._listener.unwatch()
        extension, self._extension = self._extension, None
        try:
            for line in extension.close():
                self._log(line, "extension")
        except KmindError as error:  # something in its cgroup does not end
            self._log(str(error))
        self._memory.look(last=True)

    def _begin_asking(self) -> None:
        objective = check_objective(self.module.manifest, self.target, self.params)
        part = self.module.manifest.objective
        if objective is None or part is None:
            return
        self._asking = Asking(
            objective,
            self._agent,
            every_s=float(self.params[part.every]),
            looks_back_s=float(self.params[part.looks_back]),
            log=self._log,
            told=self._trials.listen(objective),
        )
        self._selector.register(self._asking.fd, selectors.EVENT_READ)
        self._asking.start()

    def _end_asking(self) -> None:
        if self._asking is not None:
            self._selector.unregister(self._asking.fd)
            self._asking.close()
            self._asking = None

    def _extension_or_raise(self) -> Extension:
        if self._extension is None:
            raise KmindError(f"{self.name} is not started")
        return self._extension

    def _announce(self, how: str) -> None:
        extension = self._extension_or_raise()
        self._emit(
            events.Start(
                instance=self.name,
                how=how,
                module=self.module.manifest.name,
                target=self.target.name,
                backend=self._agent.backend,
                mode=self.mode.name.lower(),
                params=self.params,
                knobs={name: info.baseline for name, info in self._knobs().items()},
                extension={"pid": extension.pid, "uid": extension.uid},
                hooks=dict(self._agent.programs()),
                missing=dict(self._agent.missing()),
            )
        )

    def _log(self, message: str, source: str = "kmind") -> None:
        self._emit(events.Log(instance=self.name, source=source, message=message))


def _next(now: float, every_s: float) -> float:
    # On a grid, so that many instances want their turn together.
    return (now // every_s + 1) * every_s
