# SPDX-License-Identifier: Apache-2.0
"""From approved values to experiments, and from their outcomes to what stands.

The extension only proposes. Where its module declares an outcome, an approved value has to
show a gain, measured here, before it stands. What was kept in the same circumstances
before is remembered: it is applied at once, and measured again later.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np

from kmind.agent._base import Action, Mode
from kmind.errors import JournalError, KmindError
from kmind.evidence import Arm, Design, Experiment
from kmind.extension import Manifest
from kmind.extension import Value as Parameter
from kmind.knobs import Target, Value
from kmind.runtime._owned import OwnedAgent
from kmind.runtime.calm import Calm
from kmind.runtime.changes import Emit
from kmind.runtime.effort import Effort
from kmind.runtime.evidence_store import UNMEASURED, EvidenceStore
from kmind.runtime.grants import Granted
from kmind.runtime.measured import MeasuredChanges
from kmind.runtime.meter import Block, Meter
from kmind.runtime.trial import Trial

__all__ = ["CONTEXT", "OUTCOME", "Trials"]

OUTCOME = "outcome"
"""Entry of a recommendation's evidence: the outcome to go by."""

CONTEXT = "context"
"""Entry of a recommendation's evidence: the circumstances, to remember what was kept in them."""

_PARAMETERS = (("min_gain", "min_gain"), ("recheck", "recheck_s"))  # a module's own, if it has them
# Blocks under the incumbent, the fewest that give a noise: those of an experiment that was won
# are often as many, so that the next one can begin at once.
_CALIBRATION = 5
_BACK_OFF_S = 30.0
_LONGEST_S = 3600.0
_MOST_PUT_OFF = 256
_CONTEXT_MOST = 100
_NOT_MEASURED = "not measured: the module declares no outcome"
_BY_MODULE = "not measured here: the module runs experiments of its own"


@dataclass
class _Case:
    # A value against the one before it, in certain circumstances.
    each: Granted
    incumbent: Value
    candidate: Value
    metric: str
    context: str
    reason: str
    evidence: Mapping[str, Any]
    recheck_at: float = math.inf
    pause_s: float = 0.0

    @property
    def key(self) -> tuple[Any, ...]:
        return (*self.each.key, self.candidate, self.context)


@dataclass
class _Running:
    case: _Case
    trial: Trial
    number: int
    rec_id: int
    again: bool
    told: bool = False


class Trials:
    """The experiments of one instance (``who``): at most one at a time.

    It listens to what becomes of ``changes``. Call ``turn`` when it is ``due``. KmindError of the
    store is told as a line in the log, and stops no experiment.
    """

    def __init__(
        self,
        who: str,
        manifest: Manifest,
        params: Mapping[str, Parameter],
        target: Target,
        *,
        agent: OwnedAgent,
        changes: MeasuredChanges,
        store: EvidenceStore,
        emit: Emit,
        mode: Mode,
        rng: np.random.Generator | None = None,
        now: Callable[[], float] = time.monotonic,
        effort: Callable[[], Effort | None] | None = None,
    ) -> None:
        self._who, self._effort = who, effort
        self._target = target
        self._agent = agent
        self._changes = changes
        self._store = store
        self._emit = emit
        self._mode = mode
        self._rng = rng
        self._now = now
        self._running: _Running | None = None
        self._kept: dict[tuple[int, int], _Case] = {}
        changes.on_gone(self._on_gone)
        self._put_off: dict[tuple[Any, ...], tuple[float, float]] = {}
        self._noted: set[tuple[int, ...]] = set()
        self.configure(manifest, params)

    def configure(self, manifest: Manifest, params: Mapping[str, Parameter]) -> None:
        """Go by another version of the module from now on."""
        self.abort("the module was loaded anew")
        self._module = manifest.name
        plan = manifest.evidence
        own = {field: float(params[name]) for name, field in _PARAMETERS if name in params}
        self._plan = msgspec.structs.replace(plan, **own)
        self._measures = bool(manifest.outcomes) and plan.by == "owner"
        self._by_module = plan.by == "module"
        self._unmeasured = _BY_MODULE if plan.by == "module" else _NOT_MEASURED
        self._meter = Meter(manifest, self._agent, now=self._now)
        self._calm = Calm(self._meter, self._plan.block_s, now=self._now)

    @property
    def due(self) -> float:
        """When it wants its next turn, in the clock's seconds."""
        if self._running:
            return self._running.trial.due
        return self._calm.due

    @property
    def running(self) -> bool:
        """Whether an experiment is under way."""
        return self._running is not None

    def look(self, *, busy: bool) -> None:
        """Say whether the agent sees anything: only then are blocks collected."""
        live = self._measures and self._mode in (Mode.CANARY, Mode.AUTO)
        if self._running or not (live and busy):
            self._calm.pause()
        else:
            self._calm.go_on()
            self._recheck()

    def status(self) -> dict[str, Any] | None:
        """The experiment that runs, for the admin."""
        running = self._running
        if running is None:
            return None
        case, experiment = running.case, running.trial.experiment
        interval = experiment.interval
        return {
            "experiment": running.number,
            "knob": case.each.knob.name,
            "incumbent": case.incumbent,
            "candidate": case.candidate,
            "metric": case.metric,
            "blocks": len(experiment.blocks),
            "detectable": _finite(experiment.detectable),
            "interval": interval.to_dict() if interval else None,
        }

    # What the agent let through

    def approved(
        self, each: Granted, action: Action, reason: str, evidence: Mapping[str, Any]
    ) -> None:
        """Measure, apply or refuse what was approved. JournalError passes through."""
        candidate = each.knob.decode(action.value)
        if self._measures and self._changes.stands(each, action.value):
            # The agent was told otherwise meanwhile, by whom it shares the knob with.
            self._changes.renew(each, action)
            return
        if self._running:
            if self._running.case.each.key != each.key:
                busy = f"{self._running.case.each.knob.name} is just being measured"
                self._changes.refuse(each, action.id, KmindError(busy))
                return
            self.abort("another value was recommended")
        if self._by_module and self._changes.go_back(
            each, action, reason, evidence, self._unmeasured
        ):
            return
        if not self._measures:
            if self._changes.apply(each, action, reason, evidence, self._unmeasured):
                self._note_unmeasured(each, action, reason, evidence)
            return
        incumbent = self._changes.standing(each)
        self._kept.pop(each.key, None)
        if candidate == self._changes.baseline(each):
            self._calm.begin_anew()
            self._changes.release(each, action, reason)
            return
        try:
            case = self._case(each, incumbent, candidate, reason, evidence)
        except KmindError as error:
            self._changes.refuse(each, action.id, error)
            return
        if not self._remembered(case, action):
            self._begin(case, action)

    def renewed(self, each: Granted, action: Action) -> None:
        """Hold on to what was recommended again."""
        self._changes.renew(each, action)

    def _note_unmeasured(
        self, each: Granted, action: Action, reason: str, evidence: Mapping[str, Any]
    ) -> None:
        key = (*each.key, action.value)
        if key in self._noted or len(self._noted) >= _MOST_PUT_OFF:
            return
        self._noted.add(key)
        value = each.knob.decode(action.value)
        case = _Case(each, self._changes.baseline(each), value, "", "", reason, evidence)
        if number := self._begin_row(case, action.id, 0, "", kind="unmeasured"):
            self._end_row(number, {**UNMEASURED, "reason": self._unmeasured}, kept=True)

    def _case(
        self,
        each: Granted,
        incumbent: Value,
        candidate: Value,
        reason: str,
        evidence: Mapping[str, Any],
    ) -> _Case:
        metric = evidence.get(OUTCOME, next(iter(self._meter.outcomes)))
        if metric not in self._meter.outcomes:
            known = ", ".join(self._meter.outcomes)
            raise KmindError(f"the module declares no outcome {metric!r}", hint=f"it has {known}")
        context = str(evidence.get(CONTEXT, ""))[:_CONTEXT_MOST]
        case = _Case(each, incumbent, candidate, str(metric), context, reason, evidence)
        until, pause = self._put_off.get(case.key, (0.0, 0.0))
        if (left := until - self._now()) > 0:
            raise KmindError(
                f"{each.knob.name} {candidate} showed no gain {pause - left:.0f} s ago: "
                f"it is not tried again for {left:.0f} s"
            )
        return case

    def _remembered(self, case: _Case, action: Action) -> bool:
        # Whether it was kept before, and is applied for that.
        if not case.context or self._mode != Mode.AUTO:
            return False
        try:
            rows = self._store.gains(**self._pair(case))
        except KmindError as error:
            self._log(str(error))
            return False
        if not rows:
            return False
        numbers = ", ".join(str(row["id"]) for row in rows)
        ratio = math.prod(row["ratio"] or 1.0 for row in rows)
        known = f"remembered: {ratio:.2f} times {case.metric} in experiment {numbers}"
        if self._changes.apply(case.each, action, case.reason, case.evidence, known):
            self._stands(case, self._plan.recheck_s)
            self._calm.begin_anew()
        return True

    def _pair(self, case: _Case) -> dict[str, Any]:
        # What the store is asked about, in the circumstances of a case.
        return {
            "module": self._module,
            "knob": case.each.knob,
            "target": self._target,
            "incumbent": case.incumbent,
            "candidate": case.candidate,
            "context": case.context,
            "younger_s": self._plan.memory_s,
        }

    def _stands(self, case: _Case, pause_s: float) -> None:
        pause_s = min(pause_s, _LONGEST_S)
        self._kept[case.each.key] = replace(case, recheck_at=self._now() + pause_s, pause_s=pause_s)

    # Running one

    def _begin(self, case: _Case, action: Action) -> None:
        change = self._changes.begin(case.each, action, case.reason, case.evidence)
        if change is not None:
            self._run(case, action.id, change.id, again=False)

    def _recheck(self) -> None:
        now = self._now()
        for key, case in self._kept.items():
            if now >= case.recheck_at and self._changes.holding(*key):
                change = self._changes.remeasure(case.each)
                incumbent = self._changes.standing(case.each)
                self._run(replace(case, incumbent=incumbent), change.rec_id, change.id, again=True)
                return

    def _run(self, case: _Case, rec_id: int, change: int, *, again: bool) -> None:
        outcome = self._meter.outcomes[case.metric]
        plan = self._plan
        design = Design(
            block_s=plan.block_s,
            wash_out_s=plan.wash_out_s,
            max_s=max(plan.max_s, 4 * (plan.block_s + plan.wash_out_s)),
            min_gain=plan.min_gain,
            better=outcome.better,
            calibration=_CALIBRATION,
        )
        self._calm.pause()
        self._rng = self._rng or np.random.default_rng()
        resumed = None if again else self._cut_short(case, design, self._rng)
        experiment = resumed or Experiment(
            design, self._rng, self._calm.noise(case.metric), self._calm.guards()
        )
        kind = "recheck" if again else "trial"
        number = self._begin_row(case, rec_id, change, outcome.unit, kind=kind)

        def switch(arm: Arm) -> None:
            self._changes.switch(case.each, candidate=arm == "candidate")

        trial = Trial(experiment, case.metric, self._meter, switch, self._now, self._effort)
        trial.arm = "candidate" if again else "incumbent"
        self._running = _Running(case, trial, number, rec_id, again)
        self._tell_beforehand()
        self._safely(trial.start)

    def _cut_short(
        self, case: _Case, design: Design, rng: np.random.Generator
    ) -> Experiment | None:
        # What was measured of it in this context, before something else ended that.
        if not case.context:
            return None
        try:
            rows = self._store.cut_short(**self._pair(case), metric=case.metric)
        except KmindError as error:
            self._log(str(error))
            return None
        level = self._calm.noise(case.metric).level
        records = (row["record"] for row in rows if row["record"])
        for record in (each for each in records if each["design"] == design.to_dict()):
            resumed = Experiment.go_on(record, rng, self._calm.guards())
            # Where it is many times slower now it was another load.
            if resumed and not (level and resumed.collapsed(level)):
                return resumed
        return None

    def turn(self) -> None:
        """Do what is due."""
        if self._running is None:
            self._calm.turn()
            return
        self._safely(self._running.trial.turn)
        if self._running is None:
            return
        self._tell_beforehand()
        if self._running.trial.over:
            self._changes.look()  # somebody else may have set the knob
            if self._running is not None:
                self._conclude(self._running)

    def _safely(self, step: Callable[[], None]) -> None:
        # A knob that cannot be set ends the experiment.
        try:
            step()
        except JournalError:
            raise
        except KmindError as error:
            self._changes.look()
            if self._running is not None:
                self._running.trial.experiment.abort(str(error))
                self._conclude(self._running, postpone=True)

    def _conclude(self, running: _Running, *, postpone: bool = False) -> None:
        self._running = None
        case, experiment = running.case, running.trial.experiment
        outcome = experiment.outcome or "aborted"
        winner: Arm = "incumbent"
        if self._keeps(running):
            try:
                self._keep(running)
                winner = "candidate"
            except JournalError:
                raise
            except KmindError as error:
                self._log(str(error))
                self._changes.drop(case.each, "aborted", str(error), experiment=running.number)
        else:
            why = f"{case.candidate} against {case.incumbent}: {outcome}, {experiment.reason}"
            self._changes.drop(case.each, outcome, why, experiment=running.number)
            if (
                postpone
                or outcome != "aborted"
                or experiment.reason.startswith(("guard ", "void:"))
            ):
                self._postpone(case)
        kept = winner == "candidate"
        record = experiment.to_dict()
        known = [
            Block(experiment.design.block_s, {case.metric: value}, guards)
            for (arm, value), guards in zip(record["blocks"], record["readings"], strict=True)
            if arm == winner
        ]
        self._calm.begin_anew(case.metric, known)
        self._end_row(running.number, record, kept=kept)
        self._tell_result(running, kept=kept)

    def _keeps(self, running: _Running) -> bool:
        experiment = running.trial.experiment
        if self._mode != Mode.AUTO:
            return False
        if experiment.outcome == "gain":
            return True
        # What stood on a gain need not prove it again, but has to look like one still: so a
        # value that was kept by chance goes at one of the next measurements.
        interval = experiment.interval
        bar = 1 + experiment.design.min_gain
        favourable = interval is not None and interval.ratio > bar
        return running.again and experiment.outcome == "no change" and favourable

    def _keep(self, running: _Running) -> None:
        case, interval = running.case, running.trial.experiment.interval
        evidence: dict[str, Any] = {"experiment": running.number}
        reason = f"{case.candidate} instead of {case.incumbent} still stands."
        if interval is not None:
            high = interval.high if math.isfinite(interval.high) else None
            evidence |= {
                "ratio": round(interval.ratio, 3),
                "low": round(interval.low, 3),
                "high": high and round(high, 3),
                "pairs": interval.pairs,
            }
            upto = "infinity" if high is None else f"{high:.2f}"
            reason = (
                f"{case.candidate} instead of {case.incumbent} gave {interval.ratio:.2f} times "
                f"{case.metric} (95% interval {interval.low:.2f} to {upto}, "
                f"{interval.pairs} pairs of blocks)."
            )
        self._changes.keep(
            case.each, reason, evidence, again=running.again, experiment=running.number
        )
        self._put_off.pop(case.key, None)
        self._stands(case, 2 * case.pause_s if running.again else self._plan.recheck_s)

    def _postpone(self, case: _Case) -> None:
        if len(self._put_off) >= _MOST_PUT_OFF:
            del self._put_off[next(iter(self._put_off))]
        _, pause = self._put_off.pop(case.key, (0.0, _BACK_OFF_S / 2))
        pause = min(2 * pause, _LONGEST_S)
        self._put_off[case.key] = (self._now() + pause, pause)

    # Being interrupted

    def set_mode(self, mode: Mode) -> None:
        """Follow to another mode; what is being measured ends."""
        self.abort(f"the mode is {mode.name.lower()} now")
        self._mode = mode
        if mode != Mode.AUTO:
            self._kept.clear()

    def abort(self, why: str) -> None:
        """End the experiment that runs, and put back what stood; nothing if none does."""
        if running := self._running:
            running.trial.experiment.abort(why)
            self._conclude(running)

    def adopt(self) -> set[int]:
        """Changes, by the journal's number, that an earlier owner did not measure to the end."""
        try:
            return {int(row["change"]) for row in self._store.mark_interrupted(self._who)}
        except KmindError as error:
            self._log(str(error))
            return set()

    def take_up(self) -> None:
        """Go on to measure again, now and then, what an earlier owner had kept and stands."""
        for each in self._changes.usable():
            if not (self._measures and self._changes.holding(*each.key)):
                continue
            try:
                row = self._store.kept(self._who, each.knob)
            except KmindError as error:
                self._log(str(error))
                return
            known = row is not None and row["metric"] in self._meter.outcomes
            if row is not None and known and row["candidate"] == self._changes.standing(each):
                case = _Case(
                    each,
                    row["incumbent"],
                    row["candidate"],
                    row["metric"],
                    row["context"],
                    row["reason"],
                    row["evidence"],
                )
                self._stands(case, self._plan.recheck_s)

    def _on_gone(self, key: tuple[int, int], why: str) -> None:
        """A knob is held no longer; what was measured of it ends."""
        self._kept.pop(key, None)
        running = self._running
        if running is None or running.case.each.key != key:
            if running is None:
                self._calm.begin_anew()
            return
        self._running = None
        running.trial.experiment.abort(why)
        self._calm.begin_anew()
        self._end_row(running.number, running.trial.experiment.to_dict(), kept=False)
        self._tell_result(running, kept=False)

    # Telling

    def _tell_beforehand(self) -> None:
        # As soon as the noise is known, and before the candidate is set for the first time.
        running = self._running
        if running is None or running.told or running.trial.experiment.calibrating:
            return
        running.told = True
        case, experiment = running.case, running.trial.experiment
        detectable = _finite(experiment.detectable)
        self._emit(
            "experiment",
            instance=self._who,
            id=running.rec_id,
            experiment=running.number,
            kind="recheck" if running.again else "trial",
            knob=case.each.knob.name,
            incumbent=case.incumbent,
            candidate=case.candidate,
            metric=case.metric,
            better=experiment.design.better,
            context=case.context,
            detectable=detectable,
            max_s=experiment.design.max_s,
            reason=case.reason,
            evidence=case.evidence,
        )

    def _tell_result(self, running: _Running, *, kept: bool) -> None:
        case, experiment = running.case, running.trial.experiment
        interval = experiment.interval
        self._emit(
            "result",
            instance=self._who,
            id=running.rec_id,
            experiment=running.number,
            knob=case.each.knob.name,
            incumbent=case.incumbent,
            candidate=case.candidate,
            metric=case.metric,
            outcome=experiment.outcome,
            why=experiment.reason,
            kept=kept,
            interval=interval.to_dict() if interval else None,
            blocks=len(experiment.blocks),
        )

    def _begin_row(self, case: _Case, rec_id: int, change: int, unit: str, *, kind: str) -> int:
        try:
            return self._store.begin(
                kind=kind,
                instance=self._who,
                module=self._module,
                backend=self._agent.backend,
                knob=case.each.knob,
                target=self._target,
                incumbent=case.incumbent,
                candidate=case.candidate,
                metric=case.metric,
                unit=unit,
                context=case.context,
                reason=case.reason,
                evidence=case.evidence,
                rec_id=rec_id,
                change=change,
            )
        except KmindError as error:
            self._log(str(error))
            return 0

    def _end_row(self, number: int, record: Mapping[str, Any], *, kept: bool) -> None:
        if not number:
            return
        try:
            self._store.end(number, record, kept=kept)
        except KmindError as error:
            self._log(str(error))

    def _log(self, message: str) -> None:
        self._emit("log", instance=self._who, source="kmind", message=message)


def _finite(ratio: float) -> float | None:
    return ratio if math.isfinite(ratio) else None
