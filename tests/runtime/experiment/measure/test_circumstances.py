# SPDX-License-Identifier: Apache-2.0
"""Classes of the load, by the agent's counters."""

from runtime.counted import BASE, HIDDEN, STARVED, blocks_of
from runtime.experiment.calm_rig import _Rig

from kmind.runtime.experiment.measure.circumstances import BLOCKS, Circumstances


def test_which_load_it_is_says_what_was_seen_without_a_pause() -> None:
    rig = _Rig()
    rig.calm.go_on()
    rig.blocks(BLOCKS - 1, 400)
    assert rig.calm.latest == []
    rig.blocks(1, 400)
    assert len(rig.calm.latest) == BLOCKS
    rig.calm.pause()
    assert rig.calm.latest == []  # another load may begin after it
    assert rig.calm.noise("rate").blocks == BLOCKS


def test_another_load_is_told_by_its_own_blocks() -> None:
    rig = _Rig()
    rig.calm.go_on()
    rig.blocks(20, 400)
    rig.blocks(3, 4000)
    assert rig.calm.latest == []
    rig.blocks(BLOCKS, 4000)
    assert {block.counts["reads"] for block in rig.calm.latest} == {4000}


def test_silent_blocks_say_nothing_of_the_load() -> None:
    rig = _Rig()
    rig.calm.go_on()
    rig.blocks(BLOCKS, 0)
    assert rig.calm.latest == []


def test_reader_that_a_value_starves_guards_though_it_was_hidden_before() -> None:
    circumstances = Circumstances(BASE)
    incumbent, candidate = blocks_of(HIDDEN), blocks_of(STARVED)
    load = circumstances.classify(incumbent)
    assert load.outcome.name == "requests"
    assert "pages_in" not in {side.name for side in load.sides}
    side = circumstances.harmed(load.outcome, load.sides, incumbent, candidate)
    assert side is not None
    assert side.name == "pages_in"
    assert side.ratio < 0.05


def test_value_that_starves_nobody_harms_nothing() -> None:
    circumstances = Circumstances(BASE)
    incumbent = blocks_of(HIDDEN)
    load = circumstances.classify(incumbent)
    as_much = blocks_of({**STARVED, "added_pages": 60_000, "stride_pages": 60_000})
    assert circumstances.harmed(load.outcome, load.sides, incumbent, as_much) is None
    assert circumstances.harmed(load.outcome, load.sides, incumbent, incumbent) is None
    assert circumstances.harmed(load.outcome, load.sides, incumbent, []) is None


def test_guard_under_the_candidate_needs_three_pairs() -> None:
    """It fails closed: of two pairs nobody can tell how far they may be from each other."""
    circumstances = Circumstances(BASE)
    incumbent, load = blocks_of(HIDDEN), circumstances.classify(blocks_of(HIDDEN))
    as_much = blocks_of({**STARVED, "added_pages": 60_000, "stride_pages": 60_000}, 2)
    side = circumstances.harmed(load.outcome, load.sides, incumbent, as_much)
    assert side is not None
    assert len(side.differences) == 2
