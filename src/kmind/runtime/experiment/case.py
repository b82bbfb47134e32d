# SPDX-License-Identifier: Apache-2.0
"""The records of experiments: what is asked, what waits, what runs, and what is known of now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kmind.agent.types import Action
from kmind.evidence import Side
from kmind.extension.manifest.outcome import OutcomePart
from kmind.knobs import Value
from kmind.runtime.experiment.exploring import Setting
from kmind.runtime.experiment.measure.circumstances import Counted
from kmind.runtime.experiment.runner import ExperimentRunner
from kmind.runtime.holds.grants import Granted

__all__ = ["CONTEXT", "Case", "Pending", "Running"]

CONTEXT = "context"
"""Entry of a recommendation's evidence: a word that splits what is remembered further."""

_WORD_MOST = 100


@dataclass(frozen=True)
class Case:
    """A value against the one before it, under a load that the owner told by the agent's counters.

    ``load`` is the owner's word for it, ``word`` the extension's. ``outcome`` decides, and
    ``sides`` guard. ``level`` is that of the outcome under the incumbent, None if not known.
    """

    granted: Granted
    incumbent: Value
    candidate: Value
    reason: str
    evidence: Mapping[str, Any]
    outcome: OutcomePart
    sides: tuple[Side, ...]
    load: str
    level: float | None

    @property
    def word(self) -> str:
        """The extension's word for the circumstances."""
        return str(self.evidence.get(CONTEXT, ""))[:_WORD_MOST]

    @property
    def context(self) -> str:
        """Both words; different ones never give the same text, for the owner's has no ";" in it."""
        return f"{self.load}; {self.word}" if self.word else self.load

    @property
    def pair(self) -> str:
        """The values, in words."""
        return f"{self.candidate} against {self.incumbent}"

    @property
    def back_off(self) -> tuple[Any, ...]:
        """Key of the back-off after a failure; the extension has no influence on it."""
        return (*self.granted.key, self.candidate, self.load)


@dataclass
class Pending:
    """An approved value that waits: for blocks that tell the load, or for a recheck."""

    granted: Granted
    action: Action
    reason: str
    evidence: Mapping[str, Any]
    until: float


@dataclass
class Running:
    """An experiment under way; ``seen`` has its blocks by arm.

    ``level`` is the error that it drew from the day's budget, 0 if it drew none, and ``pairs`` how
    many it began with. ``cut_off`` says that the extension ended it before it had another one.
    """

    case: Case
    trial: ExperimentRunner
    number: int
    rec_id: int
    again: bool
    level: float = 0.0
    pairs: int = 0
    cut_off: bool = False
    told: bool = False
    seen: list[tuple[str, Counted]] = field(default_factory=list)

    @property
    def seen_nothing(self) -> bool:
        """True if the experiment has no new pair yet."""
        return self.trial.experiment.pairs <= self.pairs

    @property
    def unproven(self) -> Setting:
        """Current setting if it has never been kept before; else empty."""
        if self.again or self.trial.arm != "candidate":
            return frozenset()
        return frozenset({(self.case.granted.key, self.case.candidate)})

    @property
    def convinces(self) -> bool:
        """True if its outcome lets the candidate stand.

        A kept value need not prove its gain again, but has to look like one still: so a value
        that was kept by chance goes at one of the next measurements.
        """
        experiment = self.trial.experiment
        if experiment.outcome == "gain":
            return True
        interval = experiment.interval
        favourable = interval is not None and interval.ratio > 1 + experiment.design.min_gain
        return self.again and experiment.outcome == "no change" and favourable

    def blocks(self, arm: str) -> list[Counted]:
        """The blocks that were measured under an arm, but for those that took too long."""
        longest = 3 * self.trial.experiment.design.block_s
        return [
            block for seen_arm, block in self.seen if seen_arm == arm and block.seconds <= longest
        ]
