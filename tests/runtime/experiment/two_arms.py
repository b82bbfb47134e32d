# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of runner and its neighbours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kmind.evidence import Arm, Design, Experiment
from kmind.runtime.experiment.measure.effort import (
    Effort,
)
from kmind.runtime.experiment.measure.metrics import Block, Reading
from kmind.runtime.experiment.runner import ExperimentRunner

DESIGN = Design(block_s=0.2, wash_out_s=0.1, max_s=60, calibration=5)


class Load:
    """A load that does ``rate`` under either arm, and its clock and meter."""

    def __init__(self, seed: int = 0) -> None:
        self.now = 0.0
        self.rate = {"incumbent": 1000.0, "candidate": 1000.0}
        self.arm: Arm = "incumbent"
        self.set: list[Arm] = []
        self.used: Effort | None = Effort(0.0, 0, 0)
        self.burns: dict[Arm, dict[str, float]] = {}  # what the extension uses a second
        self.uses = lambda: self.burns.get(self.trial.arm, {})
        self.trial = ExperimentRunner(
            Experiment(DESIGN, np.random.default_rng(seed)),
            "rate",
            self,  # type: ignore[arg-type]
            self.switch,
            now=lambda: self.now,
            effort=lambda: self.used,
        )
        self.trial.start()

    def switch(self, arm: Arm) -> None:
        self.arm = arm
        self.set.append(arm)

    def read(self) -> Reading:
        return Reading(self.now, {}, {})

    def between(self, before: Reading, after: Reading) -> Block:
        return Block(after.time_s - before.time_s, {"rate": self.rate[self.arm]}, {})

    def block(self) -> None:
        """Until a block has ended: it is washed out, read, and read again."""
        for _ in range(2):
            passed, self.now = self.trial.due - self.now, self.trial.due
            for name, rate in self.uses().items() if self.used else ():
                self.used = replace(self.used, **{name: getattr(self.used, name) + rate * passed})
            self.trial.run_due()

    def up_to(self, arm: Arm) -> None:
        """Calibrate, then until the next block is of that arm, both arms doing the same."""
        while self.trial.experiment.calibrating or self.trial.arm != arm:
            self.block()

    @property
    def last(self) -> float | None:
        return self.trial.experiment.blocks[-1][1]
