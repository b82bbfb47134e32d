# SPDX-License-Identifier: Apache-2.0
"""One experiment on a knob, block by block, as time goes on.

The owner calls ``turn`` when it is ``due``. It asks for the arm that the next block
is to run under, waits for what is under way to wash out, and reads the metrics at both
ends of the block.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from kmind.evidence import Arm, Experiment
from kmind.runtime.experiment.measure.effort import Effort, Efforts
from kmind.runtime.experiment.measure.metrics import Block, Metrics, Reading

__all__ = ["ExperimentRunner"]

_LATE = 3  # a block so many times longer than planned is measured once more


class ExperimentRunner:
    """Runs ``experiment`` by the outcome ``metric``; ``switch`` sets the knob to an arm.

    What ``switch`` raises passes through ``turn``. ``outcome`` of the experiment says when it
    is over; the knob is then left at the arm of the last block. ``now`` is in seconds.
    ``effort`` reads what the extension itself has used, if there is one: a verdict that lets the
    candidate stand is void where that differs between the arms (see `measure.effort`).
    """

    def __init__(
        self,
        experiment: Experiment,
        metric: str,
        metrics: Metrics,
        switch: Callable[[Arm], None],
        now: Callable[[], float],
        effort: Callable[[], Effort | None] | None = None,
    ) -> None:
        self.experiment = experiment
        self.metric = metric
        self.arm: Arm = "incumbent"
        self._metrics = metrics
        self._switch = switch
        self._now = now
        self._began: Reading | None = None
        self._doubted: Block | None = None
        self._effort = effort
        self._efforts = Efforts()
        self._used: tuple[float, Effort | None] = (now(), None)
        self.due = now()

    @property
    def over(self) -> bool:
        """True once there is an outcome."""
        return self.experiment.outcome is not None

    @property
    def washing(self) -> bool:
        """True while the wash-out before the next block lasts."""
        return self._began is None and not self.over

    def start(self) -> None:
        """Begin with the first block, under the arm that comes first."""
        if self._effort:
            self._used = self._now(), self._effort()
        self._go_to(self.experiment.arm)

    def run_due(self) -> None:
        """Do what is due; nothing if it is too early or over."""
        now = self._now()
        if self.over or now < self.due:
            return
        design = self.experiment.design
        reading = self._metrics.read()
        if self._began is None:
            self._add_effort(now, washing=True)
            self._began, self.due = reading, now + design.block_s
            return
        block = self._metrics.between(self._began, reading)
        self._began = reading
        self._add_effort(now)
        if block.seconds > _LATE * design.block_s:
            self.due = now + design.block_s  # the owner was kept: no block of this length
            return
        self._learn(block)
        if self.over:
            self._doubt()
            self.due = math.inf
        elif self._doubted is None:
            self._go_to(self.experiment.arm)

    def _add_effort(self, now: float, *, washing: bool = False) -> None:
        # Since the last reading: a wash-out, or a block. A/A blocks have nothing to compare.
        if self._effort is None:
            return
        (then, before), self._used = self._used, (now, self._effort())
        if not self.experiment.calibrating:
            used = self._used[1]
            self._efforts.add(self.arm, now - then, before, used, washing=washing)

    def _doubt(self) -> None:
        # A loss stands: the extension could get rid of it otherwise.
        if self._effort is None:
            return
        self.experiment.effort = self._efforts.to_dict()
        why = self._efforts.why_void
        if why and self.experiment.outcome in ("gain", "no change"):
            self.experiment.void(f"void: {why}", broken=True)

    def _learn(self, block: Block) -> None:
        # A block that is far below all others, whatever its arm: the incumbent's turn comes at
        # once, to tell whether it is the load that has changed or pauses. Then it is no reading.
        value = block.values[self.metric]
        doubted, self._doubted = self._doubted, None
        if doubted is not None:
            changed = not value or self.experiment.collapsed(value)
            then = None if changed else doubted.values[self.metric]
            self.experiment.learn_one(then, doubted.guards)
        elif self.arm == "incumbent" and not value:
            self.experiment.learn_one(None, block.guards)
        elif self.experiment.collapsed(value) and not self.experiment.calibrating:
            self._doubted = block
            self._go_to("incumbent")
        else:
            self.experiment.learn_one(value, block.guards)

    def _go_to(self, arm: Arm) -> None:
        # Each block is washed out, the same for those that follow one of their own arm: else a
        # block would be quieter where the coin fell as it did before, and pairs hang together.
        if arm != self.arm:
            self._switch(arm)
            self.arm = arm
        self._began, self.due = None, self._now() + self.experiment.design.wash_out_s
