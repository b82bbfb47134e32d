# SPDX-License-Identifier: Apache-2.0
"""The readahead extension: proposes values, keeps those that measured windows favour.

Pattern alone decides nothing. Files that fit in memory are soon read from
memory, and a large readahead gets them there sooner though it wastes most of
what it reads; so the extension first waits for that (``patience``). Then it
tries, in short blocks interleaved with the value that stood, and keeps a value
only if the interval of the measured ratio is above 1 + ``min_gain``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from kmind.extension import ChangeEvent, Context, Extension, VerdictEvent

from .phase import Phase, PhaseTracker, Usage
from .trial import Effect, Trial

__all__ = ["Readahead"]

_KNOB = "block.read_ahead_kb"
_WASH_OUT_S = 0.1  # reads under way keep the old value
_BLOCK = 3  # windows in a block
_TRIAL_HOLD_S = 3.0  # how long a value may stand unattended during a trial
_KEEP_HOLD_S = 5.0
_RENEW_S = 2.0
_AGAIN_S = 30.0  # before a value that did not help is tried again; doubles each time
_PAGE_KB = 4


class Readahead(Extension):
    """One disk's ``read_ahead_kb``."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._tracker = PhaseTracker()
        self._recent: deque[Usage] = deque(maxlen=_BLOCK)
        self._trial: Trial | None = None
        self._block: list[float] = []
        self._counts_from = 0.0  # windows that begin earlier are not of this block
        self._value: int | None = None  # what stands now
        self._kept: tuple[int, Phase, float, str] | None = None  # value, phase, since, why
        self._renewed = 0.0
        self._not_before: dict[tuple[Phase, int], tuple[float, float]] = {}
        self._learned: dict[Phase, int] = {}
        self._silent: Phase | None = None  # nothing more to say while this phase lasts
        self._yielded = False
        self._doing = "watching"

    @property
    def _baseline(self) -> int:
        return int(self.context.knobs[_KNOB].baseline)

    @property
    def _now_set(self) -> int:
        return self._baseline if self._value is None else self._value

    # What comes in.

    def on_windows(self, windows: npt.NDArray[np.void]) -> None:
        """Learn from each window, then decide once."""
        for window in windows:
            usage = Usage.of(window, self.context.features)
            if self._tracker.learn_one(usage):
                self._enter_phase()
            if usage.start_s < self._counts_from:
                continue
            self._recent.append(usage)
            if self._trial is not None:
                self._measure(usage)
        if not self._recent or self._yielded or _KNOB not in self.context.knobs:
            return
        if self._trial is None:
            self._renew()
            self._consider()

    def on_verdict(self, verdict: VerdictEvent) -> None:
        """Stop trying what the agent does not let through."""
        if verdict.verdict in ("approved", "renewed"):
            return
        self._stop_trial()
        if verdict.verdict in ("shadowed", "advised"):
            self._silent = self._tracker.phase
            self._doing = f"{verdict.verdict}: {verdict.value} KiB"
        else:
            self._put_off(int(verdict.value))
            self._doing = f"refused: {verdict.verdict}"

    def on_change(self, change: ChangeEvent) -> None:
        """Blocks are counted from the moment that a value stands."""
        if change.kind == "yielded":
            self._yielded = True
            self._stop_trial()
            self._kept = None
            self._doing = "yielded: somebody else set the knob"
            return
        self._value = int(change.value)
        self._recent.clear()
        self._counts_from = self.context.now() + _WASH_OUT_S
        if change.kind != "applied" or (
            self._trial is not None and self._value != self._trial.next_value
        ):
            self._stop_trial()
        if change.kind == "undone":
            self._kept = None

    def status(self) -> Mapping[str, Any]:
        """The phase, the speeds, and what is being done about them."""
        shown: dict[str, Any] = {"phase": self._tracker.phase, "doing": self._doing}
        if self._recent:
            last = self._recent[-1]
            shown |= {
                "requests_per_s": round(last.requests),
                "misses_per_s": round(last.misses),
                "in_order": round(last.sequential_share, 2),
                "device_mb_per_s": round(last.device_bytes / 1e6, 1),
            }
        return shown

    # What goes out.

    def _recommend(self, value: int, reason: str, hold_s: float, **evidence: float | int) -> None:
        self.context.recommend(_KNOB, value, reason=reason, evidence=evidence, hold_s=hold_s)

    def _let_go(self, why: str) -> None:
        self._kept = None
        if self._now_set != self._baseline and not self._yielded:
            self._recommend(
                self._baseline,
                f"{why}, so {self._baseline} KiB is put back.",
                _TRIAL_HOLD_S,
                before_kb=self._now_set,
            )

    def _enter_phase(self) -> None:
        phase = self._tracker.phase
        trying = self._trial is not None
        self._stop_trial()
        self._recent.clear()
        self._silent = None
        self._doing = "watching"
        if phase in ("idle", "cached"):
            if trying:
                self._let_go("The disk is no longer read")
            return  # what is kept runs out by itself
        if trying or (self._kept is not None and self._kept[1] != phase):
            self._let_go(f"Reads are now {_in_words(phase)}")

    def _renew(self) -> None:
        now = self.context.now()
        if self._kept is None or self._kept[1] != self._tracker.phase:
            return
        value, _, _, why = self._kept
        if self.context.mode == "auto" and now - self._renewed >= _RENEW_S:
            self._renewed = now
            self._recommend(value, why, _KEEP_HOLD_S)

    def _consider(self) -> None:
        phase = self._tracker.phase
        if self._silent == phase or len(self._recent) < _BLOCK or phase not in ("random", "stream"):
            return
        if self._kept is not None:
            if self.context.now() - self._kept[2] >= float(self.context.params["recheck"]):
                self._start(self._baseline, "to see whether the gain still holds")
            return
        candidate = self._candidate(phase)
        if candidate is None:
            self._doing = f"nothing to try: {_in_words(phase)}"
            return
        again, _ = self._not_before.get((phase, candidate), (0.0, 0.0))
        if self.context.now() < again:
            return  # what came of it the last time is still shown
        wait = self._until_cached()
        if phase == "random" and wait <= float(self.context.params["patience"]):
            self._doing = f"waiting: what is read fits in memory, and is cached in {wait:.1f} s"
            return
        self._start(candidate, self._grounds(phase))

    def _candidate(self, phase: Phase) -> int | None:
        if phase == "random":
            value = self._learned.get(phase, int(self.context.params["random_kb"]))
            # Nothing to save where a miss brings in no more than the candidate would.
            mean = fmean(usage.pages_per_miss for usage in self._recent)
            useful = value < self._now_set and mean * _PAGE_KB > value
        else:
            value = self._learned.get(phase, int(self.context.params["stream_kb"]))
            useful = value > self._now_set
        knob = self.context.knobs[_KNOB]
        value = min(max(value, knob.minimum), knob.maximum)
        return value if useful else None

    def _until_cached(self) -> float:
        # Seconds until all of the files read lies in memory, or infinity if it will not.
        uncached = max(usage.uncached_pages for usage in self._recent)
        left = self._recent[-1].left_pages
        added = fmean(usage.added for usage in self._recent)
        removed = fmean(usage.removed for usage in self._recent)
        if uncached > left or removed > added / 2 or added <= removed:
            return float("inf")
        return uncached / (added - removed)

    def _grounds(self, phase: Phase) -> str:
        share = fmean(usage.sequential_share for usage in self._recent)
        pages = fmean(usage.pages_per_miss for usage in self._recent)
        if phase == "random":
            return f"as {1 - share:.0%} of reads are at random and a miss reads {pages:,.0f} pages"
        return f"as {share:.0%} of the reads go on where the last one ended"

    # Trials.

    def _start(self, candidate: int, grounds: str) -> None:
        phase = self._tracker.phase
        before = fmean(usage.speed(phase) for usage in self._recent)
        self._trial = Trial(candidate, self._now_set, float(self.context.params["min_gain"]))
        # The windows that led here are the first block.
        self._trial.learn_one(before)
        self._block = []
        self._doing = f"trying {candidate} KiB against {self._now_set} KiB"
        self._counts_from = float("inf")  # until it is applied
        self._recommend(
            candidate,
            f"{candidate} KiB instead of {self._now_set} KiB is {self._tense}, {grounds}.",
            _TRIAL_HOLD_S,
            requests_per_s=round(self._recent[-1].requests, 1),
            misses_per_s=round(self._recent[-1].misses, 1),
            in_order=round(self._recent[-1].sequential_share, 3),
            pages_per_miss=round(self._recent[-1].pages_per_miss, 1),
            stride_pages=round(self._recent[-1].stride_pages),
            stride_spread=round(self._recent[-1].stride_spread),
            uncached_pages=max(usage.uncached_pages for usage in self._recent),
            left_pages=self._recent[-1].left_pages,
        )

    @property
    def _tense(self) -> str:
        return "tried" if self.context.mode in ("canary", "auto") else "worth a trial"

    def _measure(self, usage: Usage) -> None:
        trial = self._trial
        assert trial is not None
        self._block.append(usage.speed(self._tracker.phase))
        if len(self._block) < _BLOCK:
            return
        trial.learn_one(fmean(self._block))
        self._block = []
        outcome = trial.outcome
        if outcome is not None:
            self._trial = None
            self._conclude(trial, outcome)
        elif trial.next_value != self._now_set:
            self._counts_from = float("inf")
            self._recommend(
                trial.next_value,
                f"Block {len(trial.under_incumbent) + len(trial.under_candidate) + 1} of the trial "
                f"of {trial.candidate} KiB against {trial.incumbent} KiB.",
                _TRIAL_HOLD_S,
            )

    def _conclude(self, trial: Trial, outcome: str) -> None:
        phase = self._tracker.phase
        effect = trial.effect
        rechecking = self._kept is not None
        self._doing = f"{outcome}: {trial.candidate} KiB against {trial.incumbent} KiB"
        self.context.log(
            f"trial of {trial.candidate} KiB against {trial.incumbent} KiB: {outcome}",
            ratio=f"{effect.ratio:.2f}" if effect else "first block too slow",
        )
        if rechecking and outcome != "gain":
            self._keep(trial.incumbent, phase, self._kept[3] if self._kept else "")
        elif rechecking:
            self._learned.pop(phase, None)
            self._let_go(f"{trial.incumbent} KiB no longer helps")
        elif outcome == "gain" and effect is not None:
            self._not_before.pop((phase, trial.candidate), None)
            self._learned[phase] = trial.candidate
            if self.context.mode == "canary":
                self._silent = phase  # measured; never kept
                self._let_go(f"{trial.candidate} KiB helps, and mode canary keeps nothing")
            else:
                self._keep(trial.candidate, phase, _why(trial, effect, phase), effect)
        else:
            self._put_off(trial.candidate)
            self._let_go(f"{trial.candidate} KiB showed no gain over {trial.incumbent} KiB")

    def _keep(self, value: int, phase: Phase, why: str, effect: Effect | None = None) -> None:
        now = self.context.now()
        self._kept = (value, phase, now, why)
        self._renewed = now
        evidence = (
            {"ratio": round(effect.ratio, 3), "low": round(effect.low, 3), "pairs": effect.pairs}
            if effect
            else {}
        )
        self._doing = f"keeping {value} KiB"
        self._recommend(value, why, _KEEP_HOLD_S, **evidence)

    def _stop_trial(self) -> None:
        self._trial = None
        self._block = []
        if self._counts_from == float("inf"):
            self._counts_from = 0.0

    def _put_off(self, value: int) -> None:
        key = (self._tracker.phase, value)
        _, pause = self._not_before.get(key, (0.0, _AGAIN_S / 2))
        self._not_before[key] = (self.context.now() + 2 * pause, 2 * pause)


def _in_words(phase: Phase) -> str:
    return {"stream": "in order", "random": "at random", "mixed": "mixed"}.get(phase, phase)


def _why(trial: Trial, effect: Effect, phase: Phase) -> str:
    what = "pages" if phase == "stream" else "requests"
    return (
        f"{trial.candidate} KiB instead of {trial.incumbent} KiB served {effect.ratio:.2f} times "
        f"the {what} (95% interval {effect.low:.2f} to {effect.high:.2f}, {effect.pairs} pairs of "
        f"blocks), so it is kept while reads stay {_in_words(phase)}."
    )
