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
from kmind.evidence import Arm, Better, Design, Experiment
from kmind.extension import Manifest
from kmind.extension import Value as Parameter
from kmind.runtime.experiment.case import Pending
from kmind.runtime.experiment.effort import Effort
from kmind.runtime.experiment.exploring import START_S, Collapse, Exploring, Proof, Proofs, Setting
from kmind.runtime.experiment.readings import Readings
from kmind.runtime.experiment.record import Records, Task
from kmind.runtime.experiment.runner import ExperimentRunner
from kmind.runtime.holds.grants import Granted
from kmind.runtime.holds.trial_holds import TrialHolds
from kmind.runtime.objective.sources import Heard
from kmind.runtime.service import Service
from kmind.runtime.services import InstanceSpec, Services

__all__ = ["Confirm"]

_PAIRS, _PAIRS_AGAIN = 20, 10
_CALIBRATION = 5
_SLOW_S = 1.5  # a knob that works slowly is given that long at least
_LOSS_LEVEL = 0.01  # the error that the high end may make, which a loss stands on
_EARLY = 0.75  # of the time that it may stand, after which what stood most of it is measured
_BACK_OFF_S = 30.0
_LONGEST_S = 3600.0
_MOST_PUT_OFF = 256


@dataclass
class _Running:
    # An experiment under way on all that is held.
    task: Task
    trial: ExperimentRunner
    level: float
    setting: Setting
    knobs: list[Granted]
    again: bool


class Confirm(Service):
    """The settings of one instance (``who``) whose module measures by itself.

    It listens to what becomes of ``changes``. Call ``look`` about
    once a second. KmindError of the store is told as a line in the log.
    """

    def __init__(
        self,
        spec: InstanceSpec,
        services: Services,
        changes: TrialHolds,
        *,
        rng: np.random.Generator | None = None,
        effort: Callable[[], Effort | None] | None = None,
    ) -> None:
        self._who, self._target = spec.name, spec.target
        self._agent, self._changes = spec.agent, changes
        self._store, self._emit = services.evidence, services.emit
        self._mode, self._effort, self._now = spec.mode, effort, services.now
        self._rng = np.random.default_rng() if rng is None else rng
        self._exploring = Exploring()
        self._running: _Running | None = None
        self._stood: tuple[Setting, float] = frozenset(), self._now()  # what stands, and since when
        self._rest = ""  # why the rest of a setting is to be put back
        self._waiting: dict[tuple[int, int], Pending] = {}
        self._put_off: dict[Setting, tuple[float, float]] = {}
        changes.on_gone(self._on_gone)
        self.configure(spec.manifest, spec.params)

    def configure(self, manifest: Manifest, params: Mapping[str, Parameter]) -> None:
        """Go by another version of the module from now on."""
        self.abort("the module was reloaded")
        own = {"block": "block_s", "settle": "wash_out_s", "recheck": "recheck_s"}
        said = {field: float(params[name]) for name, field in own.items() if name in params}
        self._plan = msgspec.structs.replace(manifest.evidence, **said)
        self._manifest = manifest
        self._source: Readings | None = None
        self._proofs = Proofs(self._plan.recheck_s)
        self._exploring.begin(self._plan.block_s + self._plan.wash_out_s)
        self._records = Records(
            self._who, manifest.name, self._target, self._agent.backend, self._store, self._emit
        )

    def listen(self, metric: str, better: Better) -> Callable[[Heard], None]:
        """Go by this objective; what is returned takes the owner's readings of it."""
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
        setting, since = self._stood
        if self._running is None and (level := self._source.level(since)):
            self._proofs.under(setting, level)

    def _watch(self, heard: Heard) -> None:
        # Only readings of one setting alone say something of it.
        setting, since = self._stood
        if self._running or self._rest or heard.start_s < since + self._plan.wash_out_s:
            return
        unconfirmed = bool(setting) and not self._is_confirmed(setting)
        floor = self._source.floor if self._source else 0.0
        value = None if heard.value is None else heard.value + floor
        if self._collapse.learn_one(value, unconfirmed=unconfirmed):
            self._rest = "the objective is three times worse than before"
            self._postpone(setting)

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

    # What stands

    def _setting(self) -> Setting:
        return frozenset(
            (each.key, value)
            for each in self._changes.held_knobs()
            if (value := self._changes.held_value(each)) != self._changes.baseline(each)
        )

    def _tick(self) -> None:
        now, setting, running = self._now(), self._setting(), self._running
        if running is not None or setting != self._stood[0]:
            self._stood = setting, now
        self._proofs.tick(now, setting if running is None else frozenset())
        unconfirmed = setting
        if running is not None:
            tried = not running.again and running.trial.arm == "candidate"
            unconfirmed = setting if tried else frozenset()
        elif self._is_confirmed(setting):
            unconfirmed = frozenset()
        self._exploring.tick(now, unconfirmed)

    def _is_confirmed(self, setting: Setting) -> bool:
        proof = self._proofs.get(setting) if self._mode == Mode.AUTO else None
        return proof is not None and not proof.owed

    def _recall(self, setting: Setting) -> None:
        # What an earlier run had confirmed may stand, and is measured again soon.
        if not setting or self._mode != Mode.AUTO or self._proofs.get(setting):
            return
        if self._source is None or setting in self._put_off or self._proofs.was_refuted(setting):
            return
        values = self._values(setting)
        if values is None:
            return
        found = self._records.confirmed(*values, self._source.metric, self._plan.memory_s)
        if found:
            self._proofs.remember(setting, Proof(found, self._proofs.first_s / 2))

    def _values(self, setting: Setting) -> tuple[dict[str, Any], dict[str, Any]] | None:
        # Baselines and values, by name.
        old, new = {}, {}
        for key, value in setting:
            each = self._changes.knobs.get(*key)
            if each is None:
                return None
            old[each.knob.name], new[each.knob.name] = self._changes.baseline(each), value
        return old, new

    # What the agent let through

    def approved(
        self, each: Granted, action: Action, reason: str, evidence: Mapping[str, Any]
    ) -> None:
        """Set what was approved, have it wait, or refuse it. JournalError passes through."""
        self._tick()
        if self._changes.is_current(each, action.value):
            # The agent goes by what waits.
            self.renewed(each, action)
            return
        self._waiting.pop(each.key, None)
        hold_s = self._changes.hold_s(action)
        pending = Pending(each, action, reason, evidence, self._now() + hold_s)
        if running := self._running:
            if each.knob.decode(action.value) == self._changes.baseline(each):
                # Nobody has to hold a baseline: it is set at the end.
                hold_s, pending.until = running.trial.experiment.design.max_s, math.inf
            self._changes.prolong(each, hold_s)
            self._waiting[each.key] = pending
        elif refusal := self._refusal(pending):
            self._changes.refuse(each, action.id, KmindError(refusal))
        elif self._may(pending):
            self._set(pending)
        else:
            self._changes.prolong(each, hold_s)
            self._waiting[each.key] = pending

    def renewed(self, each: Granted, action: Action) -> None:
        """Hold on to what was recommended again."""
        pending = self._waiting.get(each.key)
        if pending is not None and pending.action.value == action.value:
            pending.action, hold_s = action, self._changes.hold_s(action)
            pending.until = max(pending.until, self._now() + hold_s)
            self._changes.prolong(each, hold_s)
        elif pending is not None:
            del self._waiting[each.key]
            why = "the current values were recommended again before the setting was applied"
            self._changes.pass_over(each, pending.action.id, why)
        self._changes.renew(each, action)

    def _after(self, pending: Pending) -> Setting:
        # What would stand with it.
        each = pending.each
        rest = frozenset(item for item in self._setting() if item[0] != each.key)
        value = each.knob.decode(pending.action.value)
        return rest if value == self._changes.baseline(each) else rest | {(each.key, value)}

    def _refusal(self, pending: Pending) -> str:
        until, pause = self._put_off.get(self._after(pending), (0.0, 0.0))
        if (left := until - self._now()) <= 0:
            return ""
        return (
            f"what would stand with it was not better than the baseline {pause - left:.0f} s ago: "
            f"it is not tried again for {left:.0f} s"
        )

    def _may(self, pending: Pending) -> bool:
        after = self._after(pending)
        if not after or after < self._setting():
            return True  # towards the baseline
        self._recall(after)
        if self._is_confirmed(after):
            return True
        if self._mode == Mode.AUTO and self._proofs.within(after):
            return not self._exploring.used_up
        return self._exploring.left_s >= START_S

    def _set(self, pending: Pending) -> None:
        each, action = pending.each, pending.action
        after = self._after(pending)
        proof = self._proofs.get(after) if self._is_confirmed(after) else None
        known = f"not confirmed: it may stand for {self._exploring.longest_s:g} s"
        if proof is not None:
            known = f"confirmed in experiment {proof.number}"
        words = pending.reason, pending.evidence
        if each.knob.decode(action.value) == self._changes.baseline(each):
            self._changes.release(each, action, pending.reason)
        elif not self._changes.go_back(each, action, *words, known):
            self._changes.apply(each, action, *words, known, trial=True)
        self._tick()
        if proof is not None and self._setting() == after:
            for other in self._changes.held_knobs():
                self._changes.confirm(other)

    # What is to be done

    def poll(self, *, busy: bool) -> None:
        """See what has stood for long enough, and what may be set now."""
        self._tick()
        for key, pending in list(self._waiting.items()):
            if self._now() >= pending.until:
                del self._waiting[key]
                error = KmindError("it was not renewed before it could be set")
                self._changes.refuse(pending.each, pending.action.id, error)
        if self._running or self._rest:
            return
        setting = self._setting()
        if setting and not self._is_confirmed(setting):
            self._judge(setting)
        self._set_waiting()

    def _judge(self, setting: Setting) -> None:
        exploring, proof = self._exploring, self._proofs.get(setting)
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
        for key, pending in list(self._waiting.items()):
            if self._running is None and self._may(pending):
                del self._waiting[key]
                if refusal := self._refusal(pending):
                    self._changes.refuse(pending.each, pending.action.id, KmindError(refusal))
                else:
                    self._set(pending)

    def _why_not(self) -> str:
        if self._mode != Mode.AUTO:
            return f"in mode {self._mode.name.lower()} nothing is"
        if self._source is None:
            return "the module has no objective that kmind could measure"
        return "" if self._source.fresh else "the objective has no value"

    def _put_back(self, why: str) -> None:
        # Whatever resists is held on, and tried again at the next look.
        for each in reversed(self._changes.held_knobs()):
            try:
                self._changes.take_back(each, why)
            except JournalError:
                raise
            except KmindError as error:
                self._records.log(str(error))
        self._tick()

    # Running one

    def _design(self, level: float, knobs: list[Granted], *, again: bool) -> Design:
        assert self._source is not None
        slow = any(each.knob.settle == "slow" for each in knobs)
        block_s = max(2 * self._plan.block_s, 1.2 * self._source.needs_s)
        wash_out_s = max(self._plan.wash_out_s, _SLOW_S if slow else 0.0)
        blocks = 2 * (_PAIRS_AGAIN if again else _PAIRS) + _CALIBRATION
        design = Design(
            block_s=block_s,
            wash_out_s=wash_out_s,
            max_s=blocks * (block_s + wash_out_s),
            better=self._source.better,
            calibration=_CALIBRATION,
        )
        if again:
            return design
        alpha = level + _LOSS_LEVEL
        return Design.from_dict(design.to_dict() | {"alpha": alpha, "keep_share": level / alpha})

    def _begin(self, setting: Setting, *, again: bool) -> str:
        # Why it cannot be, or "".
        values, source = self._values(setting), self._source
        if values is None or source is None:
            return "a knob is no longer granted"
        level = 0.0 if again else self._records.draw()
        if not (level or again):
            return "there were as many experiments today as one may believe, until 00:00 UTC"
        knobs = self._changes.held_knobs()
        experiment = Experiment(
            self._design(level, knobs, again=again), self._rng, None, source.guards()
        )
        try:
            for each in knobs:
                self._changes.remeasure(each)
        except JournalError:
            raise
        except KmindError as error:
            self._records.hand_on(level)
            return str(error)

        def switch(arm: Arm) -> None:
            for each in knobs if arm == "candidate" else reversed(knobs):
                self._changes.switch(each, candidate=arm == "candidate")

        task = self._records.begin(*values, source.metric, again=again)
        trial = ExperimentRunner(experiment, source.metric, source, switch, self._now, self._effort)
        trial.arm = "candidate"
        self._running = _Running(task, trial, level, setting, knobs, again)
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
            self._changes.poll()  # somebody else may have set a knob
            if self._running is not None:
                self._conclude(running)

    def _safely(self, step: Callable[[], None]) -> None:
        # A knob that cannot be set ends the experiment.
        try:
            step()
        except JournalError:
            raise
        except KmindError as error:
            self._changes.poll()
            if (running := self._running) is not None:
                running.trial.experiment.abort(str(error))
                self._conclude(running, postpone=True)

    def _conclude(self, running: _Running, *, postpone: bool = False) -> None:
        experiment = running.trial.experiment
        kept = self._keeps(running) and self._keep(running)
        if not kept:
            outcome = experiment.outcome or "aborted"
            why = f"{running.task.pair}: {outcome}, {experiment.reason}"
            keys = {each.key for each in running.knobs}
            for each in reversed(self._changes.held_knobs()):
                if each.key in keys:
                    self._changes.drop(each, outcome, why, experiment=running.task.number)
            if postpone or outcome != "aborted" or experiment.broken:
                self._postpone(running.setting)
        self._end(running, kept=kept)
        self._tick()
        if kept:
            self._set_waiting()
        else:
            self._pass_over("the rest of its setting was put back")

    def _keeps(self, running: _Running) -> bool:
        experiment = running.trial.experiment
        if self._mode != Mode.AUTO:
            return False
        if experiment.outcome == "gain":
            return True
        # What was confirmed need not prove it once more, but has to look better still.
        interval = experiment.interval
        better = interval is not None and interval.ratio > 1
        return running.again and experiment.outcome == "no change" and better

    def _keep(self, running: _Running) -> bool:
        number = running.task.number
        try:
            for each in running.knobs:
                self._changes.keep(each, "", {}, again=True, experiment=number)
                code = each.knob.encode(self._changes.held_value(each))
                self._agent.admission.set_current(*each.key, code)
        except JournalError:
            raise
        except KmindError as error:
            self._records.log(str(error))
            return False
        self._put_off.pop(running.setting, None)
        blocks = running.trial.experiment.blocks
        values = [value for arm, value in blocks if arm == "candidate" and value]
        level = statistics.median(values) if values else None
        self._proofs.confirmed(running.setting, number, level)
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
            self._proofs.refuted(running.setting)
        self._records.end(running.task, experiment, kept=kept)

    def _postpone(self, setting: Setting) -> None:
        if len(self._put_off) >= _MOST_PUT_OFF:
            del self._put_off[next(iter(self._put_off))]
        _, pause = self._put_off.pop(setting, (0.0, _BACK_OFF_S / 2))
        pause = min(2 * pause, _LONGEST_S)
        self._put_off[setting] = (self._now() + pause, pause)

    def _pass_over(self, why: str) -> None:
        waiting, self._waiting = self._waiting, {}
        for pending in waiting.values():
            self._changes.pass_over(pending.each, pending.action.id, why)

    # Being interrupted

    def set_mode(self, mode: Mode) -> None:
        """Follow to another mode; what is being measured ends."""
        self.abort(f"the mode is {mode.name.lower()} now")
        self._mode = mode
        if mode != Mode.AUTO:
            self._proofs.clear()

    def abort(self, why: str) -> None:
        """End the experiment that runs, and put all back; what waits is refused."""
        if (running := self._running) is not None:
            running.trial.experiment.abort(why)
            self._conclude(running)
        self._pass_over(why)

    def take_up(self) -> None:
        """Go on with what an earlier owner had confirmed, once the objective is known."""
        self._recall(self._setting())
        self._tick()

    def _on_gone(self, key: tuple[int, int], why: str) -> None:
        """A knob is held no longer; what was measured with it ends, and the rest goes back."""
        if (pending := self._waiting.get(key)) is not None and pending.each.key == key:
            del self._waiting[key]
            self._changes.pass_over(pending.each, pending.action.id, why)
        running = self._running
        if running is not None and key in {each.key for each in running.knobs}:
            cut = running.trial.experiment.pairs == 0
            running.trial.experiment.abort(why)
            self._postpone(running.setting)
            self._end(running, kept=False, cut=cut)
            self._rest = why
        self._tick()
