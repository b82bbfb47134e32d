# SPDX-License-Identifier: Apache-2.0
"""The objective's readings as blocks of an experiment: the owner's own, never the extension's."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import deque
from collections.abc import Callable

from kmind.agent.protocol import Agent
from kmind.evidence import Better
from kmind.extension import Manifest
from kmind.runtime.experiment.measure.metrics import Block, Metrics, Reading
from kmind.runtime.objective.sources import Heard

__all__ = ["Readings"]

_KEPT = 4096
_RECENT = 8
_STALE_S = 5.0
_FLOOR = 0.01  # added to a share of the time: it may be nought, and has no ratio then
_NEAR_S = 1e-6


class Readings(Metrics):
    """A `Metrics` that also has the objective, as the outcome ``metric``.

    A block has the mean of the readings that lie within it; none where one is lacking. Of an
    objective that is a pressure (``psi.``) a hundredth is added (``floor``), so that ratios make
    sense near 0.
    """

    def __init__(
        self,
        manifest: Manifest,
        agent: Agent,
        *,
        metric: str,
        better: Better,
        now: Callable[[], float],
    ) -> None:
        super().__init__(manifest, agent, now=now)
        self.metric = metric
        self.better: Better = better
        self._clock = now
        self.floor = _FLOOR if metric.startswith("psi.") else 0.0
        self._heard: deque[Heard] = deque(maxlen=_KEPT)

    def receive(self, heard: Heard) -> None:
        """Take a reading, or the lack of one."""
        self._heard.append(heard)

    def between(self, before: Reading, after: Reading) -> Block:
        """The block from one reading of the totals to another."""
        block = super().between(before, after)
        values = {**block.values, self.metric: self._mean(before.time_s, after.time_s)}
        return Block(block.seconds, values, block.guards)

    def _mean(self, start_s: float, end_s: float) -> float | None:
        within = []
        for heard in reversed(self._heard):
            if heard.end_s <= start_s:
                break
            if heard.value is None:
                return None  # what is lacking may be what went wrong
            if heard.start_s >= start_s - _NEAR_S and heard.end_s <= end_s + _NEAR_S:
                within.append(heard.value + self.floor)
        return math.fsum(within) / len(within) if within else None

    @property
    def _recent(self) -> list[Heard]:
        return list(self._heard)[-_RECENT:]

    def level(self, since_s: float) -> float | None:
        """The median of the latest readings; None before there are eight, or with gaps."""
        values = [
            heard.value + self.floor
            for heard in self._recent
            if heard.value is not None and heard.start_s >= since_s
        ]
        return statistics.median(values) if len(values) == _RECENT else None

    @property
    def needs_s(self) -> float:
        """Seconds that a block takes in which a reading lies for certain."""
        recent = self._recent
        if not recent:
            return math.inf
        ends = [heard.end_s for heard in recent]
        apart = max((b - a for a, b in itertools.pairwise(ends)), default=0.0)
        return apart + max(heard.end_s - heard.start_s for heard in recent)

    @property
    def fresh(self) -> bool:
        """True if the objective has a recent value."""
        recent = self._recent
        if len(recent) < 2 or recent[-1].value is None:
            return False
        return self._clock() - recent[-1].end_s <= max(_STALE_S, 3 * self.needs_s)
