# SPDX-License-Identifier: Apache-2.0
"""Classify the load coarsely by the agent's counters, and choose the outcome that decides.

The extension has no say in this: it comes from the manifest, which belongs to the admin, and from
totals that the agent keeps.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kmind.agent.protocol import Agent
from kmind.evidence import Side
from kmind.extension import Manifest
from kmind.extension.manifest.outcome import CircumstancePart, OutcomePart
from kmind.runtime.experiment.measure.metrics import Block, Metrics, Reading

__all__ = ["BLOCKS", "Circumstances", "Counted", "Ledger", "Load"]

BLOCKS = 5
"""Number of blocks under the current value that the load is classified by."""

_U64 = (1 << 64) - 1
_FEW = 10  # counts in a block: of less no multiple is taken
_NONE = "none"


@dataclass(frozen=True)
class Counted(Block):
    """A block, with how far each counter grew in it."""

    counts: Mapping[str, int] = field(default_factory=dict)


class Ledger(Metrics):
    """Metrics that also reads the counters which circumstances are told by.

    Blocks have the outcomes among the guards' readings, too. ``told`` gets each block.
    """

    def __init__(self, manifest: Manifest, agent: Agent, *, now: Callable[[], float]) -> None:
        super().__init__(manifest, agent, now=now)
        wanted = {name for part in manifest.circumstances for name in part.features}
        self._columns |= {n: c for n, c in manifest.columns.items() if n in wanted}
        self.told: Callable[[Counted], object] = lambda block: None

    def between(self, before: Reading, after: Reading) -> Counted:
        """The block from one reading to another."""
        block = super().between(before, after)
        grown = {name: (after.totals[name] - before.totals[name]) & _U64 for name in self._columns}
        counted = Counted(block.seconds, block.values, {**block.guards, **block.values}, grown)
        self.told(counted)
        return counted


@dataclass(frozen=True)
class Load:
    """Class of the load in the latest blocks under the current value.

    ``classes`` names the class of each circumstance, ``context`` leaves out those that depend on
    the knob's value, so that the same load has the same context under each. ``outcome`` decides; of
    the others those in ``sides`` must not get worse than their guard.
    """

    classes: str
    context: str
    outcome: OutcomePart
    sides: tuple[Side, ...]


class Circumstances:
    """Tells loads apart by a module's manifest, which has to declare an outcome.

    Where it declares no circumstance, the rate of each counter of its outcomes and guards is
    one, in classes of a factor of four.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._outcomes = manifest.outcomes
        self._parts = manifest.circumstances
        parts = (*manifest.outcomes, *manifest.guards)
        self._counters = sorted({name for part in parts for name in part.features})

    def classify(self, blocks: Sequence[Counted], decides: str = "") -> Load:
        """Return the load of these blocks, at least one.

        ``decides`` names an outcome to be used instead of the manifest's choice, for an admin's
        request.
        """
        classes = self._classes(blocks)
        outcome = next(
            part
            for part in self._outcomes
            if part.name == decides or (not decides and _holds(part.when, classes))
        )
        sides = [
            self._side(part, blocks)
            for part in self._outcomes
            if part is not outcome and _holds(part.guard_when, classes)
        ]
        by_value = {part.name for part in self._parts if part.by_value}
        lasting = {name: value for name, value in classes.items() if name not in by_value}
        return Load(
            _words(classes), _words(lasting), outcome, tuple(side for side in sides if side)
        )

    def believed(self, outcome: OutcomePart, blocks: Sequence[Counted]) -> bool:
        """True if a gain by an outcome counts, given these blocks under the candidate."""
        if not outcome.candidate_when:
            return True
        return bool(blocks) and _holds(outcome.candidate_when, self._classes(blocks))

    def harmed(
        self,
        outcome: OutcomePart,
        sides: Sequence[Side],
        incumbent: Sequence[Counted],
        candidate: Sequence[Counted],
    ) -> Side | None:
        """Return an outcome that the candidate makes worse than its guard allows; None if none.

        It checks the outcomes that guard under the candidate alone (``guard_when`` holds of its
        blocks): ``sides`` guarded from the beginning. A program that shares its disk with others
        can be hidden among them until a value harms it.
        """
        if not (incumbent and candidate):
            return None
        classes, known = self._classes(candidate), {side.name for side in sides}
        for each in self._outcomes:
            if each is outcome or each.name in known or not _holds(each.guard_when, classes):
                continue
            if side := self._side(each, incumbent):
                for pair in zip(reversed(incumbent), reversed(candidate), strict=False):
                    side.learn_one(*(block.values[each.name] for block in pair))
                if not side.fine:
                    return side
        return None

    def _classes(self, blocks: Sequence[Counted]) -> dict[str, str]:
        seconds = sum(block.seconds for block in blocks)
        counts = {
            name: sum(block.counts.get(name, 0) for block in blocks) for name in blocks[0].counts
        }
        if self._parts:
            return {part.name: _class(part, counts, seconds) for part in self._parts}
        return {name: _rate_class(counts[name] / seconds) for name in self._counters}

    def _side(self, part: OutcomePart, blocks: Sequence[Counted]) -> Side | None:
        # Of what hardly is there nothing is compared, but where less is better: it may come.
        if not part.guard:
            return None
        rate, lower = not part.denominator, part.better == "lower"
        names = part.numerator if rate else part.denominator
        usual = statistics.median(
            sum(block.counts.get(name, 0) for name in names) for block in blocks
        )
        if usual < _FEW and not (rate and lower):
            return None
        floor = _FEW / statistics.median(block.seconds for block in blocks) if rate else 0.0
        return Side(part.name, part.better, part.guard, floor)


def _words(classes: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in classes.items())


def _holds(when: Sequence[Mapping[str, str]], classes: Mapping[str, str]) -> bool:
    return not when or any(
        all(classes[name] == wanted for name, wanted in table.items()) for table in when
    )


def _sum(terms: Sequence[str], counts: Mapping[str, int]) -> int:
    return sum(
        -counts[term.removeprefix("-")] if term.startswith("-") else counts[term] for term in terms
    )


def _class(part: CircumstancePart, counts: Mapping[str, int], seconds: float) -> str:
    below = _sum(part.denominator, counts) if part.denominator else seconds
    if below == 0:
        return _NONE
    # Where more is taken away than there is, it goes on for ever.
    ratio = _sum(part.numerator, counts) / below if below > 0 else math.inf
    return part.classes[sum(ratio >= bound for bound in part.bounds)]


def _rate_class(rate: float) -> str:
    return str(math.floor(math.log2(rate) / 2)) if rate > 0 else _NONE
