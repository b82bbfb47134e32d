# SPDX-License-Identifier: Apache-2.0
"""A/A noise: blocks under the current value, while nothing is tried.

They are collected all the time, so that the noise is known before a proposal comes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable

from kmind.evidence import Guard, Noise
from kmind.runtime.experiment.measure.circumstances import BLOCKS, Counted, Ledger
from kmind.runtime.experiment.measure.metrics import Reading

__all__ = ["AaNoise"]

_KEPT = 48  # blocks: of what was long ago nothing is concluded
_JUMP = 2.0  # a level so many times off, in two blocks running, is another load
_ENOUGH = 8
_LATE = 3


class AaNoise:
    """Learns noise and levels, one reading a block. ``due`` is infinite while it pauses.

    After ``begin_anew`` it waits ``wash_out_s``, since requests in flight belong to the
    previous value.
    """

    def __init__(
        self, metrics: Ledger, block_s: float, *, wash_out_s: float = 0.0, now: Callable[[], float]
    ) -> None:
        self.due = math.inf
        self._metrics = metrics
        self._block_s = block_s
        self._wash_out_s = wash_out_s
        self._now = now
        self._going = False
        self._from = -math.inf
        self._began: Reading | None = None
        self._forget()

    def _forget(self) -> None:
        self._values: dict[str, deque[float | None]] = {
            name: deque(maxlen=_KEPT) for name in self._metrics.outcomes
        }
        self._jumps = dict.fromkeys(self._values, 0)
        self._blocks: deque[Counted] = deque(maxlen=_KEPT)
        self._latest: deque[Counted] = deque(maxlen=BLOCKS)

    def go_on(self) -> None:
        """Collect, if it does not already."""
        if self._going:
            return
        self._going = True
        if self._now() < self._from:
            self.due = self._from
        else:
            self._began, self.due = self._metrics.read(), self._now() + self._block_s

    def pause(self) -> None:
        """Collect no more; what was learnt of the noise stays."""
        self._latest.clear()
        if self._going:
            self._going, self._began, self.due = False, None, math.inf
            for values in self._values.values():
                values.append(None)

    def run_due(self) -> None:
        """Take a block if one is due."""
        now = self._now()
        if not self._going or now < self.due:
            return
        began, reading = self._began, self._metrics.read()
        self._began, self.due = reading, now + self._block_s
        if began is None:
            return
        block = self._metrics.between(began, reading)
        if block.seconds <= _LATE * self._block_s:
            self._keep(block)

    def _keep(self, block: Counted) -> None:
        self._blocks.append(block)
        if any(block.counts.values()):
            self._latest.append(block)
        for name, value in block.values.items():
            self._learn_one(name, value or None)  # silence says nothing of the noise

    def _learn_one(self, name: str, value: float | None) -> None:
        noise = self.noise(name)
        level = noise.level if value is not None and noise.blocks >= _ENOUGH else None
        if value is not None and level:
            off = max(value / level, level / value)
            self._jumps[name] = self._jumps[name] + 1 if off > _JUMP else 0
            if self._jumps[name] >= 2:
                self._forget()
        self._values[name].append(value)

    def noise(self, name: str) -> Noise:
        """Return the noise of one outcome."""
        return Noise.from_dict({"values": list(self._values[name])})

    @property
    def latest(self) -> list[Counted]:
        """The latest blocks, as many as say which load it is; none before there are so many.

        They are of now: what was seen before a pause, or before another load, is not among them.
        """
        return list(self._latest) if len(self._latest) >= BLOCKS else []

    def guards(self) -> list[Guard]:
        """The guards, with the levels that were seen."""
        guards = self._metrics.guards()
        for guard in guards:
            for block in self._blocks:
                guard.learn_one(block.guards.get(guard.name))
        return guards

    def begin_anew(self, blocks: Iterable[Counted] = ()) -> None:
        """Forget all, as something else stands now; ``blocks`` are known of it."""
        self._forget()
        self._going, self._began, self.due = False, None, math.inf
        self._from = self._now() + self._wash_out_s
        for block in blocks:
            self._blocks.append(block)
            self._latest.append(block)
            for name, value in block.values.items():
                self._values[name].append(value)
