# SPDX-License-Identifier: Apache-2.0
"""From approved values to experiments, and from their outcomes to kept values.

The extension only proposes. Where its module declares an outcome, an approved value has to
show a gain, measured here, before it stands. What was kept under the same load before is
remembered: it is applied at once, and measured again later. By what it is judged, under which load,
when it is measured again and how much error is left for it: nothing of that the extension says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from kmind.agent.types import Action, Mode
from kmind.errors import JournalError, KmindError
from kmind.evidence import Arm, Experiment
from kmind.extension import Manifest
from kmind.extension import Value as Parameter
from kmind.runtime.experiment.back_off import BackOff
from kmind.runtime.experiment.case import Case, Pending, Running
from kmind.runtime.experiment.exploring import Exploring
from kmind.runtime.experiment.measure.circumstances import Counted
from kmind.runtime.experiment.measure.effort import Effort
from kmind.runtime.experiment.runner import ExperimentRunner
from kmind.runtime.experiment.trial.factory import ExperimentFactory
from kmind.runtime.experiment.trial.load_watch import LoadWatch
from kmind.runtime.experiment.trial.publish import Publisher, gain_in_words, status_of
from kmind.runtime.experiment.trial.recall import Recall
from kmind.runtime.experiment.trial.recheck import RecheckClocks
from kmind.runtime.experiment.trial.unmeasured import Unmeasured
from kmind.runtime.experiment.waiting import Waiting
from kmind.runtime.holds.grants import Granted
from kmind.runtime.holds.trial_holds import TrialHolds
from kmind.runtime.service import Service
from kmind.runtime.services import InstanceSpec, Services

__all__ = ["ExperimentController"]

_PARAMETERS = (("min_gain", "min_gain"), ("recheck", "recheck_s"))  # a module's own, if it has them


class ExperimentController(Service):
    """The experiments of one instance (``who``): at most one at a time.

    It listens to what becomes of ``holds``. KmindError of the
    store is told as a line in the log, and stops no experiment.
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
        self._who, self._effort = spec.name, effort
        self._target = spec.target
        self._agent = spec.agent
        self._holds = holds
        self._store = services.evidence
        self._mode = spec.mode
        self._rng = np.random.default_rng() if rng is None else rng
        self._now = services.now
        self._running: Running | None = None
        self._waiting = Waiting(holds, self._now, "measured")
        self._clocks = RecheckClocks(math.inf)
        self._exploring = Exploring()
        holds.on_gone(self._on_gone)
        self._put_off = BackOff(self._now)
        self._publish = Publisher(spec, services)
        self._unmeasured = Unmeasured(holds, self._publish)
        self.configure(spec.manifest, spec.params)

    def configure(self, manifest: Manifest, params: Mapping[str, Parameter]) -> None:
        """Use another version of the module from now on."""
        self.abort("the module was reloaded")
        plan = manifest.evidence
        own = {field: float(params[name]) for name, field in _PARAMETERS if name in params}
        plan = msgspec.structs.replace(plan, **own)
        self._measures = bool(manifest.outcomes) and plan.by == "owner"
        self._load = LoadWatch(manifest, self._agent, plan, now=self._now)
        self._aa_noise = self._load.noise
        self._clocks.first_s = plan.recheck_s
        self._recall = Recall(self._store, manifest.name, self._target, plan, self._publish.log)
        self._factory = ExperimentFactory(plan, self._aa_noise, self._recall, self._rng)

    @property
    def due(self) -> float:
        """Time of the next turn, in the clock's seconds."""
        if self._running:
            return self._running.trial.due
        return min(self._aa_noise.due, self._waiting.until)

    @property
    def running(self) -> bool:
        """True while an experiment runs, or is about to."""
        return self._running is not None or bool(self._waiting)

    def poll(self, *, busy: bool) -> None:
        """Say whether the agent sees anything: only then are blocks collected."""
        self._load.see(busy=busy)
        self._tick()
        if self._running or not (self._live and self._load.busy):
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

    def _held(self) -> list[Granted]:
        usable = self._holds.knobs.usable()
        return [granted for granted in usable if self._holds.holding(*granted.key)]

    def _tick(self) -> None:
        standing = [(granted.key, self._holds.standing(granted)) for granted in self._held()]
        self._clocks.tick(self._now(), standing)
        self._exploring.tick(self._now(), self._running.unproven if self._running else frozenset())

    # Approved values

    def approved(
        self, granted: Granted, action: Action, reason: str, evidence: Mapping[str, Any]
    ) -> None:
        """Measure, apply or refuse what was approved. JournalError passes through."""
        if not self._measures:
            self._unmeasured.apply(granted, action, reason, evidence)
            return
        self._tick()
        if self._holds.is_current(granted, action.value):
            # The agent was told otherwise meanwhile, by whom it shares the knob with.
            self.renewed(granted, action)
            return
        if busy := self._elsewhere(granted):
            self._holds.refuse(granted, action.id, KmindError(f"{busy} is being measured"))
            return
        back = granted.knob.decode(action.value) == self._holds.baseline(granted)
        # A recheck runs to its end, whatever is recommended meanwhile.
        if self._running and (back or not self._running.again):
            self.abort("another value was recommended", own=True)
        self._supersede(granted, action)
        if back:
            self._aa_noise.begin_anew()
            self._holds.release(granted, action, reason)
            return
        until = self._now() + self._holds.hold_s(action)
        self._waiting.add(Pending(granted, action, reason, evidence, until))
        if self._live and self._load.busy and not self._running:
            self._aa_noise.go_on()
        self._next()

    def _elsewhere(self, granted: Granted) -> str:
        # The knob that is measured, or waits for that, if it is another one.
        measured = [self._running.case.granted] if self._running else []
        for other in (*measured, *(pending.granted for pending in self._waiting)):
            if other.key != granted.key:
                return other.knob.name
        return ""

    def _supersede(self, granted: Granted, action: Action) -> None:
        # What waits has been recommended again, or something else has been.
        pending = self._waiting.get(granted.key)
        if pending is not None and pending.action.value == action.value:
            self._waiting.pop(granted.key)
        why = "another value was recommended before it could be measured"
        self._waiting.pass_over(why, granted.key)

    def renewed(self, granted: Granted, action: Action) -> None:
        """Hold on to what was recommended again."""
        if not self._waiting.renew(granted, action):
            self._supersede(granted, action)
        self._holds.renew(granted, action)

    # Next steps

    def _next(self) -> None:
        # Overdue rechecks come first, then recommendations.
        self._waiting.expire()
        latest = self._aa_noise.latest
        if self._running or not latest or not self._live:
            return
        seen = self._load.seen(latest)
        standing = self._held()
        for granted in standing:
            self._clocks.under(granted.key, self._holds.standing(granted), seen)
        for granted in standing:
            clock = self._clocks.get(granted.key, self._holds.standing(granted))
            if clock is not None and clock.owed and self._mode == Mode.AUTO:
                self._recheck(granted, clock.case, latest)
                return
        for pending in self._waiting:
            self._decide(pending, latest)

    def _decide(self, pending: Pending, latest: Sequence[Counted]) -> None:
        granted, action = pending.granted, pending.action
        self._waiting.pop(granted.key)
        if self._holds.is_current(granted, action.value):
            self._holds.renew(granted, action)
            return
        candidate = granted.knob.decode(action.value)
        values = self._holds.standing(granted), candidate
        case = self._load.case(granted, values, pending.reason, pending.evidence, latest)
        if not self._load.decides_still(case, latest):
            self._waiting.add(pending)  # the load is just changing, and what decides with it
            return
        what = f"{granted.knob.name} {candidate} showed no gain"
        if refusal := self._put_off.refusal(case.back_off, what):
            self._holds.refuse(granted, action.id, KmindError(refusal))
        elif not self._remembered(case, action, latest):
            self._begin(case, action)

    def _remembered(self, case: Case, action: Action, latest: Sequence[Counted]) -> bool:
        # True if it was kept before under this load, and is applied for that.
        clock = self._clocks.get(case.granted.key, case.candidate)
        if self._mode != Mode.AUTO or (clock is not None and clock.owed):
            return False
        # The load may be changing just now.
        if not self._load.is_still(case, latest):
            return False
        known = self._recall.known(case)
        if not known:
            return False
        if self._holds.apply(case.granted, action, case.reason, case.evidence, known):
            self._clocks.recalled(case)
            self._aa_noise.begin_anew()
        return True

    # Running one

    def _begin(self, case: Case, action: Action) -> None:
        if (left := self._exploring.wait_s) > 0:
            why = f"what was tried has stood for as long as it may: wait for {left:.0f} s"
            self._holds.refuse(case.granted, action.id, KmindError(why))
            return
        started = self._factory.first(case)
        if started is None:
            self._holds.refuse(case.granted, action.id, self._recall.used_up(case.granted))
            return
        experiment, level = started
        change = self._holds.begin(case.granted, action, case.reason, case.evidence)
        if change is None:
            self._recall.hand_on(case.granted, level)
            return
        self._run(case, experiment, action.id, change.id, again=False, level=level)

    def _recheck(self, granted: Granted, known: Case, latest: Sequence[Counted]) -> None:
        value = self._holds.standing(granted)
        change = self._holds.remeasure(granted)
        values = self._holds.standing(granted), value
        case = self._load.case(granted, values, known.reason, known.evidence, latest)
        experiment = self._factory.again(case, self._clocks.get(granted.key, value))
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
            self._holds.switch(case.granted, candidate=arm == "candidate")

        trial = ExperimentRunner(
            experiment, case.outcome.name, self._load.metrics, switch, self._now, self._effort
        )
        trial.arm = "candidate" if again else "incumbent"
        running = self._running = Running(
            case, trial, number, rec_id, again, level, experiment.pairs
        )
        self._load.metrics.told = lambda block: running.seen.append((trial.arm, block))
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
            self._holds.poll()  # somebody else may have set the knob
            if self._running is not None:
                self._conclude(self._running, by_itself=True)

    def _safely(self, step: Callable[[], None]) -> None:
        # A knob that cannot be set ends the experiment.
        try:
            step()
        except JournalError:
            raise
        except KmindError as error:
            self._holds.poll()
            if self._running is not None:
                self._running.trial.experiment.abort(str(error))
                self._conclude(self._running, postpone=True)

    def _conclude(
        self, running: Running, *, postpone: bool = False, by_itself: bool = False
    ) -> None:
        case, experiment = running.case, running.trial.experiment
        self._load.check(running)
        self._end(running)
        winner: Arm = "incumbent"
        if self._mode == Mode.AUTO and running.convinces:
            try:
                self._keep(running)
                winner = "candidate"
            except JournalError:
                raise
            except KmindError as error:
                self._publish.log(str(error))
                self._holds.drop(case.granted, "aborted", str(error), experiment=running.number)
        elif self._stays(running, by_itself=by_itself):
            self._holds.keep(case.granted, "", {}, again=True, experiment=running.number)
            winner = "candidate"
        else:
            outcome = experiment.outcome or "aborted"
            why = f"{case.pair}: {outcome}, {experiment.reason}"
            self._holds.drop(case.granted, outcome, why, experiment=running.number)
            if postpone or outcome != "aborted" or experiment.broken:
                self._put_off.postpone(case.back_off)
        self._aa_noise.begin_anew(running.blocks(winner))
        self._tick()
        self._publish.result(running, kept=winner == "candidate")

    def _end(self, running: Running) -> None:
        # It runs no longer. What it drew goes on if it was no error, or could not be one; but not
        # if the extension ended it so soon, for it could do that for ever.
        self._running = None
        self._load.metrics.told = lambda block: None
        case, experiment = running.case, running.trial.experiment
        gain = experiment.outcome == "gain" and self._mode == Mode.AUTO
        if gain or not (experiment.pairs or running.cut_off):
            self._recall.hand_on(case.granted, running.level)
        if not running.again:
            return
        stays = self._mode == Mode.AUTO and running.convinces
        refuted = experiment.outcome != "aborted" and not stays
        if refuted or experiment.broken:
            self._clocks.refuted(case)

    def _stays(self, running: Running, *, by_itself: bool) -> bool:
        # A kept value outlives a recheck that the load cut off, a few times.
        experiment = running.trial.experiment
        if not running.again or experiment.outcome != "aborted" or experiment.broken:
            return False
        last = self._clocks.cut(running.case, experiment.to_dict())
        return by_itself and not last and self._mode == Mode.AUTO

    def _keep(self, running: Running) -> None:
        case = running.case
        reason, numbers = gain_in_words(case, running.trial.experiment)
        self._holds.keep(
            case.granted,
            reason,
            {"experiment": running.number} | numbers,
            again=running.again,
            experiment=running.number,
        )
        self._put_off.forget(case.back_off)
        seen = running.blocks("candidate")
        load = self._load.seen(seen) if seen else None
        self._clocks.kept(case, load, again=running.again)

    # Being interrupted

    def set_mode(self, mode: Mode) -> None:
        """Follow to another mode; what is being measured ends."""
        self.abort(f"the mode is {mode.name.lower()} now")
        self._mode = mode
        if mode != Mode.AUTO:
            self._clocks.clear()

    def abort(self, why: str, *, own: bool = False) -> None:
        """End the experiment that runs or waits, if any, and put the previous value back.

        ``own`` says that it is the extension's own doing.
        """
        if running := self._running:
            running.trial.experiment.abort(why)
            running.cut_off = own and running.seen_nothing
            self._conclude(running, postpone=running.cut_off)
        self._waiting.refuse(why)

    def stop(self, why: str) -> None:
        """End the experiment that runs or waits, and put the previous value back."""
        self.abort(why)

    def adopt(self) -> set[int]:
        """Changes, by the journal's number, that an earlier owner did not measure to the end."""
        return self._recall.interrupted(self._who)

    def take_up(self) -> None:
        """Go on to measure again, now and then, what an earlier owner had kept and stands."""
        for granted in self._holds.knobs.usable():
            if not (self._measures and self._holds.holding(*granted.key)):
                continue
            value, outcomes = self._holds.standing(granted), self._load.metrics.outcomes
            if case := self._recall.standing(self._who, granted, value, outcomes):
                self._clocks.proven(case)
        self._tick()

    def _on_gone(self, key: tuple[int, int], why: str) -> None:
        """A knob is held no longer; what was measured of it ends."""
        self._waiting.pass_over(why, key)
        running = self._running
        if running is not None and running.case.granted.key == key:
            running.trial.experiment.abort(why)
            running.cut_off = running.seen_nothing
            self._end(running)
            if running.again:
                self._clocks.cut(running.case, running.trial.experiment.to_dict())
            elif running.cut_off:
                self._put_off.postpone(running.case.back_off)
            self._publish.result(running, kept=False)
        if self._running is None:
            self._aa_noise.begin_anew()
        self._tick()
