# SPDX-License-Identifier: Apache-2.0
"""The objective's readings as blocks: their mean, gaps, and how long a block has to be."""

import math

import pytest
from runtime.counted import MANIFEST, CountingAgent

from kmind.runtime.experiment.measure.readings import Readings
from kmind.runtime.objective.sources import Heard


class Rig:
    def __init__(self, metric: str = "latency") -> None:
        self.now = 0.0
        self.readings = Readings(
            MANIFEST,
            CountingAgent("sim"),
            metric=metric,
            better="lower",
            now=lambda: self.now,  # type: ignore[arg-type]
        )

    def hear(self, value: float | None, seconds: float = 1.0) -> None:
        """A reading of the time since the last one."""
        start, self.now = self.now, self.now + seconds
        self.readings.receive(Heard(start, self.now, value))

    def block(self, *values: float | None) -> float | None:
        before = self.readings.read()
        for value in values:
            self.hear(value)
        return self.readings.between(before, self.readings.read()).values[self.readings.metric]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_block_has_the_mean_of_what_lies_within(rig: Rig) -> None:
    rig.hear(1000.0)
    assert rig.block(1.0, 2.0, 6.0) == 3.0


@pytest.mark.parametrize("values", [(), (None,), (1.0, None, 1.0)])
def test_block_with_a_gap_has_none(rig: Rig, values: tuple[float | None, ...]) -> None:
    rig.hear(5.0)
    assert rig.block(*values) is None


def test_reading_that_began_before_is_not_of_the_block(rig: Rig) -> None:
    rig.now = 0.5
    before = rig.readings.read()
    rig.readings.receive(Heard(0.0, 1.0, 7.0))
    rig.now = 1.5
    assert rig.readings.between(before, rig.readings.read()).values["latency"] is None


def test_pressure_has_a_floor() -> None:
    rig = Rig("psi.io.some")
    assert rig.block(0.0) == 0.01
    assert Rig().block(0.0) == 0.0


def test_level_needs_eight_readings_without_a_gap(rig: Rig) -> None:
    for value in (9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0):
        rig.hear(value)
    assert rig.readings.level(0.0) is None
    rig.hear(7.0)
    assert rig.readings.level(0.0) == 4.5
    assert rig.readings.level(1.0) is None  # the first one began before
    rig.hear(None)
    assert rig.readings.level(0.0) is None


def test_block_has_to_hold_a_reading_for_certain(rig: Rig) -> None:
    assert rig.readings.needs_s == math.inf
    for _ in range(4):
        rig.hear(1.0, seconds=2.0)
    assert rig.readings.needs_s == 4.0


def test_fresh_until_nothing_was_heard_for_long(rig: Rig) -> None:
    rig.hear(1.0)
    assert not rig.readings.fresh  # of one reading nobody knows when the next one is due
    rig.hear(1.0)
    assert rig.readings.fresh
    rig.now += 20.0
    assert not rig.readings.fresh
    rig.hear(None)
    assert not rig.readings.fresh
