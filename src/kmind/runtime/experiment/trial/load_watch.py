# SPDX-License-Identifier: Apache-2.0
"""Watching the load, by the agent's counters: which it is, how noisy, and whether it lasts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kmind.agent.protocol import Agent
from kmind.extension import Manifest
from kmind.extension.manifest.outcome import EvidencePart
from kmind.knobs import Value
from kmind.runtime.experiment.case import Case, Running
from kmind.runtime.experiment.measure.aa_noise import AaNoise
from kmind.runtime.experiment.measure.circumstances import Circumstances, Counted, Ledger
from kmind.runtime.experiment.trial.recheck import Seen
from kmind.runtime.holds.grants import Granted

__all__ = ["LoadWatch"]

_NEWEST = 2  # blocks that have to look like the ones before them for what is remembered to hold


class LoadWatch:
    """Watch the load of one instance, whose module has this ``plan``.

    ``metrics`` reads the counters, ``noise`` collects blocks under the current value while nothing
    is tried. ``busy`` says whether there is traffic. Where the module declares no outcome, no load
    can be told from another.
    """

    def __init__(
        self,
        manifest: Manifest,
        agent: Agent,
        plan: EvidencePart,
        *,
        now: Callable[[], float],
    ) -> None:
        self.metrics = Ledger(manifest, agent, now=now)
        self.noise = AaNoise(self.metrics, plan.block_s, wash_out_s=plan.wash_out_s, now=now)
        self._circumstances = Circumstances(manifest)
        self._block_s = plan.block_s
        self._now = now
        self.busy = False
        self._busy_until = -math.inf

    def see(self, *, busy: bool) -> None:
        """Take from the agent whether it sees anything: a pause shorter than a block is no end."""
        if busy:
            self._busy_until = self._now() + self._block_s
        self.busy = self._now() < self._busy_until

    def seen(self, blocks: Sequence[Counted]) -> Seen:
        """Return the load that blocks under a value are of; it may follow the knob's value."""
        levels = {name: _level(blocks, name) for name in self.metrics.outcomes}
        return Seen(
            self._circumstances.classify(blocks).classes,
            {name: level for name, level in levels.items() if level is not None},
        )

    def case(
        self,
        granted: Granted,
        values: tuple[Value, Value],
        reason: str,
        evidence: Mapping[str, Any],
        latest: Sequence[Counted],
    ) -> Case:
        """The second value against the first, under the load that the latest blocks are of."""
        load = self._circumstances.classify(latest)
        level = _level(latest, load.outcome.name)
        return Case(
            granted, *values, reason, evidence, load.outcome, load.sides, load.context, level
        )

    def decides_still(self, case: Case, latest: Sequence[Counted]) -> bool:
        """True if the newest block has the case's outcome decide; else the load is changing."""
        return self._circumstances.classify(latest[-1:]).outcome is case.outcome

    def is_still(self, case: Case, latest: Sequence[Counted]) -> bool:
        """True if the newest blocks are of the case's load."""
        return self._circumstances.classify(latest[-_NEWEST:]).context == case.load

    def check(self, running: Running) -> None:
        """Void the verdict of an experiment that does not count.

        A gain counts by the outcome that decides under the load that there was, not another one;
        and it speaks against the candidate if a guard is broken that is seen under it alone.
        """
        experiment, case = running.trial.experiment, running.case
        seen, tried = running.blocks("incumbent"), running.blocks("candidate")
        if experiment.outcome in (None, "aborted") or not seen:
            return
        wanted, now = case.outcome.name, self._circumstances.classify(seen).outcome.name
        if now != wanted:
            experiment.void(f"the load has changed: {now} would decide now, not {wanted}")
        elif not self._circumstances.believed(case.outcome, tried):
            experiment.void(f"under the candidate {wanted} does not say what is gained")
        elif side := self._circumstances.harmed(case.outcome, case.sides, seen, tried):
            reason = f"guard {side.name} under the candidate: effect x{side.ratio:.3f}"
            experiment.void(reason, broken=True)


def _level(blocks: Sequence[Counted], name: str) -> float | None:
    values = [value for block in blocks if (value := block.values.get(name))]
    return statistics.median(values) if values else None
