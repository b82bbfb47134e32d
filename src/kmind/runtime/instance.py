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
from kmind.agent._base import Action, Agent, Mode, Verdict
from kmind.errors import JournalError, KmindError
from kmind.extension import KnobInfo, Module
from kmind.extension import Value as Parameter
from kmind.guard import Actuator, Policy
from kmind.knobs import Target, Value
from kmind.queue import Geometry, peek_windows, read_status
from kmind.runtime._config import ChildConfig
from kmind.runtime._text import Bucket, parse_note, parse_status
from kmind.runtime.changes import Changes, Emit
from kmind.runtime.child import EXIT_MODULE, EXIT_SETUP
from kmind.runtime.grants import Granted, grants_for
from kmind.runtime.hooks import HookWatch
from kmind.runtime.process import ExtensionProcess
from kmind.runtime.sandbox import free_uid

__all__ = ["Instance", "OwnedAgent", "View"]

_START_S = 30.0
_WINDOWS_EVERY_S = 0.5
_CHECK_EVERY_S = 1.0
_WINDOWS_AT_ONCE = 64


class OwnedAgent(Agent, Protocol):
    """An agent with its arena in this process's memory."""

    @property
    def arena(self) -> npt.NDArray[np.uint8]:
        """All of it, as bytes."""

    @property
    def geometry(self) -> Geometry:
        """Where things lie in it."""


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
        self._policy = policy
        self._emit = emit
        self._deadline_s = deadline_s
        self._now = now
        self._knobs: dict[str, KnobInfo] = {}
        self._changes = Changes(
            self.name, target, agent=agent, actuator=actuator, mode=mode, emit=emit, now=now
        )
        self._process: ExtensionProcess | None = None
        self._selector = selectors.DefaultSelector()
        self._verdicts_shown = Bucket(now, rate=100, burst=200)
        self._window_seq = -1
        self._windows_at = 0.0
        self._check_at = 0.0
        self._hooks = HookWatch(module.manifest, agent)

    def start(self, cancelled: Callable[[], bool] = lambda: False) -> bool:
        """Grant, start the extension, and the agent once the extension's heart beats.

        False if it was cancelled before that. Raises KmindError if the extension ended.
        """
        granted, refused = grants_for(self.module, self.target, self._policy)
        for each in granted:
            self._changes.grant(each)
        self._knobs = {each.knob.name: each.info() for each in granted if each.usable}
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
            knobs={name: info.baseline for name, info in self._knobs.items()},
            extension={"pid": self._process_or_raise().pid, "uid": self._uid},
            hooks=dict(self._agent.programs()),
            missing=dict(self._agent.missing()),
        )
        return True

    def step(self, timeout_s: float) -> None:
        """Do what there is to do, waiting for it at most ``timeout_s`` seconds."""
        if self.failed:
            return
        due = min(self._windows_at, self._check_at, self._changes.next_end)
        self._selector.select(max(0.0, min(timeout_s, due - self._now())))
        self._take_log()
        try:
            self._take_actions()
            if self.failed:
                return
            self._changes.end_holds()
            if self._now() >= self._check_at:
                self._check_at = self._now() + _CHECK_EVERY_S
                self.view.knobs = self._changes.look()
        except JournalError as error:
            self._emergency(f"changes cannot be kept on record: {error}")
            return
        if self._now() >= self._windows_at:
            self._windows_at = self._now() + _WINDOWS_EVERY_S
            self._hooks.look(self._now())
            self._take_windows()
        if (status := self._process_or_raise().ended()) is not None:
            self._emergency(f"the extension of {self.name} {_ending(status)}")

    def stop(self) -> dict[str, Any]:
        """Put everything back and end extension and agent; what was changed, in words.

        ``changes`` lists each knob with its values and what it holds now; ``restored``
        says whether each holds its baseline again, or what somebody else has set.
        """
        self._changes.undo_all("the run ended")
        self._close_process()
        try:
            account = dict(self._agent.account())
        except KmindError:
            account = {}
        self._agent.close()
        self._selector.close()
        changes = self._changes.summary()
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
                knobs=self._knobs,
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
                self._close_process()
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
        each = self._changes.granted(action.knob, action.target)
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
        elif verdict == Verdict["RENEWED"]:
            self._changes.renew(each, action)
        elif verdict == Verdict["APPROVED"]:
            self._changes.apply(each, action, reason, evidence)

    def _emergency(self, why: str) -> None:
        self.failed = why
        try:
            self._agent.set_mode(Mode.EMERGENCY)
        finally:
            self._changes.undo_all("emergency")
        self._close_process()
        self._emit("mode", instance=self.name, mode="emergency", why=self.failed)
        self.view.mode = "emergency"

    def _close_process(self) -> None:
        if self._process:
            for line in self._process.close():
                self._log(line, "extension")

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
