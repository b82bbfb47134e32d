# SPDX-License-Identifier: Apache-2.0
"""From approved values to experiments, and from their outcomes to what stands.

The extension only proposes. Where its module declares an outcome, an approved value has to
show a gain, measured here, before it stands. What was kept under the same load before is
remembered: it is applied at once, and measured again later. By what it is judged, under which load,
when it is measured again and how much error is left for it: nothing of that the extension says.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from kmind.agent.types import Action, Mode
from kmind.errors import JournalError, KmindError
from kmind.evidence import Arm, Design, Experiment
from kmind.extension import Manifest
from kmind.extension import Value as Parameter
from kmind.knobs import Value
from kmind.runtime.experiment.aa_noise import AaNoise
from kmind.runtime.experiment.case import Case, Pending, Running
from kmind.runtime.experiment.circumstances import Circumstances, Counted, Ledger
from kmind.runtime.experiment.effort import Effort
from kmind.runtime.experiment.exploring import Exploring
from kmind.runtime.experiment.publish import Publisher, gain_in_words, status_of
from kmind.runtime.experiment.recall import Recall
from kmind.runtime.experiment.recheck import RecheckClocks
from kmind.runtime.experiment.runner import ExperimentRunner
from kmind.runtime.holds.grants import Granted
from kmind.runtime.holds.trial_holds import TrialHolds
from kmind.runtime.service import Service
from kmind.runtime.services import InstanceSpec, Services

__all__ = ["ExperimentController"]

_PARAMETERS = (("min_gain", "min_gain"), ("recheck", "recheck_s"))  # a module's own, if it has them
# Blocks under the incumbent, the fewest that give a noise: those of an experiment that was won
# are often as many, so that the next one can begin at once.
_CALIBRATION = 5
_LOSS_LEVEL = 0.01  # the error that the high end may make, which a loss stands on
_NEWEST = 2  # blocks that have to look like the ones before them for what is remembered to hold
_BACK_OFF_S = 30.0
_LONGEST_S = 3600.0
_MOST_PUT_OFF = 256
_NOT_MEASURED = "not measured: the module declares no outcome"


class ExperimentController(Service):
    """The experiments of one instance (``who``): at most one at a time.

    It listens to what becomes of ``changes``. KmindError of the
    store is told as a line in the log, and stops no experiment.
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
        self._who, self._effort = spec.name, effort
        self._target = spec.target
        self._agent = spec.agent
        self._changes = changes
        self._store = services.evidence
        self._emit = services.emit
        self._mode = spec.mode
        self._rng = np.random.default_rng() if rng is None else rng
        self._now = services.now
        self._running: Running | None = None
        self._pending: Pending | None = None
        self._busy, self._busy_until = False, -math.inf
        self._clocks = RecheckClocks(math.inf)
        self._exploring = Exploring()
        changes.on_gone(self._on_gone)
        self._put_off: dict[tuple[Any, ...], tuple[float, float]] = {}
        self._noted: set[tuple[int, ...]] = set()
        self.configure(spec.manifest, spec.params)

    def configure(self, manifest: Manifest, params: Mapping[str, Parameter]) -> None:
        """Go by another version of the module from now on."""
        self.abort("the module was reloaded")
        plan = manifest.evidence
        own = {field: float(params[name]) for name, field in _PARAMETERS if name in params}
        self._plan = plan = msgspec.structs.replace(plan, **own)
        self._measures = bool(manifest.outcomes) and plan.by == "owner"
        self._meter = Ledger(manifest, self._agent, now=self._now)
        self._circumstances = Circumstances(manifest)
        self._aa_noise = AaNoise(
            self._meter, plan.block_s, wash_out_s=plan.wash_out_s, now=self._now
        )
        self._clocks.first_s = plan.recheck_s
        self._publish = Publisher(
            self._who,
            manifest.name,
            self._target,
            self._agent.backend,
            store=self._store,
            emit=self._emit,
        )
        self._recall = Recall(self._store, manifest.name, self._target, plan, self._publish.log)

    @property
    def due(self) -> float:
        """Time of the next turn, in the clock's seconds."""
        if self._running:
            return self._running.trial.due
        return min(self._aa_noise.due, self._pending.until if self._pending else math.inf)

    @property
    def running(self) -> bool:
        """True while an experiment runs, or is about to."""
        return self._running is not None or self._pending is not None

    def poll(self, *, busy: bool) -> None:
        """Say whether the agent sees anything: only then are blocks collected.

        A pause shorter than a block is no end of the load.
        """
        if busy:
            self._busy_until = self._now() + self._plan.block_s
        self._busy = self._now() < self._busy_until
        self._tick()
        if self._running or not (self._live and self._busy):
            self._aa_noise.pause()
        else:
            self._aa_noise.go_on()
            self._next()

    @property
    def _live(self) -> bool:
        return self._measures and self._mode in (Mode.CANARY, Mode.AUTO)

    def status(self) -> dict[str, Any]:
        """Return the experiment that runs, or null."""
        return {"experiment": status_of(self._running) if self._running else None}

    def _tick(self) -> None:
        standing = [
            (each.key, self._changes.standing(each))
            for each in self._changes.knobs.usable()
            if self._changes.holding(*each.key)
        ]
        self._clocks.tick(self._now(), standing)
        self._exploring.tick(self._now(), self._running.unproven if self._running else frozenset())

    # What the agent let through

    def approved(
        self, each: Granted, action: Action, reason: str, evidence: Mapping[str, Any]
    ) -> None:
        """Measure, apply or refuse what was approved. JournalError passes through."""
        if not self._measures:
            self._apply_unmeasured(each, action, reason, evidence)
            return
        self._tick()
        if self._changes.is_current(each, action.value):
            # The agent was told otherwise meanwhile, by whom it shares the knob with.
            self.renewed(each, action)
            return
        if busy := self._elsewhere(each):
            self._changes.refuse(each, action.id, KmindError(f"{busy} is being measured"))
            return
        back = each.knob.decode(action.value) == self._changes.baseline(each)
        # What stands is measured to the end, whatever is recommended meanwhile.
        if self._running and (back or not self._running.again):
            self.abort("another value was recommended", own=True)
        self._pass_over(action.value)
        if back:
            self._aa_noise.begin_anew()
            self._changes.release(each, action, reason)
            return
        until = self._now() + self._changes.hold_s(action)
        self._pending = Pending(each, action, reason, evidence, until)
        if self._live and self._busy and not self._running:
            self._aa_noise.go_on()
        self._next()

    def _elsewhere(self, each: Granted) -> str:
        # The knob that is measured, or waits for that, if it is another one.
        for other in (
            self._running and self._running.case.each,
            self._pending and self._pending.each,
        ):
            if other and other.key != each.key:
                return other.knob.name
        return ""

    def _pass_over(self, value: int) -> None:
        # What waits has been recommended again, or something else has been.
        pending, self._pending = self._pending, None
        if pending is not None and pending.action.value != value:
            why = "another value was recommended before it could be measured"
            self._changes.pass_over(pending.each, pending.action.id, why)

    def renewed(self, each: Granted, action: Action) -> None:
        """Hold on to what was recommended again."""
        pending = self._pending
        if pending is not None and pending.each.key == each.key:
            if pending.action.value == action.value:
                pending.action = action
                pending.until = self._now() + self._changes.hold_s(action)
            else:
                self._pass_over(action.value)
        self._changes.renew(each, action)

    def _apply_unmeasured(
        self, each: Granted, action: Action, reason: str, evidence: Mapping[str, Any]
    ) -> None:
        if not self._changes.apply(each, action, reason, evidence, _NOT_MEASURED):
            return
        key = (*each.key, action.value)
        if key not in self._noted and len(self._noted) < _MOST_PUT_OFF:
            self._noted.add(key)
            values = self._changes.baseline(each), each.knob.decode(action.value)
            self._publish.unmeasured(
                each, values, action.id, _NOT_MEASURED, reason=reason, evidence=evidence
            )

    # What comes next

    def _next(self) -> None:
        # What stands longer than it may goes first, and then what was recommended.
        pending = self._pending
        if pending is not None and self._now() >= pending.until:
            self._pending = None
            error = KmindError("it was not renewed before it could be measured")
            self._changes.refuse(pending.each, pending.action.id, error)
        latest = self._aa_noise.latest
        if self._running or not latest or not self._live:
            return
        load = self._circumstances.classify(latest).classes
        usable = self._changes.knobs.usable()
        standing = [each for each in usable if self._changes.holding(*each.key)]
        for each in standing:
            self._clocks.under(each.key, self._changes.standing(each), load)
        for each in standing:
            clock = self._clocks.get(each.key, self._changes.standing(each))
            if clock is not None and clock.owed and self._mode == Mode.AUTO:
                self._recheck(each, clock.case, latest)
                return
        if self._pending is not None:
            self._decide(self._pending, latest)

    def _decide(self, pending: Pending, latest: Sequence[Counted]) -> None:
        self._pending = None
        each, action = pending.each, pending.action
        if self._changes.is_current(each, action.value):
            self._changes.renew(each, action)
            return
        candidate = each.knob.decode(action.value)
        case = self._case(each, candidate, pending.reason, pending.evidence, latest)
        if self._circumstances.classify(latest[-1:]).outcome is not case.outcome:
            self._pending = pending  # the load is just changing, and what decides with it
            return
        until, pause = self._put_off.get(case.back_off, (0.0, 0.0))
        if (left := until - self._now()) > 0:
            error = KmindError(
                f"{each.knob.name} {candidate} showed no gain {pause - left:.0f} s ago: "
                f"it is not tried again for {left:.0f} s"
            )
            self._changes.refuse(each, action.id, error)
        elif not self._remembered(case, action, latest):
            self._begin(case, action)

    def _case(
        self,
        each: Granted,
        candidate: Value,
        reason: str,
        evidence: Mapping[str, Any],
        latest: Sequence[Counted],
    ) -> Case:
        load = self._circumstances.classify(latest)
        return Case(
            each,
            self._changes.standing(each),
            candidate,
            reason,
            evidence,
            load.outcome,
            load.sides,
            load.context,
            _level(latest, load.outcome.name),
        )

    def _remembered(self, case: Case, action: Action, latest: Sequence[Counted]) -> bool:
        # Whether it was kept before under this load, and is applied for that.
        clock = self._clocks.get(case.each.key, case.candidate)
        if self._mode != Mode.AUTO or (clock is not None and clock.owed):
            return False
        # The load may be changing just now.
        newest = self._circumstances.classify(latest[-_NEWEST:])
        if newest.context != case.load:
            return False
        rows = self._recall.gains(case)
        if not rows:
            return False
        numbers = ", ".join(str(row["id"]) for row in rows)
        ratio = math.prod(row["ratio"] or 1.0 for row in rows)
        known = f"remembered: {case.outcome.name} x{ratio:.2f} in experiment {numbers}"
        if self._changes.apply(case.each, action, case.reason, case.evidence, known):
            self._clocks.recalled(case)
            self._aa_noise.begin_anew()
        return True

    # Running one

    def _design(self, case: Case, level: float | None = None) -> Design:
        # ``level`` is the error that a gain may make; that of a first experiment if it is None.
        plan = self._plan
        design = Design(
            block_s=plan.block_s,
            wash_out_s=plan.wash_out_s,
            max_s=max(plan.max_s, 4 * (plan.block_s + plan.wash_out_s)),
            min_gain=plan.min_gain,
            better=case.outcome.better,
            calibration=_CALIBRATION,
        )
        if level is None:
            return design
        alpha = level + _LOSS_LEVEL
        return Design.from_dict(design.to_dict() | {"alpha": alpha, "keep_share": level / alpha})

    def _begin(self, case: Case, action: Action) -> None:
        if (left := self._exploring.wait_s) > 0:
            why = f"what was tried has stood for as long as it may: wait for {left:.0f} s"
            self._changes.refuse(case.each, action.id, KmindError(why))
            return
        level, guards = 0.0, self._aa_noise.guards()
        experiment = self._recall.cut_short(case, self._design(case), self._rng, guards)
        if experiment is None:
            level = self._recall.draw(case.each)
            if not level:
                self._changes.refuse(case.each, action.id, self._recall.used_up(case.each))
                return
            noise = self._aa_noise.noise(case.outcome.name)
            design = self._design(case, level)
            experiment = Experiment(design, self._rng, noise, guards, case.sides)
        change = self._changes.begin(case.each, action, case.reason, case.evidence)
        if change is None:
            self._recall.hand_on(case.each, level)
            return
        self._run(case, experiment, action.id, change.id, again=False, level=level)

    def _recheck(self, each: Granted, known: Case, latest: Sequence[Counted]) -> None:
        value = self._changes.standing(each)
        change = self._changes.remeasure(each)
        case = self._case(each, value, known.reason, known.evidence, latest)
        clock = self._clocks.get(each.key, value)
        experiment = clock.go_on(case, self._design(case), self._rng) if clock else None
        if experiment is None:
            noise, guards = self._aa_noise.noise(case.outcome.name), self._aa_noise.guards()
            experiment = Experiment(self._design(case), self._rng, noise, guards, case.sides)
        self._run(case, experiment, change.rec_id, change.id, again=True)

    def _run(
        self,
        case: Case,
        experiment: Experiment,
        rec_id: int,
        change: int,
        *,
        again: bool,
        level: float = 0.0,
    ) -> None:
        self._aa_noise.pause()
        number = self._publish.begin_row(case, rec_id, change, again=again)

        def switch(arm: Arm) -> None:
            self._changes.switch(case.each, candidate=arm == "candidate")

        trial = ExperimentRunner(
            experiment, case.outcome.name, self._meter, switch, self._now, self._effort
        )
        trial.arm = "candidate" if again else "incumbent"
        running = self._running = Running(
            case, trial, number, rec_id, again, level, experiment.pairs
        )
        self._meter.told = lambda block: running.seen.append((trial.arm, block))
        self._publish.announce(running)
        self._safely(trial.start)

    def run_due(self) -> None:
        """Do what is due."""
        if self._running is None:
            self._aa_noise.run_due()
            self._tick()
            self._next()
            return
        self._safely(self._running.trial.run_due)
        self._tick()
        if self._running is None:
            return
        self._publish.announce(self._running)
        if self._running.trial.over:
            self._changes.poll()  # somebody else may have set the knob
            if self._running is not None:
                self._conclude(self._running, by_itself=True)

    def _safely(self, step: Callable[[], None]) -> None:
        # A knob that cannot be set ends the experiment.
        try:
            step()
        except JournalError:
            raise
        except KmindError as error:
            self._changes.poll()
            if self._running is not None:
                self._running.trial.experiment.abort(str(error))
                self._conclude(self._running, postpone=True)

    def _conclude(
        self, running: Running, *, postpone: bool = False, by_itself: bool = False
    ) -> None:
        case, experiment = running.case, running.trial.experiment
        self._check_load(running)
        self._end(running)
        winner: Arm = "incumbent"
        if self._keeps(running):
            try:
                self._keep(running)
                winner = "candidate"
            except JournalError:
                raise
            except KmindError as error:
                self._publish.log(str(error))
                self._changes.drop(case.each, "aborted", str(error), experiment=running.number)
        elif self._stays(running, by_itself=by_itself):
            self._changes.keep(case.each, "", {}, again=True, experiment=running.number)
            winner = "candidate"
        else:
            outcome = experiment.outcome or "aborted"
            why = f"{case.pair}: {outcome}, {experiment.reason}"
            self._changes.drop(case.each, outcome, why, experiment=running.number)
            if postpone or outcome != "aborted" or experiment.broken:
                self._postpone(case)
        self._aa_noise.begin_anew(running.blocks(winner))
        self._tick()
        self._publish.result(running, kept=winner == "candidate")

    def _end(self, running: Running) -> None:
        # It runs no longer. What it drew goes on if it was no error, or could not be one; but not
        # if the extension ended it so soon, for it could do that for ever.
        self._running = None
        self._meter.told = lambda block: None
        case, experiment = running.case, running.trial.experiment
        gain = experiment.outcome == "gain" and self._mode == Mode.AUTO
        if gain or not (experiment.pairs or running.cut_off):
            self._recall.hand_on(case.each, running.level)
        if not running.again:
            return
        refuted = experiment.outcome != "aborted" and not self._keeps(running)
        if refuted or experiment.broken:
            self._clocks.refuted(case)

    def _check_load(self, running: Running) -> None:
        # A gain counts by the outcome that decides under the load that there was, not another one.
        experiment, seen = running.trial.experiment, running.blocks("incumbent")
        if experiment.outcome in (None, "aborted") or not seen:
            return
        outcome = self._circumstances.classify(seen).outcome.name
        if outcome != running.case.outcome.name:
            experiment.void(
                f"the load has changed: {outcome} would decide now, not {running.case.outcome.name}"
            )
        elif not self._circumstances.believed(running.case.outcome, running.blocks("candidate")):
            experiment.void(f"under the candidate {outcome} does not say what is gained")

    def _keeps(self, running: Running) -> bool:
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

    def _stays(self, running: Running, *, by_itself: bool) -> bool:
        # What stands outlives a measurement that the load cut off, some few times.
        experiment = running.trial.experiment
        if not running.again or experiment.outcome != "aborted" or experiment.broken:
            return False
        last = self._clocks.cut(running.case, experiment.to_dict())
        return by_itself and not last and self._mode == Mode.AUTO

    def _keep(self, running: Running) -> None:
        case = running.case
        reason, numbers = gain_in_words(case, running.trial.experiment)
        self._changes.keep(
            case.each,
            reason,
            {"experiment": running.number} | numbers,
            again=running.again,
            experiment=running.number,
        )
        self._put_off.pop(case.back_off, None)
        clock = self._clocks.get(case.each.key, case.candidate)
        if running.again and clock is not None:
            seen = running.blocks("candidate")
            self._clocks.confirmed(
                clock, self._circumstances.classify(seen).classes if seen else ""
            )
        else:
            self._clocks.proven(case)

    def _postpone(self, case: Case) -> None:
        if len(self._put_off) >= _MOST_PUT_OFF:
            del self._put_off[next(iter(self._put_off))]
        _, pause = self._put_off.pop(case.back_off, (0.0, _BACK_OFF_S / 2))
        pause = min(2 * pause, _LONGEST_S)
        self._put_off[case.back_off] = (self._now() + pause, pause)

    # Being interrupted

    def set_mode(self, mode: Mode) -> None:
        """Follow to another mode; what is being measured ends."""
        self.abort(f"the mode is {mode.name.lower()} now")
        self._mode = mode
        if mode != Mode.AUTO:
            self._clocks.clear()

    def abort(self, why: str, *, own: bool = False) -> None:
        """End the experiment that runs or waits, and put back what stood; nothing if none does.

        ``own`` says that it is the extension's own doing.
        """
        if running := self._running:
            running.trial.experiment.abort(why)
            running.cut_off = own and running.seen_nothing
            self._conclude(running, postpone=running.cut_off)
        if pending := self._pending:
            self._pending = None
            self._changes.refuse(pending.each, pending.action.id, KmindError(why))

    def stop(self, why: str) -> None:
        """End the experiment that runs or waits; what stood before is put back."""
        self.abort(why)

    def adopt(self) -> set[int]:
        """Changes, by the journal's number, that an earlier owner did not measure to the end."""
        try:
            return {int(row["change"]) for row in self._store.mark_interrupted(self._who)}
        except KmindError as error:
            self._publish.log(str(error))
            return set()

    def take_up(self) -> None:
        """Go on to measure again, now and then, what an earlier owner had kept and stands."""
        for each in self._changes.knobs.usable():
            if not (self._measures and self._changes.holding(*each.key)):
                continue
            row = self._recall.kept(self._who, each)
            outcome = self._meter.outcomes.get(row["metric"]) if row else None
            if row and outcome and row["candidate"] == self._changes.standing(each):
                values = row["incumbent"], row["candidate"]
                case = Case(each, *values, row["reason"], row["evidence"], outcome, (), "", None)
                self._clocks.proven(case)
        self._tick()

    def _on_gone(self, key: tuple[int, int], why: str) -> None:
        """A knob is held no longer; what was measured of it ends."""
        if self._pending is not None and self._pending.each.key == key:
            pending, self._pending = self._pending, None
            self._changes.pass_over(pending.each, pending.action.id, why)
        running = self._running
        if running is not None and running.case.each.key == key:
            running.trial.experiment.abort(why)
            running.cut_off = running.seen_nothing
            self._end(running)
            if running.again:
                self._clocks.cut(running.case, running.trial.experiment.to_dict())
            elif running.cut_off:
                self._postpone(running.case)
            self._publish.result(running, kept=False)
        if self._running is None:
            self._aa_noise.begin_anew()
        self._tick()


def _level(blocks: Sequence[Counted], name: str) -> float | None:
    values = [value for block in blocks if (value := block.values.get(name))]
    return statistics.median(values) if values else None
