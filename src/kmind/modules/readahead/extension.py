# SPDX-License-Identifier: Apache-2.0
"""The readahead extension: proposes values by how files are read; the owner measures them.

Pattern alone decides nothing. Files that fit in memory are soon read from
memory, and a large readahead gets them there sooner though it wastes most of
what it reads; so the extension first waits for that (``patience``). Then it
proposes one value after another, as long as they are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kmind.extension import ChangeEvent, Context, Extension, VerdictEvent

from .ladder import AGAIN_S, Ladder
from .phase import Phase, PhaseTracker, Usage
from .recent import Recent

__all__ = ["Readahead"]

_KNOB = "block.read_ahead_kb"
_HOLD_S = 5.0
_RENEW_S = 1.5
_PAUSE_S = 5.0  # after an experiment that was cut short, or a refusal
_SEARCH_S = 0.3  # a search begins so long after its phase, for programs start with reads at random
_NEARLY_S = 0.4  # what is cached sooner is not worth a pair of blocks
_ELSEWHERE = 5  # windows in another context end an experiment
_MIXED_KB = 128
_MOST_KB = 8192  # on no disk that we measured did more than that help
_MEMORY = 1  # version of what is remembered
_QUIET = ("idle", "cached")
# Refusals that say nothing of the value: it is not remembered for them.
_LATER = ("lease", "rate", "busy", "owner", "expired", "torn", "replayed")


@dataclass
class _Proposal:
    # A value that was recommended, and is again and again.
    value: int
    phase: Phase
    reason: str
    evidence: Mapping[str, float | int | str]
    kept: bool = False
    first_id: int = 0

    @property
    def context(self) -> str:
        return str(self.evidence.get("context", ""))


class Readahead(Extension):
    """One disk's ``read_ahead_kb``."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._tracker = PhaseTracker()
        self._recent = Recent()
        self._stands: list[int] = []  # kept values, each better than the one before
        self._proposal: _Proposal | None = None
        self._renewed = 0.0
        self._ladders: dict[str, Ladder] = {}
        self._remembered = _recalled(context.memory)
        self._classes = _numbers_in(str(context.params["model_kb"]))
        if not self._classes:
            context.log("model_kb must be numbers with commas between: no model is listened to")
        self._silent: Phase | None = None  # nothing more to say while this phase lasts
        self._not_before = 0.0
        self._entered = 0.0
        self._elsewhere = 0
        self._yielded = False
        self._doing = "watching"

    @property
    def _baseline(self) -> int:
        return int(self.context.knobs[_KNOB].baseline)

    @property
    def _now_set(self) -> int:
        return self._stands[-1] if self._stands else self._baseline

    # Inputs

    def on_windows(self, windows: npt.NDArray[np.void]) -> None:
        """Learn from each window, then decide once."""
        for window in windows:
            usage = Usage.of(window, self.context.features)
            if self._tracker.learn_one(usage):
                self._enter_phase()
            self._recent.learn_one(usage)
        if self._recent.last is None or self._yielded or _KNOB not in self.context.knobs:
            return
        self._renew()
        self._compare_context()
        if self._proposal is None or self._proposal.kept:
            self._consider()

    def on_verdict(self, verdict: VerdictEvent) -> None:
        """Stop proposing what the agent does not let through."""
        if verdict.verdict in ("approved", "renewed"):
            return
        proposal = self._proposal
        if proposal is None or proposal.value != verdict.value:
            return
        self._fall_back()
        if verdict.verdict in ("shadowed", "advised"):
            self._silent = self._tracker.phase
            self._doing = f"{verdict.verdict}: {verdict.value} KiB"
        else:
            if verdict.verdict in _LATER:
                self._not_before = self.context.now() + AGAIN_S
            else:
                self._tried(proposal)
            self._doing = f"refused: {verdict.verdict}"

    def on_change(self, change: ChangeEvent) -> None:
        """Learn the current value, and the fate of a proposal."""
        value, proposal = int(change.value), self._proposal
        if change.kind == "yielded":
            self._yielded = True
            self._proposal = None
            self._stands = []
            self._doing = "yielded: another writer set the knob"
        elif change.kind == "undone":
            if proposal is None or change.id >= proposal.first_id:
                self._proposal = None
                self._stands = []
        elif change.kind in ("applied", "kept"):
            self._keep(value)
        elif proposal is not None and _is_about(change, proposal):
            value = proposal.value
            self._doing = (
                f"{change.outcome or 'refused'}: {value} KiB against {self._before(value)}"
            )
            if change.outcome == "gain":  # and dropped, as canary keeps nothing
                self._silent = self._tracker.phase
            elif change.outcome == "aborted":
                self._not_before = self.context.now() + _PAUSE_S
            else:
                self._tried(proposal)
            if self._stands and self._stands[-1] == value:
                self._stands.pop()  # measured again, and refuted
            self._fall_back()

    def on_mode(self, mode: str) -> None:
        """Another mode may let through what this one did not."""
        self._silent = None

    def status(self) -> Mapping[str, Any]:
        """The phase, the speeds, and what is being done about them."""
        shown: dict[str, Any] = {"phase": self._tracker.phase, "doing": self._doing}
        if last := self._recent.last:
            shown |= {
                "requests_per_s": round(last.requests),
                "misses_per_s": round(last.misses),
                "in_order": round(last.sequential_share, 2),
                "device_mb_per_s": round(last.device_bytes / 1e6, 1),
            }
        return shown

    # Current values

    def _keep(self, value: int) -> None:
        proposal = self._proposal
        if proposal is None or proposal.value != value or value == self._now_set:
            return
        self._ladder(proposal.phase, proposal.context).kept(
            value, self._now_set, self.context.now()
        )
        self._remember()
        self._stands.append(value)
        self._proposal = _Proposal(
            value,
            proposal.phase,
            f"{value} KiB is kept while reads stay {_in_words(proposal.phase)}.",
            proposal.evidence,
            kept=True,
        )
        self._doing = f"keeping {value} KiB"

    def _before(self, value: int) -> str:
        others = [each for each in [self._baseline, *self._stands] if each != value]
        return f"{others[-1]} KiB" if others else "itself"

    def _fall_back(self) -> None:
        # Go on with the value from before the proposal.
        proposal, self._proposal = self._proposal, None
        if self._stands and proposal is not None:
            self._proposal = _Proposal(
                self._now_set,
                proposal.phase,
                f"{self._now_set} KiB is kept while reads stay {_in_words(proposal.phase)}.",
                proposal.evidence,
                kept=True,
            )
            self._renewed = float("-inf")

    def _let_go(self, why: str) -> None:
        pending = self._proposal is not None
        self._proposal = None
        if (pending or self._stands) and not self._yielded:
            self._recommend(
                _Proposal(
                    self._baseline,
                    self._tracker.phase,
                    f"{why}, so {self._baseline} KiB is put back.",
                    {"before_kb": self._now_set},
                )
            )
        self._stands = []

    def _recommend(self, proposal: _Proposal) -> None:
        made = self.context.recommend(
            _KNOB,
            proposal.value,
            reason=proposal.reason,
            evidence=proposal.evidence,
            hold_s=_HOLD_S,
        )
        proposal.first_id = proposal.first_id or made or 0
        self._renewed = self.context.now()

    def _renew(self) -> None:
        proposal = self._proposal
        if proposal is None or self._tracker.phase in _QUIET:
            return  # the current hold ends by itself
        if self.context.mode not in ("auto", "canary"):
            return
        if self.context.now() - self._renewed >= _RENEW_S:
            self._recommend(proposal)

    def _enter_phase(self) -> None:
        phase = self._tracker.phase
        self._recent.begin()
        self._silent = None
        self._not_before = 0.0
        self._entered = self.context.now()
        self._doing = "watching"
        proposal = self._proposal
        if proposal is None:
            return
        if phase == "idle":
            pass  # perhaps it only pauses; an experiment without readings ends by itself
        elif phase == "cached":
            if not proposal.kept:
                self._let_go("The disk is no longer read")
        elif phase == "mixed" and not proposal.kept:
            pass  # the value that is tried makes few reads, among which others' stand out
        elif proposal.phase != phase:
            self._let_go(f"Reads are now {_in_words(phase)}")

    def _compare_context(self) -> None:
        # A measurement in one context says nothing about another.
        proposal, phase = self._proposal, self._tracker.phase
        if proposal is None or proposal.kept or proposal.phase != phase:
            return
        if self._nearly_cached:
            self._let_go("Nearly all reads are served from memory")
            return
        context = self._recent.context(phase)
        other = context != proposal.context and self._recent.agree(phase)
        self._elsewhere = self._elsewhere + 1 if other else 0
        if self._elsewhere >= _ELSEWHERE:
            self._elsewhere = 0
            if self._stands:
                self._fall_back()
            else:
                self._let_go(f"What is read is {context} now")

    # Proposals

    def _consider(self) -> None:
        phase, now = self._tracker.phase, self.context.now()
        if phase in _QUIET or self._silent == phase or now < self._not_before:
            return
        if not self._recent.agree(phase):
            return
        context = self._recent.context(phase)
        ladder = self._ladder(phase, context)
        candidate = self._candidate(phase, ladder)
        if candidate is None:
            kept = f"keeping {self._now_set} KiB, " if self._stands else ""
            self._doing = f"{kept}nothing to try: {_in_words(phase)}"
            return
        smaller = phase != "stream" and candidate < self._now_set
        if (smaller and self._soon_cached) or self._nearly_cached:
            wait = self._recent.until_cached_s
            self._doing = f"waiting: what is read fits in memory, and is cached in {wait:.1f} s"
            return
        if candidate != ladder.best and now < self._entered + _SEARCH_S:
            return
        self._doing = f"proposing {candidate} KiB against {self._now_set} KiB"
        self._proposal = _Proposal(
            candidate,
            phase,
            f"{candidate} KiB instead of {self._now_set} KiB is {self._tense}, "
            f"{self._why(candidate, phase, ladder)}.",
            {"context": context} | self._recent.numbers(),
        )
        self._recommend(self._proposal)

    def _candidate(self, phase: Phase, ladder: Ladder) -> int | None:
        for value in ladder.next(self._now_set, self.context.now(), self._guess(phase)):
            # Nothing to save where a miss brings in no more than the candidate would.
            if value > self._now_set or self._recent.miss_kb > value:
                return value
        return None

    @property
    def _soon_cached(self) -> bool:
        return self._recent.until_cached_s <= float(self.context.params["patience"])

    @property
    def _nearly_cached(self) -> bool:
        fills = self._tracker.phase != "stream" and self._soon_cached
        nearly = self._recent.until_cached_s < _NEARLY_S
        return fills and nearly and not self._recent.file_by_file

    def _guess(self, phase: Phase) -> int | None:
        if 0 < self._recent.said <= len(self._classes):
            return self._classes[self._recent.said - 1]
        # Files that fit in memory get there sooner under a large value.
        large = int(self.context.params["stream_kb"])
        wanted = phase != "stream" and self._recent.fits and not self._recent.in_steps
        return large if wanted and large > self._now_set else None

    def _ladder(self, phase: Phase, name: str) -> Ladder:
        params, knob = self.context.params, self.context.knobs[_KNOB]
        if name not in self._ladders:
            onwards = phase == "stream" or self._recent.in_steps
            otherwise = params["random_kb"] if phase == "random" else _MIXED_KB
            value = int(params["stream_kb"] if onwards else otherwise)
            most = max(min(knob.maximum, _MOST_KB), knob.minimum)
            self._ladders[name] = Ladder(
                value,
                knob.minimum,
                most,
                grid=knob.grid,
                up=onwards,
                search=bool(params["search"]),
            )
            self._ladders[name].recall(self._remembered.get(name), self.context.now())
        return self._ladders[name]

    def _remember(self) -> None:
        # Where nothing was read this time, what earlier runs left is left again.
        now = self.context.now()
        learnt = {name: ladder.to_memory(now) for name, ladder in self._ladders.items()}
        self.context.remember({"version": _MEMORY, "ladders": {**self._remembered, **learnt}})

    def _tried(self, proposal: _Proposal) -> None:
        self._ladder(proposal.phase, proposal.context).tried(proposal.value, self.context.now())
        self._remember()
        self._not_before = self.context.now() + _RENEW_S

    def _why(self, candidate: int, phase: Phase, ladder: Ladder) -> str:
        if candidate == ladder.best:
            return f"as it was the best before while reads were {_in_words(phase)}"
        if candidate == self._guess(phase):
            first = (
                "the agent's model says so" if self._recent.said else "what is read fits in memory"
            )
            return f"as {first}, and {self._recent.grounds(phase)}"
        if not self._stands:
            return f"as {self._recent.grounds(phase)}"
        step = "less" if candidate < self._now_set else "more"
        return (
            f"as {self._now_set} KiB is better than {self._before(self._now_set)}, "
            f"and {step} of it may be better still: {self._recent.grounds(phase)}"
        )

    @property
    def _tense(self) -> str:
        return "tried" if self.context.mode in ("canary", "auto") else "worth a trial"


def _is_about(change: ChangeEvent, proposal: _Proposal) -> bool:
    # A failure comes with the current value, not with the recommended one.
    if change.kind == "failed":
        return not proposal.kept and change.id >= proposal.first_id
    return change.value == proposal.value


def _recalled(memory: Any) -> dict[str, Any]:
    # The ladders that an earlier run of this version left.
    if not isinstance(memory, dict) or memory.get("version") != _MEMORY:
        return {}
    ladders = memory.get("ladders")
    return ladders if isinstance(ladders, dict) else {}


def _numbers_in(text: str) -> list[int]:
    # Values of the classes; none if the parameter makes no sense.
    words = text.replace(" ", "").split(",")
    return (
        [int(word) for word in words] if all(w.isascii() and w.isdecimal() for w in words) else []
    )


def _in_words(phase: Phase) -> str:
    return {"stream": "in order", "random": "at random", "mixed": "mixed"}.get(phase, phase)
