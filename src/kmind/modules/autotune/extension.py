# SPDX-License-Identifier: Apache-2.0
"""The user half of autotune: proposes settings, measures each, and keeps what is proven.

The risk is one comparison at a time, within a trust region around the current
setting, and cut short by the first block that collapses. A kept setting has shown a gain over
the previous one, lower end of the interval included, and has to show it against the baseline
again and again. Each phase of the load has a search of its own, which is remembered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from kmind.extension import (
    ChangeEvent,
    Context,
    Design,
    Experiment,
    Extension,
    ObjectiveEvent,
    VerdictEvent,
)

from .memory import recall, remember
from .phases import Phase, Watch
from .search import Sampler, Search
from .setter import Setter
from .space import Codes, Dimension
from .trial import Trial

__all__ = ["Autotune"]

_SLOW_S = 1.5  # a knob that works slowly is given that long at least
_FLOOR = 0.01  # added to a share of the time
_BLIND_S = 10.0  # without a reading for that long nothing is held
_REMEMBERED_S = 3.0  # what was found before is measured again so soon
_PAUSE_S = 5.0
_LONGEST_S = 86400.0
_CALIBRATION = 8  # blocks
_SCREEN = 2  # pairs, after which most are known to be of no use
# The current setting is measured again in blocks so much longer, and that many pairs of them: an
# effect in the first second need not last.
_LONG = 4
_LONG_CALIBRATION = 4
_LONG_PAIRS = 10
_LIVE = ("canary", "auto")


class Autotune(Extension):
    """One search on one target."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        params = context.params
        self._objective = str(params["objective"])
        wanted = [name.strip().replace("-", "_") for name in str(params["knobs"]).split(",")]
        known = [name for name in wanted if name in context.knobs] or sorted(context.knobs)
        self._dimensions = [Dimension(context.knobs[name]) for name in known]
        self._baseline: Codes = tuple(d.baseline for d in self._dimensions)
        self._setter = Setter(context, self._dimensions)
        self._watch = Watch(context.features)
        self._phases: list[Phase] = []
        self._trial: Trial | None = None
        self._rest_until = 0.0
        self._measuring = False  # by the owner
        self._seen_at = -math.inf
        self._why = "waiting for the first window"
        self._counts = {"trials": 0, "gains": 0, "losses": 0, "unsafe": 0, "gaps": 0}
        self._worst = 0.0
        self._last = ""

    def start(self) -> None:
        """Begin with what the last run found."""
        phases = recall(self.context.memory, self._key(), self._search, self._baseline)
        for phase in phases:
            self._watch.places.append(phase.place)
            self._phases.append(phase)
        if phases:
            self.context.log("remembers", phases=len(phases))

    # Inputs

    def on_windows(self, windows: npt.NDArray[np.void]) -> None:
        """See which phase the load is in, by what the agent counts while the incumbent stands."""
        candidate = self._trial is not None and self._trial.on_candidate
        if not candidate and not self._measuring and self._watch.learn(windows):
            self._enter()
        self._turn()

    def on_objective(self, objective: ObjectiveEvent) -> None:
        """Take a reading, or the lack of one."""
        if objective.value is None:
            self._counts["gaps"] += 1
        else:
            self._seen_at = objective.end_s
        if self._measuring:
            pass  # it is of two settings
        elif self._trial and self._trial.learn(objective, self._setter.settled_at):
            self._look_at(self._trial)
        self._turn()

    def on_verdict(self, verdict: VerdictEvent) -> None:
        """Take an answer to a recommendation."""
        self._setter.on_verdict(verdict)
        self._turn()

    def on_change(self, change: ChangeEvent) -> None:
        """A knob was set, or set back."""
        self._setter.on_change(change)
        self._turn()

    def on_measuring(self, active: bool) -> None:
        """Wait while the owner measures the setting, and accept the result."""
        self._measuring = active
        self._setter.begin_anew()
        if self._trial:
            self._trial.begin_anew()
        outcome, self._setter.dropped = self._setter.dropped, ""
        phase = self._phase()
        if not active and outcome and phase:
            self._refuted(phase, outcome)
        self._turn()

    def on_mode(self, mode: str) -> None:
        """Measure only where values are applied."""
        if mode not in _LIVE:
            self._drop("the mode is " + mode)

    # Actions

    def _turn(self) -> None:
        now = self.context.now()
        phase = self._phase()
        if self._setter.lost:
            self._drop(self._setter.refused)
            self._hold(self._baseline, "Another writer has set one of the knobs.")
        elif phase is None or self._measuring:
            self._setter.turn()
        elif self.context.mode not in _LIVE:
            self._why = f"in mode {self.context.mode} nothing is measured"
            self._hold(phase.best, "Found in an earlier run.")
        elif now - self._seen_at > max(_BLIND_S, 5 * self._param("every")):
            self._drop("the objective has no value")
            self._why = "waiting for a value of the objective"
            self._hold(self._baseline, "Nothing is held while the objective has no value.")
        elif self._trial is not None:
            self._go_on(self._trial, phase)
        else:
            self._rest(phase, now)

    def _rest(self, phase: Phase, now: float) -> None:
        self._hold(phase.best, self._kept_because(phase))
        if now < self._rest_until or self._setter.settled_at is None:
            return
        if phase.best != self._baseline and now >= phase.recheck_at:
            self._begin(phase, self._baseline, phase.best, again=True)
            return
        if phase.tries >= self._param("trials") or phase.search.exhausted:
            if phase.best != self._baseline and not phase.proven:
                self._begin(phase, self._baseline, phase.best, again=True)
                return
            self._why = "the search of this phase is done"
            if phase.converged_s is None:
                phase.converged_s = now - phase.began
                self._remember()
            return
        candidate = phase.search.ask(phase.best)
        if candidate is None:
            phase.search.shrink()
            return
        self._begin(phase, phase.best, candidate)

    def _begin(
        self, phase: Phase, incumbent: Codes, candidate: Codes, *, again: bool = False
    ) -> None:
        settle = self._settle_s(incumbent, candidate)
        noise = None if again else phase.noise
        design = self._design(settle, again=again, known=noise.blocks if noise else 0)
        experiment = Experiment(design, self.context.rng, noise)
        self._trial = Trial(
            incumbent,
            candidate,
            experiment,
            settle_s=settle,
            floor=_FLOOR if self._objective.startswith("psi.") else 0.0,
            again=again,
        )
        words = "measures again" if again else "tries"
        self._why = f"{words} {self._words(candidate, incumbent)}"
        found = experiment.detectable
        least = f"x{found:.3f}" if math.isfinite(found) else "not known yet"
        self.context.log(f"{self._why}; the least gain that it can find is {least}")

    def _design(self, settle_s: float, *, again: bool, known: int) -> Design:
        block_s, pairs, calibration = self._param("block"), self._param("pairs"), _CALIBRATION
        if again:
            block_s, pairs, calibration = _LONG * block_s, _LONG_PAIRS, _LONG_CALIBRATION
        wash_out_s = settle_s + self._param("every")
        # The first blocks of all only say how noisy it is.
        blocks = 2 * pairs + max(0, calibration - known)
        return Design(
            block_s=block_s,
            wash_out_s=wash_out_s,
            max_s=blocks * (block_s + wash_out_s),
            calibration=calibration,
            min_gain=0.0 if again else self._param("min_gain"),
            better=self._better(),
            screen_pairs=0 if again else _SCREEN,
        )

    def _go_on(self, trial: Trial, phase: Phase) -> None:
        if self._setter.want == trial.want and self._setter.refused:
            why, self._setter.refused = self._setter.refused, ""
            self._trial = None
            phase.learn_noise(trial.experiment.noise)
            phase.search.refuse(trial.candidate)
            phase.search.away.add(trial.candidate)
            self.context.log(f"gives up {self._words(trial.candidate, trial.incumbent)}: {why}")
            self._rest_until = self.context.now() + self._settle_s(self._setter.want, phase.best)
            self._hold(phase.best, "The tried setting is not possible.")
            return
        arm = "candidate" if trial.on_candidate else "incumbent"
        number = len(trial.experiment.blocks) + 1
        evidence: dict[str, float | int | str] = {"block": number, "arm": arm}
        if interval := trial.interval:
            evidence |= {"ratio": round(interval.ratio, 4), "low": round(interval.low, 4)}
        setting = self._words(trial.candidate, trial.incumbent)
        self._setter.go(trial.want, f"Block {number} of the trial of {setting}.", evidence)

    def _look_at(self, trial: Trial) -> None:
        experiment, phase = trial.experiment, self._phase()
        if experiment.outcome is None or phase is None:
            return
        self._trial = None
        ratio = trial.log_ratio
        interval = trial.interval
        between = f", {interval.low:.3f} to {interval.high:.3f}" if interval else ""
        self._last = (
            f"{self._words(trial.candidate, trial.incumbent)}: {experiment.outcome}, "
            f"effect x{math.exp(ratio):.3f}{between} ({experiment.pairs} pairs)"
        )
        self.context.log(f"{self._last}: {experiment.reason}")
        self._report(trial)
        if not trial.again:
            phase.learn_noise(experiment.noise)
        self._counts["trials"] += 1
        self._worst = min(self._worst, ratio)
        failed = experiment.outcome != "gain"
        hurt = failed and ratio < -self._param("min_gain")
        certain = experiment.outcome == "loss" or (
            experiment.outcome == "aborted" and ratio < -math.log(2)
        )
        lost = (certain or trial.worse) and hurt and not trial.again
        self._counts["unsafe"] += lost
        self._counts["losses"] += experiment.outcome == "loss"
        self._counts["gains"] += not failed
        if trial.again:
            self._rechecked(phase, trial, failed)
        else:
            self._tried(phase, trial, ratio, failed=failed, lost=lost)
        # What the last block moved has to settle: the next comparison may not wait for it.
        self._rest_until = self.context.now() + (
            self._settle_s(self._setter.want, phase.best) if self._setter.want != phase.best else 0
        )
        self._remember()

    def _report(self, trial: Trial) -> None:
        # For `kmind why`; the log has the line in any case.
        sides = zip(self._dimensions, trial.incumbent, trial.candidate, strict=True)
        moved = [(d.info, old, new) for d, old, new in sides if old != new]
        try:
            self.context.report_experiment(
                trial.experiment,
                incumbent={info.name: info.decode(old) for info, old, _ in moved},
                candidate={info.name: info.decode(new) for info, _, new in moved},
                metric=self._objective[:80],
                context=f"phase {self._watch.current}",
                reason="The current setting is measured again."
                if trial.again
                else "A step of the search.",
            )
        except ValueError as error:
            self.context.log(f"kmind why will not show it: {error}")

    def _tried(self, phase: Phase, trial: Trial, ratio: float, *, failed: bool, lost: bool) -> None:
        phase.tries += 1
        phase.search.tell(trial.candidate, phase.gain + ratio)
        if not failed and self.context.mode == "auto":
            phase.best, phase.gain = trial.candidate, phase.gain + ratio
            phase.search.gained(trial.incumbent, trial.candidate)
            phase.search.away.add(trial.incumbent)
            phase.recheck_at, phase.pause_s = self.context.now() + self._param("recheck"), 0.0
            return
        phase.search.away.add(trial.candidate)
        if lost:
            phase.search.lost.add(trial.candidate)
        phase.search.missed()

    def _rechecked(self, phase: Phase, trial: Trial, failed: bool) -> None:
        interval = trial.interval
        if failed and not (interval and interval.low >= 1):
            # No longer above the baseline for certain: so it goes, and the search goes on.
            phase.search.tell(trial.candidate, min(0.0, trial.log_ratio))
            phase.search.away.add(trial.candidate)
            if trial.log_ratio < 0:  # nor is it to be tried again with something else beside it
                phase.search.lost.add(trial.candidate)
            phase.best, phase.gain, phase.recheck_at = self._baseline, 0.0, math.inf
            phase.pause_s = 0.0
            return
        phase.gain = trial.log_ratio
        phase.pause_s = min(_LONGEST_S, 2 * phase.pause_s or self._param("recheck"))
        phase.recheck_at = self.context.now() + phase.pause_s

    def _refuted(self, phase: Phase, outcome: str) -> None:
        # The owner has put all back: the setting was no better than the baseline.
        self._drop(f"by the owner's own experiment the setting was not better: {outcome}")
        refuted = self._setter.want
        phase.search.tell(refuted, 0.0)
        phase.search.away.add(refuted)
        if outcome == "loss":
            phase.search.lost.add(refuted)
        if refuted == phase.best:
            phase.best, phase.gain, phase.recheck_at = self._baseline, 0.0, math.inf
            phase.pause_s = 0.0
        self._remember()

    def _drop(self, why: str) -> None:
        # End a comparison without an outcome; nothing is concluded from it.
        if self._trial is not None:
            self.context.log(f"breaks off: {why}")
            self._trial = None

    def _enter(self) -> None:
        self._drop("the load has changed")
        number = self._watch.current
        assert number is not None
        now = self.context.now()
        if number == len(self._phases):
            place = self._watch.places[number]
            self._phases.append(Phase(place, self._search(number), self._baseline, began=now))
        phase = self._phases[number]
        if phase.best != self._baseline:
            phase.recheck_at = now + _REMEMBERED_S
        self._rest_until = now + self._settle_s(self._setter.want, phase.best)
        self.context.log("phase", number=number, known=phase.tries > 0)

    def _hold(self, codes: Codes, reason: str) -> None:
        self._setter.go(codes, reason, {"objective": self._objective[:80]})

    # Knowledge

    def _phase(self) -> Phase | None:
        current = self._watch.current
        return None if current is None else self._phases[current]

    def _search(self, number: int) -> Search:
        seed = (int(self.context.params["seed"]) + number) & 0xFFFFFFFF
        sampler = cast(Sampler, self.context.params["sampler"])
        return Search(self._dimensions, sampler, seed)

    def _param(self, name: str) -> float:
        return float(self.context.params[name])

    def _settle_s(self, here: Codes, there: Codes) -> float:
        # Of a change from one to the other, or back: only knobs that move have to settle.
        slow = any(
            dimension.info.settle == "slow" and code != other
            for dimension, code, other in zip(self._dimensions, here, there, strict=True)
        )
        return max(self._param("settle"), _SLOW_S if slow else 0.0)

    def _better(self) -> Any:
        said = str(self.context.params["better"])
        if said != "auto":
            return said
        lower = self._objective.startswith(("psi.", "block.latency"))
        return "lower" if lower else "higher"

    def _key(self) -> dict[str, Any]:
        # Results are valid for the same task only.
        names = [dimension.info.name for dimension in self._dimensions]
        return {
            "objective": self._objective,
            "better": self._better(),
            "knobs": names,
            "baseline": list(self._baseline),
        }

    def _remember(self) -> None:
        counts = {**self._counts, "worst": round(math.exp(self._worst), 4)}
        self.context.remember(remember(self._key(), self._phases, counts))

    def _words(self, codes: Codes, others: Codes) -> str:
        parts = [
            f"{d.info.name} {d.info.decode(other)} -> {d.info.decode(code)}"
            for d, code, other in zip(self._dimensions, codes, others, strict=True)
            if code != other
        ]
        return ", ".join(parts)[:200] or "nothing"

    def _kept_because(self, phase: Phase) -> str:
        if phase.best == self._baseline:
            return "No better setting was found."
        return f"Its measured effect is x{math.exp(phase.gain):.3f} against the previous setting."

    def status(self) -> Mapping[str, Any]:
        """Return the state of the search, the best values, and the search's cost so far."""
        phase = self._phase()
        best = phase.best if phase else self._baseline
        return {
            "state": self._why,
            "phase": -1 if self._watch.current is None else self._watch.current,
            "phases": len(self._phases),
            "tries": phase.tries if phase else 0,
            "best": self._words(best, self._baseline),
            "gain": round(math.exp(phase.gain), 4) if phase else 1.0,
            "radius": round(phase.search.radius, 3) if phase else 0.0,
            "converged_s": -1.0
            if phase is None or phase.converged_s is None
            else round(phase.converged_s, 1),
            "worst": round(math.exp(self._worst), 4),
            "last": self._last,
            **self._counts,
        }
