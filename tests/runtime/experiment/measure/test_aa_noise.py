# SPDX-License-Identifier: Apache-2.0
"""A/A blocks: what is known of the load while nothing is tried, and whether it is of now."""

import math

import pytest
from runtime.experiment.calm_rig import _Rig

from kmind.runtime.experiment.measure.circumstances import Counted


def test_calm_learns_noise_and_levels() -> None:
    rig = _Rig()
    calm = rig.calm
    assert calm.due == math.inf
    calm.go_on()
    for number in range(20):
        assert calm.due == pytest.approx(rig.now + 0.4)
        rig.pass_time(0.4, reads=400 + number % 3, removed_pages=4)
        calm.run_due()
    assert calm.noise("rate").blocks == 20
    assert calm.noise("rate").level == pytest.approx(1002, rel=0.01)
    (guard,) = calm.guards()
    assert guard.level == pytest.approx(10)


def test_calm_costs_one_reading_a_block_and_none_while_it_pauses() -> None:
    rig = _Rig()
    calm = rig.calm
    calm.go_on()
    each = rig.agent.reads
    for _ in range(40):
        rig.pass_time(0.04, reads=40)
        calm.run_due()
    assert rig.agent.reads <= 5 * each
    calm.pause()
    before = rig.agent.reads
    for _ in range(40):
        rig.pass_time(0.04, reads=40)
        calm.run_due()
    assert (rig.agent.reads, calm.due) == (before, math.inf)


def test_silence_and_an_owner_that_was_stopped_say_nothing() -> None:
    rig = _Rig()
    calm = rig.calm
    calm.go_on()
    rig.pass_time(0.4)
    calm.run_due()
    rig.pass_time(60.0, reads=5)
    calm.run_due()
    assert calm.noise("rate").blocks == 0


def test_another_load_begins_anew() -> None:
    rig = _Rig()
    calm = rig.calm
    calm.go_on()
    for count in [400] * 12 + [1600] * 3:
        rig.pass_time(0.4, reads=count)
        calm.run_due()
    assert calm.noise("rate").level == pytest.approx(4000)
    known = [
        Counted(0.4, {"rate": value, "wait": None}, {"lost": 7.0}) for value in (1.0, None, 2.0)
    ]
    calm.begin_anew(known)
    assert calm.noise("rate").blocks == 2
    assert [(guard.blocks, guard.level) for guard in calm.guards()] == [(3, 7.0)]
    assert calm.due == math.inf


def test_what_is_under_way_is_washed_out_first() -> None:
    rig = _Rig()
    rig.calm.begin_anew()
    rig.calm.go_on()
    assert rig.calm.due == pytest.approx(rig.now + 0.2)
    rig.pass_time(0.2, reads=100_000)
    rig.calm.run_due()
    rig.blocks(1, 400)
    assert rig.calm.noise("rate").level == pytest.approx(1000)
