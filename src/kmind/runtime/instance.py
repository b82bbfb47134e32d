# SPDX-License-Identifier: Apache-2.0
"""One running instance: its agent, its extension's process, and what it holds.

The owner calls ``start``, then ``step`` again and again, then ``stop``: from one
thread. What happens is told through ``emit``, as an event's name and its fields.
An approved change stands until its hold ends, and a renewal extends it. Whatever
goes wrong ends in emergency: everything is put back at once, and ``failed`` says why.
"""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kmind.abi import layout
from kmind.agent._base import Action, Agent, Kind, Mode, Verdict
from kmind.errors import JournalError, KmindError, KnobError, PolicyError
from kmind.extension import Module
from kmind.extension import Value as Parameter
from kmind.guard import Actuator, Change, Outcome, Policy
from kmind.knobs import Target, Value
from kmind.queue import Geometry, peek_windows, read_status
from kmind.runtime._config import ChildConfig
from kmind.runtime._text import Bucket, parse_note, parse_status
from kmind.runtime.child import EXIT_MODULE, EXIT_SETUP
from kmind.runtime.grants import Granted, grants_for
from kmind.runtime.process import ExtensionProcess
from kmind.runtime.sandbox import free_uid

__all__ = ["CANARY_HOLD_S", "Emit", "Instance", "OwnedAgent"]

CANARY_HOLD_S = 3.0
"""In mode canary no change stands longer, and none is renewed."""

_START_S = 30.0
_WINDOWS_EVERY_S = 0.1
_CHECK_EVERY_S = 1.0
_WINDOWS_AT_ONCE = 64


class Emit(Protocol):
    """Told what happens."""

    def __call__(self, event: str, /, **fields: Any) -> None:
        """``event`` is one of those in docs/output.md; ``fields`` can be JSON."""


class OwnedAgent(Agent, Protocol):
    """An agent with its arena in this process's memory."""

    @property
    def arena(self) -> npt.NDArray[np.uint8]:
        """All of it, as bytes."""

    @property
    def geometry(self) -> Geometry:
        """Where things lie in it."""


@dataclass
class _Held:
    # A knob that holds something else than its baseline because of a recommendation.
    first: Change
    rec_id: int
    value: Value
    until: float


@dataclass
class View:
    """What a live display shows, beside the events: cheap to take."""

    features: dict[str, int] = field(default_factory=dict)
    status: dict[str, Parameter] = field(default_factory=dict)
    mode: str = ""
    knobs: dict[str, Value] = field(default_factory=dict)


class Instance:
    """A module bound to a target. ``deadline_s`` is the agent's watchdog deadline."""

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
        self._agent = agent
        self._actuator = actuator
        self._policy = policy
        self._emit = emit
        self._deadline_s = deadline_s
        self._now = now
        self._granted: dict[tuple[int, int], Granted] = {}
        self._held: dict[tuple[int, int], _Held] = {}
        self._changed: dict[tuple[int, int], list[Value]] = {}
        self._given_up: set[tuple[int, int]] = set()
        self._process: ExtensionProcess | None = None
        self._selector = selectors.DefaultSelector()
        self._verdicts_shown = Bucket(now, rate=100, burst=200)
        self._window_seq = -1
        self._windows_at = 0.0
        self._check_at = 0.0

    def start(self, cancelled: Callable[[], bool] = lambda: False) -> bool:
        """Grant, start the extension, and the agent once the extension's heart beats.

        False if it was cancelled before that. Raises KmindError if the extension ended.
        """
        granted, refused = grants_for(self.module, self.target, self._policy)
        for each in granted:
            self._granted[each.key] = each
            self._agent.grant(*each.key, each.grant())
        for name, why in refused.items():
            self._log(f"knob {name} is not granted: {why}")
        for hook, why in self._agent.missing().items():
            self._log(f"hook {hook} is missing: {why}; {self._cost(hook)}")
        self._agent.set_mode(self.mode)
        self._spawn()
        if not self._await_heartbeat(cancelled):
            return False
        self._agent.start()
        self._selector.register(self._agent.action_fd, selectors.EVENT_READ)
        self._emit(
            "start",
            instance=self.name,
            module=self.module.manifest.name,
            target=self.target.name,
            backend=self._agent.backend,
            mode=self.mode.name.lower(),
            params=self.params,
            knobs={g.knob.name: g.baseline for g in granted if g.usable},
            extension={"pid": self._process_or_raise().pid, "uid": self._uid},
            hooks=dict(self._agent.programs()),
            missing=dict(self._agent.missing()),
        )
        return True

    def step(self, timeout_s: float) -> None:
        """Do what there is to do, waiting for it at most ``timeout_s`` seconds."""
        if self.failed:
            return
        due = [self._windows_at, self._check_at, *(held.until for held in self._held.values())]
        wait = max(0.0, min(timeout_s, min(due) - self._now()))
        self._selector.select(wait)
        self._take_actions()
        self._take_log()
        if not self.failed and (status := self._process_or_raise().ended()) is not None:
            self._emergency(f"the extension of {self.name} {_ending(status)}")
        self._expire_holds()
        if self._now() >= self._windows_at:
            self._windows_at = self._now() + _WINDOWS_EVERY_S
            self._take_windows()
        if not self.failed and self._now() >= self._check_at:
            self._check_at = self._now() + _CHECK_EVERY_S
            self._look_around()

    def stop(self) -> dict[str, Any]:
        """Put everything back and end extension and agent; what was changed, in words.

        ``changes`` lists each knob with its values and what it holds now; ``restored``
        says whether each holds its baseline again, or what somebody else has set.
        """
        self._undo_all("the run ended")
        if self._process:
            for line in self._process.close():
                self._emit("log", instance=self.name, source="extension", message=line)
        try:
            account = dict(self._agent.account())
        except KmindError:
            account = {}
        self._agent.close()
        self._selector.close()
        changes = []
        for key, values in self._changed.items():
            each = self._granted[key]
            changes.append(
                {
                    "knob": each.knob.name,
                    "target": self.target.name,
                    "baseline": each.baseline,
                    "values": values,
                    "now": self._read(each),
                    "yielded": key in self._given_up,
                    "check": f"cat {each.knob.file(self.target)}",
                }
            )
        restored = all(c["yielded"] or c["now"] == c["baseline"] for c in changes)
        summary = {"changes": changes, "restored": restored, "failed": self.failed}
        self._emit("stop", instance=self.name, account=account, **summary)
        return summary

    def account(self) -> dict[str, int]:
        """The agent's counters."""
        return dict(self._agent.account())

    @property
    def extension_pid(self) -> int:
        """Process id of the extension."""
        return self._process_or_raise().pid

    # Starting

    def _spawn(self) -> None:
        manifest = self.module.manifest
        self._uid = free_uid(f"{self.name}/{os.getpid()}") if os.geteuid() == 0 else None
        if self._uid is None:
            self._log("not root: the extension runs with the privileges that you have")
        self._process = ExtensionProcess(
            ChildConfig(
                package=self.module.package,
                folder=str(self.module.folder),
                entry=manifest.extension.entry,
                imports=manifest.extension.imports,
                module=manifest.name,
                target=self.target.name,
                params=self.params,
                features=manifest.columns,
                knobs={g.knob.name: g.info() for g in self._granted.values() if g.usable},
                arena=self._agent.arena_fd,
                address=self._agent.arena_address,
                size=self._agent.arena_size,
                doorbell=self._agent.doorbell_fd,
                beat_s=self._deadline_s / 4,
                uid=self._uid,
                parent=os.getpid(),
            )
        )
        self._selector.register(self._process.pid_fd, selectors.EVENT_READ)
        self._selector.register(self._process.log_fd, selectors.EVENT_READ)

    def _await_heartbeat(self, cancelled: Callable[[], bool]) -> bool:
        process = self._process_or_raise()
        header = self._agent.arena[: layout.HEADER.itemsize].view(layout.HEADER)
        deadline = self._now() + _START_S
        while not int(header["heartbeat"][0]):
            if cancelled():
                return False
            self._selector.select(0.005)
            self._take_log()
            status = process.ended()
            if status is not None or self._now() > deadline:
                what = "did not start in time" if status is None else _ending(status)
                for line in process.close():
                    self._log(line, "extension")
                raise KmindError(
                    f"the extension of {self.name} {what}",
                    hint="the lines above are what it said; nothing was changed",
                )
        return True

    def _process_or_raise(self) -> ExtensionProcess:
        if self._process is None:
            raise KmindError(f"{self.name} is not started")
        return self._process

    def _cost(self, hook: str) -> str:
        return next((h.costs for h in self.module.manifest.hooks if h.program == hook), "")

    # What the agent says

    def _take_actions(self) -> None:
        actions = self._agent.poll(0)
        stalled = [a for a in actions if a.kind == "mode" and a.mode == Mode.EMERGENCY]
        for action in actions:
            if action.kind == "verdict":
                self._take_verdict(action, halt=bool(stalled or self.failed))
        if stalled and not self.failed:
            self._emergency(
                f"the extension of {self.name} gave no sign of life for {self._deadline_s:g} s"
            )

    def _take_verdict(self, action: Action, *, halt: bool) -> None:
        each = self._granted.get((action.knob, action.target))
        reason, evidence = parse_note(action.note)
        verdict = action.verdict or Verdict(0)
        fields: dict[str, Any] = {
            "instance": self.name,
            "id": action.id,
            "verdict": verdict.name.lower(),
            "knob": each.knob.name if each else action.knob,
            "value": _shown(each, action.value),
            "current": _shown(each, action.current),
            "reason": reason,
            "evidence": evidence,
        }
        if self._verdicts_shown.take():
            self._emit("verdict", **fields)
        if each is None or halt:
            return
        if verdict == Verdict["ADVISED"]:
            command = f"echo {fields['value']} > {each.knob.file(self.target)}"
            if self._verdicts_shown.take():
                self._emit("advice", **fields, command=command)
        elif verdict == Verdict["RENEWED"] and self.mode == Mode.AUTO:
            held = self._held.get(each.key)
            if held and each.knob.encode(held.value) == action.value:
                held.rec_id = action.id
                held.until = max(held.until, self._now() + action.hold_ms / 1000)
        elif verdict == Verdict["APPROVED"]:
            self._apply(each, action, reason, evidence)

    def _apply(
        self, each: Granted, action: Action, reason: str, evidence: Mapping[str, Any]
    ) -> None:
        try:
            value = each.knob.decode(action.value)
            change = self._actuator.apply(
                each.knob,
                self.target,
                value,
                who=self.name,
                why=reason,
                evidence=evidence,
                rec_id=action.id,
            )
        except KmindError as error:
            self._failed_to_apply(each, action, error)
            return
        hold_s = action.hold_ms / 1000
        if self.mode == Mode.CANARY:
            hold_s = min(hold_s, CANARY_HOLD_S)
        standing = self._held.get(each.key)
        first = standing.first if standing else change
        self._held[each.key] = _Held(first, action.id, value, self._now() + hold_s)
        self._changed.setdefault(each.key, []).append(value)
        self._agent.notify(Kind["APPLIED"], action.id, action.value)
        self._emit(
            "applied",
            instance=self.name,
            id=action.id,
            knob=each.knob.name,
            old=change.old,
            value=value,
            reason=reason,
            evidence=evidence,
            hold_s=hold_s,
            undo=first.undo,
        )

    def _failed_to_apply(self, each: Granted, action: Action, error: KmindError) -> None:
        self._tell(each, "FAILED", action.id)
        self._emit("failed", instance=self.name, id=action.id, knob=each.knob.name, why=str(error))
        held = self._held.get(each.key)
        if held and all(change.id != held.first.id for change in self._actuator.held):
            del self._held[each.key]  # the actuator found another's value, and let go
            self._yielded(each, held.rec_id, str(error))
        if isinstance(error, JournalError):
            self._emergency(f"changes cannot be kept on record: {error}")
        elif isinstance(error, KnobError | PolicyError):
            self._log(f"not applied: {error}")

    def _read(self, each: Granted) -> Value | None:
        # None where the device is gone.
        try:
            return each.knob.read(self.target)
        except KmindError:
            return None

    def _tell(self, each: Granted, kind: str, rec_id: int) -> Value | None:
        # Agent and extension learn what stands now.
        value = self._read(each)
        number = each.knob.encode(each.baseline if value is None else value)
        self._agent.set_current(*each.key, number)
        self._agent.notify(Kind[kind], rec_id, number)
        return value

    # Undoing

    def _expire_holds(self) -> None:
        for key, held in list(self._held.items()):
            if self._now() < held.until:
                continue
            del self._held[key]
            try:
                self._undone(key, held, self._actuator.undo(held.first), "its hold ended")
            except KmindError as error:
                self._log(f"cannot undo {self._granted[key].knob.name}: {error}")

    def _undone(self, key: tuple[int, int], held: _Held, outcome: Outcome, why: str) -> None:
        each = self._granted[key]
        if outcome.state == "yielded":
            self._yielded(each, held.rec_id, outcome.why)
            return
        current = self._tell(each, "UNDONE", held.rec_id)
        self._emit(
            "undone",
            instance=self.name,
            id=held.rec_id,
            knob=each.knob.name,
            old=held.value,
            value=current,
            why=why if outcome.state == "undone" else f"{outcome.state}: {outcome.why}",
        )

    def _undo_all(self, why: str) -> None:
        held, self._held = self._held, {}
        by_name = {self._granted[key].knob.name: key for key in held}
        try:
            outcomes = self._actuator.undo_all(self.name)
        except KmindError as error:
            self._log(f"{error}")
            return
        for outcome in outcomes:
            key = by_name.get(outcome.knob)
            if key:
                self._undone(key, held[key], outcome, why)

    def _yielded(self, each: Granted, rec_id: int, message: str) -> None:
        self._given_up.add(each.key)
        # Nothing passes an empty range: what is recommended from now on is refused.
        self._agent.grant(*each.key, each.withdrawn(each.baseline))
        value = self._tell(each, "YIELDED", rec_id)
        self._emit(
            "yielded",
            instance=self.name,
            id=rec_id,
            knob=each.knob.name,
            value=value,
            message=message,
        )

    def _emergency(self, why: str) -> None:
        self.failed = why
        self._agent.set_mode(Mode.EMERGENCY)
        self._undo_all("emergency")
        if self._process:
            for line in self._process.close():
                self._log(line, "extension")
        self._emit("mode", instance=self.name, mode="emergency", why=self.failed)
        self.view.mode = "emergency"

    # Looking

    def _take_log(self) -> None:
        if self._process and self._process.log_fd >= 0:
            for line in self._process.read_log():
                self._log(line, "extension")

    def _take_windows(self) -> None:
        arena, geometry = self._agent.arena, self._agent.geometry
        windows = peek_windows(arena, geometry, _WINDOWS_AT_ONCE)
        names = self.module.manifest.columns
        for window in windows:
            seq = int(window["seq"])
            if 0 <= (self._window_seq - seq) % (1 << 32) < 1 << 31 and self._window_seq >= 0:
                continue
            self._window_seq = seq
            self.view.features = {n: int(window["value"][column]) for n, column in names.items()}
            self._emit(
                "window",
                instance=self.name,
                seq=seq,
                end=int(window["end_ns"]) / 1e9,
                seconds=(int(window["end_ns"]) - int(window["start_ns"])) / 1e9,
                dropped=int(window["dropped"]),
                features=self.view.features,
            )
        self.view.status = parse_status(read_status(arena, geometry))
        self.view.mode = self.mode.name.lower()

    def _look_around(self) -> None:
        try:
            yielded = self._actuator.check()
        except JournalError as error:
            self._emergency(f"changes cannot be kept on record: {error}")
            return
        for gone in yielded:
            each = next(g for g in self._granted.values() if g.knob.name == gone.knob)
            held = self._held.pop(each.key, None)
            self._yielded(each, held.rec_id if held else gone.rec_id, str(gone))
        for each in self._granted.values():
            if (value := self._read(each)) is None:
                continue
            self.view.knobs[each.knob.name] = value
            if each.key not in self._held:
                self._agent.set_current(*each.key, each.knob.encode(value))

    def _log(self, message: str, source: str = "kmind") -> None:
        self._emit("log", instance=self.name, source=source, message=message)


def _shown(each: Granted | None, number: int) -> Value:
    if each is None or (each.knob.kind == "enum" and not 0 <= number < len(each.knob.choices)):
        return number
    return each.knob.decode(number)


def _ending(status: int) -> str:
    if status == EXIT_MODULE:
        return "ended: its code raised an exception"
    if status == EXIT_SETUP:
        return "could not be set up"
    return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
