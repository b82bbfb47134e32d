# SPDX-License-Identifier: Apache-2.0
"""Settings of a module that makes its own experiments, confirmed by the owner before they stand.

Such a module (``by = "module"``) moves several knobs and says itself what helps. Its word decides
nothing: the owner lets a setting stand unconfirmed for a bounded time only (`exploring`), and
measures what is to stand longer. All that is held is put back and set again by turns, in random
order, and compared by the owner's own readings of the objective.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from kmind.agent.types import Action, Kind, Mode
from kmind.errors import JournalError, KmindError
from kmind.evidence import Arm, Better, Experiment
from kmind.extension import Manifest
from kmind.extension import Value as Parameter
from kmind.runtime.experiment.back_off import BackOff
from kmind.runtime.experiment.case import Pending
from kmind.runtime.experiment.confirm.record import Records, Task
from kmind.runtime.experiment.confirm.standing import Standing
from kmind.runtime.experiment.designs import confirmation_design
from kmind.runtime.experiment.exploring import Collapse, Proof, Setting
from kmind.runtime.experiment.measure.effort import Effort
from kmind.runtime.experiment.measure.readings import Readings
from kmind.runtime.experiment.runner import ExperimentRunner
from kmind.runtime.experiment.waiting import Waiting
from kmind.runtime.holds.grants import Granted
from kmind.runtime.holds.trial_holds import TrialHolds
from kmind.runtime.objective.sources import Heard
from kmind.runtime.service import Service
from kmind.runtime.services import InstanceSpec, Services

__all__ = ["Confirm"]

_EARLY = (
    0.75  # of the time that it may stand, after which the setting that stood most of it is measured
)


@dataclass
class _Running:
    # An experiment under way on all that is held.
    task: Task
    trial: ExperimentRunner
    level: float
    setting: Setting
    knobs: list[Granted]
    again: bool

    @property
    def tried(self) -> bool:
        # True if the current setting was not confirmed before.
        return not self.again and self.trial.arm == "candidate"

    @property
    def convinces(self) -> bool:
        # A confirmed setting need not prove its gain again, but has to look better still.
        experiment = self.trial.experiment
        if experiment.outcome == "gain":
            return True
        interval = experiment.interval
        better = interval is not None and interval.ratio > 1
        return self.again and experiment.outcome == "no change" and better


class Confirm(Service):
    """The settings of one instance (``who``) whose module measures by itself.

    It listens to what becomes of ``holds``. Call ``look`` about
    once a second. KmindError of the store becomes a line in the log.
    """

    def __init__(
        self,
        spec: InstanceSpec,
        services: Services,
        holds: TrialHolds,
        *,
        rng: np.random.Generator | None = None,
        effort: Callable[[], Effort | None] | None = None,
    ) -> None:
        self._agent, self._holds = spec.agent, holds
        self._mode, self._effort, self._now = spec.mode, effort, services.now
        self._rng = np.random.default_rng() if rng is None else rng
        self._standing = Standing(holds, self._now)
        self._running: _Running | None = None
        self._rest = ""  # why the rest of a setting is to be put back
        self._waiting = Waiting(holds, self._now, "set")
        self._records = Records(spec, services)
        self._put_off = BackOff(self._now)
        holds.on_gone(self._on_gone)
        self.configure(spec.manifest, spec.params)

    def configure(self, manifest: Manifest, params: Mapping[str, Parameter]) -> None:
        """Use another version of the module from now on."""
        self.abort("the module was reloaded")
        own = {"block": "block_s", "settle": "wash_out_s", "recheck": "recheck_s"}
        settings = {field: float(params[name]) for name, field in own.items() if name in params}
        self._plan = msgspec.structs.replace(manifest.evidence, **settings)
        self._manifest = manifest
        self._source: Readings | None = None
        self._standing.begin(self._plan)

    def listen(self, metric: str, better: Better) -> Callable[[Heard], None]:
        """Use this objective; return the receiver of the owner's readings of it."""
        self._source = Readings(
            self._manifest, self._agent, metric=metric, better=better, now=self._now
        )
        self._collapse = Collapse(better)
        self.take_up()
        return self._hear

    def _hear(self, heard: Heard) -> None:
        if self._source is None:
            return
        self._source.receive(heard)
        self._watch(heard)
        standing = self._standing
        if self._running is None and (level := self._source.level(standing.since)):
            standing.proofs.under(standing.latest, level)

    def _watch(self, heard: Heard) -> None:
        # Only readings of one setting alone say something of it.
        setting, begin_s = self._standing.latest, self._standing.since + self._plan.wash_out_s
        if self._running or self._rest or heard.start_s < begin_s:
            return
        unconfirmed = bool(setting) and not self._standing.is_confirmed(setting)
        floor = self._source.floor if self._source else 0.0
        value = None if heard.value is None else heard.value + floor
        if self._collapse.learn_one(value, unconfirmed=unconfirmed):
            self._rest = "the objective is three times worse than before"
            self._put_off.postpone(setting)

    @property
    def due(self) -> float:
        """Time of the next turn, in the clock's seconds."""
        if self._rest:
            return -math.inf
        return self._running.trial.due if self._running else math.inf

    @property
    def running(self) -> bool:
        """True while an experiment runs."""
        return self._running is not None

    def status(self) -> dict[str, Any]:
        """Return the experiment that runs, or null."""
        running = self._running
        if running is None:
            return {"experiment": None}
        return {"experiment": self._records.status(running.task, running.trial.experiment)}

    # Current values

    def _tick(self) -> None:
        running = self._running
        self._standing.tick(
            measuring=running is not None, tried=running is not None and running.tried
        )

    def _recall(self, setting: Setting) -> None:
        # A setting confirmed by an earlier run may stay, and is rechecked soon.
        proofs = self._standing.proofs
        if not setting or self._mode != Mode.AUTO or proofs.get(setting):
            return
        if self._source is None or setting in self._put_off or proofs.was_refuted(setting):
            return
        values = self._standing.values(setting)
        if values is None:
            return
        number = self._records.confirmed(*values, self._source.metric, self._plan.memory_s)
        if number:
            proofs.remember(setting, Proof(number, proofs.first_s / 2))

    # Approved values

    def approved(
        self, granted: Granted, action: Action, reason: str, evidence: Mapping[str, Any]
    ) -> None:
        """Set what was approved, have it wait, or refuse it. JournalError passes through."""
        self._tick()
        if self._holds.is_current(granted, action.value):
            # The agent goes by what waits.
            self.renewed(granted, action)
            return
        self._waiting.pop(granted.key)
        hold_s = self._holds.hold_s(action)
        pending = Pending(granted, action, reason, evidence, self._now() + hold_s)
        if running := self._running:
            if granted.knob.decode(action.value) == self._holds.baseline(granted):
                # Nobody has to hold a baseline: it is set at the end.
                hold_s, pending.until = running.trial.experiment.design.max_s, math.inf
            self._holds.prolong(granted, hold_s)
            self._waiting.add(pending)
        elif refusal := self._refusal(pending):
            self._holds.refuse(granted, action.id, KmindError(refusal))
        elif self._may(pending):
            self._set(pending)
        else:
            self._holds.prolong(granted, hold_s)
            self._waiting.add(pending)

    def renewed(self, granted: Granted, action: Action) -> None:
        """Hold on to what was recommended again."""
        if self._waiting.renew(granted, action):
            self._holds.prolong(granted, self._holds.hold_s(action))
        else:
            why = "the current values were recommended again before the setting was applied"
            self._waiting.pass_over(why, granted.key)
        self._holds.renew(granted, action)

    def _refusal(self, pending: Pending) -> str:
        what = "what would stand with it was not better than the baseline"
        return self._put_off.refusal(self._standing.after(pending), what)

    def _may(self, pending: Pending) -> bool:
        after = self._standing.after(pending)
        if not self._standing.is_retreat(after):
            self._recall(after)
        return self._standing.allows(after)

    def _set(self, pending: Pending) -> None:
        granted, action = pending.granted, pending.action
        standing = self._standing
        after = standing.after(pending)
        proof = standing.proofs.get(after) if standing.is_confirmed(after) else None
        known = f"not confirmed: it may stand for {standing.exploring.longest_s:g} s"
        if proof is not None:
            known = f"confirmed in experiment {proof.number}"
        words = pending.reason, pending.evidence
        if granted.knob.decode(action.value) == self._holds.baseline(granted):
            self._holds.release(granted, action, pending.reason)
        elif not self._holds.go_back(granted, action, *words, known):
            self._holds.apply(granted, action, *words, known, trial=True)
        self._tick()
        if proof is not None and standing.setting == after:
            for other in self._holds.held_knobs():
                self._holds.confirm(other)

    # Actions

    def poll(self, *, busy: bool) -> None:
        """See what has stood for long enough, and what may be set now."""
        self._tick()
        self._waiting.expire()
        if self._running or self._rest:
            return
        setting = self._standing.setting
        if setting and not self._standing.is_confirmed(setting):
            self._judge(setting)
        self._set_waiting()

    def _judge(self, setting: Setting) -> None:
        exploring, proof = self._standing.exploring, self._standing.proofs.get(setting)
        over = exploring.used_up or exploring.stretch_s >= exploring.longest_s
        early = exploring.stretch_s >= _EARLY * exploring.longest_s
        if not (over or proof or (early and exploring.dominates(setting))):
            return
        why = self._why_not()
        if not why:
            why = self._begin(setting, again=proof is not None)
        if why and over:
            self._put_back(f"it stood for as long as it may without being confirmed: {why}")

    def _set_waiting(self) -> None:
        for pending in self._waiting:
            if self._running is None and self._may(pending):
                self._waiting.pop(pending.granted.key)
                if refusal := self._refusal(pending):
                    self._holds.refuse(pending.granted, pending.action.id, KmindError(refusal))
                else:
                    self._set(pending)

    def _why_not(self) -> str:
        if self._mode != Mode.AUTO:
            return f"in mode {self._mode.name.lower()} nothing is"
        if self._source is None:
            return "the module has no objective that kmind could measure"
        return "" if self._source.fresh else "the objective has no value"

    def _put_back(self, why: str) -> None:
        # A knob that resists stays held, and is tried again at the next look.
        for granted in reversed(self._holds.held_knobs()):
            try:
                self._holds.take_back(granted, why)
            except JournalError:
                raise
            except KmindError as error:
                self._records.log(str(error))
        self._tick()

    # Running one

    def _begin(self, setting: Setting, *, again: bool) -> str:
        # The reason why it cannot be, or "".
        values, source = self._standing.values(setting), self._source
        if values is None or source is None:
            return "a knob is no longer granted"
        level = None if again else self._records.draw()
        if level == 0:
            return "there were as many experiments today as one may believe, until 00:00 UTC"
        knobs = self._holds.held_knobs()
        design = confirmation_design(source, self._plan, [granted.knob for granted in knobs], level)
        experiment = Experiment(design, self._rng, None, source.guards())
        try:
            for granted in knobs:
                self._holds.remeasure(granted)
        except JournalError:
            raise
        except KmindError as error:
            self._records.hand_on(level or 0.0)
            return str(error)

        def switch(arm: Arm) -> None:
            for granted in knobs if arm == "candidate" else reversed(knobs):
                self._holds.switch(granted, candidate=arm == "candidate")

        task = self._records.begin(*values, source.metric, again=again)
        trial = ExperimentRunner(experiment, source.metric, source, switch, self._now, self._effort)
        trial.arm = "candidate"
        self._running = _Running(task, trial, level or 0.0, setting, knobs, again)
        self._agent.notify(Kind.MEASURING, 0, 1)
        self._safely(trial.start)
        self._tick()
        return ""

    def run_due(self) -> None:
        """Do what is due."""
        if self._rest:
            why, self._rest = self._rest, ""
            self._put_back(why)
        running = self._running
        if running is None:
            return
        self._tick()
        self._safely(running.trial.run_due)
        if self._running is None:
            return
        self._tick()
        self._records.announce(running.task, running.trial.experiment)
        if running.trial.over:
            self._holds.poll()  # somebody else may have set a knob
            if self._running is not None:
                self._conclude(running)

    def _safely(self, step: Callable[[], None]) -> None:
        # A knob that cannot be set ends the experiment.
        try:
            step()
        except JournalError:
            raise
        except KmindError as error:
            self._holds.poll()
            if (running := self._running) is not None:
                running.trial.experiment.abort(str(error))
                self._conclude(running, postpone=True)

    def _conclude(self, running: _Running, *, postpone: bool = False) -> None:
        experiment = running.trial.experiment
        kept = self._mode == Mode.AUTO and running.convinces and self._keep(running)
        if not kept:
            outcome = experiment.outcome or "aborted"
            why = f"{running.task.pair}: {outcome}, {experiment.reason}"
            keys = {granted.key for granted in running.knobs}
            for granted in reversed(self._holds.held_knobs()):
                if granted.key in keys:
                    self._holds.drop(granted, outcome, why, experiment=running.task.number)
            if postpone or outcome != "aborted" or experiment.broken:
                self._put_off.postpone(running.setting)
        self._end(running, kept=kept)
        self._tick()
        if kept:
            self._set_waiting()
        else:
            self._waiting.pass_over("the rest of its setting was put back")

    def _keep(self, running: _Running) -> bool:
        number = running.task.number
        try:
            for granted in running.knobs:
                self._holds.keep(granted, "", {}, again=True, experiment=number)
                code = granted.knob.encode(self._holds.held_value(granted))
                self._agent.admission.set_current(*granted.key, code)
        except JournalError:
            raise
        except KmindError as error:
            self._records.log(str(error))
            return False
        self._put_off.forget(running.setting)
        blocks = running.trial.experiment.blocks
        values = [value for arm, value in blocks if arm == "candidate" and value]
        level = statistics.median(values) if values else None
        self._standing.proofs.confirmed(running.setting, number, level)
        return True

    def _end(self, running: _Running, *, kept: bool, cut: bool = False) -> None:
        # What it drew goes on if it was no error, or could not be one; but not if the extension
        # ended it so soon, for it could do that for ever.
        self._running = None
        self._agent.notify(Kind.MEASURING, 0, 0)
        experiment = running.trial.experiment
        gain = experiment.outcome == "gain" and self._mode == Mode.AUTO
        if gain or not (experiment.pairs or cut):
            self._records.hand_on(running.level)
        if not kept:
            self._standing.proofs.refuted(running.setting)
        self._records.end(running.task, experiment, kept=kept)

    # Being interrupted

    def set_mode(self, mode: Mode) -> None:
        """Follow to another mode; what is being measured ends."""
        self.abort(f"the mode is {mode.name.lower()} now")
        self._mode = mode
        if mode != Mode.AUTO:
            self._standing.proofs.clear()

    def abort(self, why: str) -> None:
        """End the experiment that runs, and put all back; what waits is refused."""
        if (running := self._running) is not None:
            running.trial.experiment.abort(why)
            self._conclude(running)
        self._waiting.pass_over(why)

    def take_up(self) -> None:
        """Go on with what an earlier owner had confirmed, once the objective is known."""
        self._recall(self._standing.setting)
        self._tick()

    def _on_gone(self, key: tuple[int, int], why: str) -> None:
        """A knob is held no longer; what was measured with it ends, and the rest goes back."""
        self._waiting.pass_over(why, key)
        running = self._running
        if running is not None and key in {granted.key for granted in running.knobs}:
            cut = running.trial.experiment.pairs == 0
            running.trial.experiment.abort(why)
            self._put_off.postpone(running.setting)
            self._end(running, kept=False, cut=cut)
            self._rest = why
        self._tick()
