# SPDX-License-Identifier: Apache-2.0
"""One running instance: an agent, and the services that act on what it sees.

Its owner calls ``start``, then ``step`` again and again, then ``stop``: from one
thread. An owner of many starts it in parts (``launch``, ``ready``, ``begin``), waits on
its ``fd`` until it is ``due``, hands it its actions (``handle``) and lets it ``run_due``.

An approved change stands until its hold ends, and a renewal extends it. Whatever goes
wrong ends in emergency: everything is put back at once, and ``failed`` says why.
"""

from __future__ import annotations

import math
import selectors
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kmind import events
from kmind.agent.types import Action, Cause, Mode
from kmind.errors import JournalError, KmindError
from kmind.extension import KnobInfo, Module
from kmind.extension import Value as Parameter
from kmind.runtime.budget import OwnerBudget
from kmind.runtime.holds.grants import Granted, grants_for
from kmind.runtime.holds.trial_holds import TrialHolds
from kmind.runtime.instance.checks import Checks
from kmind.runtime.instance.class_services import make_class_services
from kmind.runtime.instance.describe import describe, start_event, state_of
from kmind.runtime.instance.device.service import DeviceService
from kmind.runtime.instance.extension.service import ExtensionService
from kmind.runtime.instance.hook_gating import lost_hooks
from kmind.runtime.instance.state import InstanceState
from kmind.runtime.instance.telemetry import Telemetry, View
from kmind.runtime.instance.verdicts import Verdicts
from kmind.runtime.service import Service, ServiceError
from kmind.runtime.services import InstanceSpec, Services

__all__ = ["Instance"]

# Ids that an earlier extension may have used without our hearing of it.
_IDS_APART = 1 << 16
_LOOK_S = 0.01


class Instance:
    """A module bound to a target: ``services``, in the order in which they have their turns.

    Which services these are, the module's class says (``kmind.classes``).
    It closes the agent of ``spec``, and a driver's ``device``, which is open. ``fd`` is readable
    when the extension ended or said something.
    """

    def __init__(
        self, spec: InstanceSpec, services: Services, device: DeviceService | None = None
    ) -> None:
        self.spec = spec
        self.name = spec.name
        self.module, self.target = spec.module, spec.target
        self.params = dict(spec.params)
        self.mode = spec.mode
        self.failed = ""
        self.starting = False
        self.started = time.time()
        self.view = View()
        self._shared = services
        self._log = services.logger(spec.name)
        self._selector = selectors.DefaultSelector()
        self.fd = self._selector.fileno()
        self._budget = budget = OwnerBudget(services.now)
        self.holds = TrialHolds(spec, services)
        self.extension = ExtensionService(spec, services, self._selector, budget, self._knobs)
        made = make_class_services(
            spec, services, self._selector, self.holds, self.extension.effort, device
        )
        self.objective, self.experiments = made.objective, made.experiments
        self.device = made.device
        self.checks = Checks(spec, services, self.holds, self.extension, budget, self.view)
        self.telemetry = Telemetry(
            spec, services, self.view, budget, self.experiments, self.extension
        )
        self.verdicts = Verdicts(self.name, services, self.holds, self.experiments, budget)
        self.services: tuple[Service, ...] = (
            *([self.device] if self.device else []),
            self.extension,
            *([self.objective] if self.objective else []),
            self.holds,
            self.experiments,
            self.checks,
            self.telemetry,
            self.verdicts,
        )
        self._recorded_id = 0
        self._look_at = math.inf  # while another process takes a dead driver's place
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
        self._selector.register(self.spec.agent.action_fd, selectors.EVENT_READ)
        return True

    def launch(self) -> None:
        """Grant the knobs, and start the extension."""
        self.holds.knobs.grant(self._granted())
        agent = self.spec.agent
        for line in lost_hooks(self.module.manifest, self.target, agent.hooks):
            self._log(line)
        agent.set_mode(self.mode)
        self.starting = True
        self._start_extension(1)

    def _start_extension(self, first_id: int) -> None:
        device = self.device.entry() if self.device else None
        self.extension.start(self.module, self.params, first_id, device)

    def ready(self) -> bool:
        """Return true once the extension's heart beats, and its device, if any, is there.

        Raises KmindError if it has ended.
        """
        return self.extension.ready() and (self.device is None or self.device.ready())

    def begin(self) -> None:
        """Attach the hooks, arm the tick, and go to work."""
        self.starting = False
        self.spec.agent.start()
        self._work("loaded")

    def adopt(self, state: InstanceState) -> None:
        """Go on with what an earlier process started and wrote down; no knob is written.

        The agent is the one that was adopted. Raises KmindError if the extension has
        ended; then nothing of it is left to this object.
        """
        if state.process is None:
            raise KmindError(f"the extension of {self.name} was not started")
        self.extension.adopt(state.process)
        if self.device:
            self.device.adopt(state.device, state.process.pid)
        self.checks.misuse.adopt()
        self.started = state.started
        self.verdicts.last_id = self._recorded_id = state.last_id
        self.telemetry.told = state.windows
        unmeasured = self.experiments.adopt()
        self.holds.adopt(self._granted(), state.holds, state.yielded, unmeasured)
        self.experiments.take_up()
        self._work("taken over")

    def relaunch(self, module: Module, params: Mapping[str, Parameter]) -> None:
        """Start the extension anew, of ``module``'s present code; then ``ready`` and ``resume``.

        What is held is held on, until its hold ends. The module is of the same class.
        """
        first_id = self._next_ids()
        self.starting = True
        if self.objective:
            self.objective.stop("reloaded")
        self.extension.stop("reloaded")
        self.module, self.params = module, dict(params)
        self.telemetry.configure(module.manifest)
        self.experiments.configure(module.manifest, params)
        self.holds.reclaim()
        self.holds.knobs.grant(self._granted())
        if self.device:
            self.device.renew()
        self._start_extension(first_id)

    def _next_ids(self) -> int:
        first_id = self.verdicts.last_id + _IDS_APART
        if first_id >= 1 << 32:
            raise KmindError(
                f"the extension of {self.name} has used up all ids of recommendations",
                hint=f"kmind unload {self.name}, and load it again",
            )
        return first_id

    def resume(self, how: str = "reloaded") -> None:
        """Go to work again, with another extension; this is also the way out of emergency."""
        self.starting = False
        self.failed = ""
        self.spec.agent.set_mode(self.mode)
        self._work(how)

    def _work(self, how: str) -> None:
        if self.objective:
            self.objective.start(self.module, self.params, self.experiments.listen)
        self._shared.emit(start_event(self, how))
        if self.device:
            self._log(f"{self.device.path} is served by {self.name}")

    # Running

    @property
    def due(self) -> float:
        """Time of its next turn, in seconds of ``time.monotonic``."""
        if not self._active:
            return math.inf if self.failed or self._stopped else self._look_at
        return min(service.due for service in self.services)

    @property
    def _active(self) -> bool:
        return not (self.failed or self.starting or self._stopped)

    def step(self, timeout_s: float) -> None:
        """Do what there is to do, waiting for it at most ``timeout_s`` seconds."""
        if self.failed:
            return
        self._selector.select(max(0.0, min(timeout_s, self.due - self._shared.now())))
        self.handle(self.spec.agent.poll(0))
        self.compare_mode()
        self.run_due()

    def handle(self, actions: Iterable[Action]) -> None:
        """Do what the agent said."""
        actions = list(actions)
        stalled = any(a.kind == "mode" and a.mode == Mode.EMERGENCY for a in actions)
        stalled = stalled and not (self.starting or self.failed)
        self.verdicts.halted = bool(stalled or self.failed)
        try:
            for action in actions:
                if action.kind == "verdict":
                    self.verdicts.handle(action)
        except JournalError as error:
            self.emergency(f"changes cannot be kept on record: {error}")
        if stalled:
            self._stall()

    def compare_mode(self) -> None:
        """Notice an emergency that the ring to the owner had no room for."""
        if self._active and self.spec.agent.mode == Mode.EMERGENCY:
            self._stall()

    def _stall(self) -> None:
        if self.spec.agent.cause == Cause.UNANSWERED:
            self._lose(f"the driver of {self.name} left a request unanswered for too long")
            return
        silence_s = self.spec.deadline_s
        self._lose(f"the extension of {self.name} was silent for {silence_s:g} s")

    def run_due(self) -> None:
        """Give each service its turn; never waits."""
        if not self._active:
            self._look_after()
            return
        try:
            for service in self.services:
                service.run_due()
        except JournalError as error:
            self.emergency(f"changes cannot be kept on record: {error}")
        except ServiceError as error:
            self.emergency(str(error))
        else:
            if ended := self.extension.ended():
                self._lose(f"the extension of {self.name} {ended}")

    def _lose(self, why: str) -> None:
        # The process is dead, or as good as that: another one goes on, where the driver allows it.
        if self.device is None or self.failed or not self.device.may_recover():
            self.emergency(why)
            return
        self._log(f"{why}; another one goes on with {self.device.path}")
        self.starting = True
        self._look_at = self._shared.now()
        try:
            self.extension.stop("restarted")
            self.device.recover()
            self._start_extension(self._next_ids())
        except KmindError as error:
            self.starting = False
            self.emergency(f"{why}, and could not be started again: {error}")

    def _look_after(self) -> None:
        if math.isinf(self._look_at) or self.failed or self._stopped:
            return
        try:
            if not self.ready():
                self._look_at = self._shared.now() + _LOOK_S
                return
        except KmindError as error:
            self._look_at = math.inf
            self._lose(str(error))
            return
        self._look_at = math.inf
        self.resume("recovered")

    def set_mode(self, mode: Mode) -> None:
        """Move to another mode; what that one does not hold is put back."""
        if mode == Mode.EMERGENCY:
            self.emergency("requested by the admin")
            return
        if self.failed:
            raise KmindError(
                f"{self.name} is in emergency: {self.failed}", hint=f"kmind reload {self.name}"
            )
        self.spec.agent.set_mode(mode)
        self.mode = mode
        # An experiment ends with the old mode, before the new one undoes its hold.
        for service in (self.experiments, self.holds, self.telemetry):
            service.set_mode(mode)
        self._emit_mode(mode.name.lower(), "requested by the admin")

    def emergency(self, why: str) -> None:
        """Refuse everything, put everything back, and end the extension."""
        if self.failed:
            return
        self.failed = why
        self._look_at = math.inf
        if self.device:
            self.device.fail(why)
        try:
            self.spec.agent.set_mode(Mode.EMERGENCY)
        except KmindError as error:
            self._log(str(error))
        for service in reversed(self.services):
            if service is not self.device:  # it stays, and fails, until the instance is ended
                service.stop("emergency")
        self._emit_mode("emergency", why)
        self.view.mode = "emergency"

    # Ending

    def stop(self) -> dict[str, Any]:
        """Put everything back and end extension and agent; what was changed, in words.

        ``changes`` lists each knob with its values and what it holds now; ``restored``
        says whether each holds its baseline again, or what somebody else has set, or has gone.
        """
        self._stop_services("the run ended")
        self.telemetry.poll()
        try:
            account = self.account()
        except KmindError:
            account = {}
        self.spec.agent.close()
        self._selector.close()
        self._stopped = True
        changes = self.holds.summary()
        restored = all(c["yielded"] or c["gone"] or c["now"] == c["baseline"] for c in changes)
        summary: dict[str, Any] = {"changes": changes, "restored": restored, "failed": self.failed}
        self._shared.emit(events.Stop(instance=self.name, account=account, **summary))
        return summary

    def let_go(self) -> None:
        """Leave agent, extension and knobs as they are, for another process to adopt.

        But an experiment ends, with the previous value.
        """
        self.experiments.abort("the daemon is being replaced")
        if self.objective:
            self.objective.stop("the daemon is being replaced")
        self.extension.let_go()
        if self.device:
            self.device.let_go()
        self._selector.close()
        self._stopped = True

    def _stop_services(self, why: str) -> None:
        # In reverse: first what changes the machine, last what it comes from.
        for service in reversed(self.services):
            service.stop(why)

    # Telling

    @property
    def dirty(self) -> bool:
        """True if ``record`` has changed in a way that must not be lost."""
        return self.holds.dirty or self.verdicts.last_id > self._recorded_id + _IDS_APART // 2

    def record(self, *, module: str, slot: int, generation: int) -> InstanceState:
        """Return what ``adopt`` takes, and be ``dirty`` no longer."""
        self.holds.dirty = False
        self._recorded_id = self.verdicts.last_id
        return state_of(self, module=module, slot=slot, generation=generation)

    def account(self) -> dict[str, int]:
        """Return the agent's counters, and what the extension has cost its owner."""
        return {**self.spec.agent.account(), **self._budget.account()}

    def status(self) -> dict[str, Any]:
        """Return what an admin may want to know of it; JSON can hold it."""
        return describe(self)

    def _granted(self) -> list[Granted]:
        policy = self._shared.policy
        granted, refused = grants_for(self.module, self.target, policy, self.params)
        for name, why in refused.items():
            self._log(f"knob {name} is not granted: {why}")
        return granted

    def _knobs(self) -> dict[str, KnobInfo]:
        return {granted.knob.name: granted.info() for granted in self.holds.knobs.usable()}

    def _emit_mode(self, mode: str, why: str) -> None:
        self._shared.emit(events.Mode(instance=self.name, mode=mode, why=why))
