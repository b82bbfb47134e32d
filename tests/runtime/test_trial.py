# SPDX-License-Identifier: Apache-2.0
"""One experiment, block by block, by hand: what a block counts that is far below all others."""

from __future__ import annotations

import numpy as np

from kmind.evidence import Arm, Design, Experiment
from kmind.runtime.meter import Block, Reading
from kmind.runtime.trial import Trial

DESIGN = Design(block_s=0.2, wash_out_s=0.1, max_s=60, calibration=5)


class Load:
    """A load that does ``rate`` under either arm, and its clock and meter."""

    def __init__(self, seed: int = 0) -> None:
        self.now = 0.0
        self.rate = {"incumbent": 1000.0, "candidate": 1000.0}
        self.arm: Arm = "incumbent"
        self.set: list[Arm] = []
        self.trial = Trial(
            Experiment(DESIGN, np.random.default_rng(seed)),
            "rate",
            self,  # type: ignore[arg-type]
            self.switch,
            now=lambda: self.now,
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
            self.now = self.trial.due
            self.trial.turn()

    def up_to(self, arm: Arm) -> None:
        """Calibrate, then until the next block is of that arm, both arms doing the same."""
        while self.trial.experiment.calibrating or self.trial.arm != arm:
            self.block()

    @property
    def last(self) -> float | None:
        return self.trial.experiment.blocks[-1][1]


def test_a_candidate_that_stops_the_load_ends_it() -> None:
    load = Load()
    load.up_to("candidate")
    load.rate["candidate"] = 0.0
    load.block()
    assert load.arm == "incumbent"  # at once, before anything is said
    assert not load.trial.over
    load.block()
    assert load.trial.over
    assert load.trial.experiment.broken


def test_a_load_that_ends_is_not_held_against_the_candidate() -> None:
    for rate in (0.0, 30.0):
        load = Load()
        load.up_to("candidate")
        load.rate = {"incumbent": rate, "candidate": rate}
        load.block()
        load.block()
        assert load.last is None
        assert not load.trial.experiment.broken


def test_nor_against_the_incumbent() -> None:
    load = Load()
    load.up_to("incumbent")
    load.rate = {"incumbent": 30.0, "candidate": 30.0}
    load.block()
    load.block()
    assert load.last is None


def test_a_dip_of_the_incumbent_counts() -> None:
    load = Load()
    load.up_to("incumbent")
    load.rate["incumbent"] = 30.0
    load.block()
    load.rate["incumbent"] = 1000.0
    load.block()
    assert load.last == 30.0


def test_a_load_that_stays_changed_ends_it_without_a_verdict() -> None:
    load = Load()
    load.up_to("candidate")
    load.rate = {"incumbent": 30.0, "candidate": 30.0}
    for _ in range(20):
        if not load.trial.over:
            load.block()
    assert load.trial.experiment.outcome == "aborted"
    assert not load.trial.experiment.broken
