# SPDX-License-Identifier: Apache-2.0
"""Classes of the load, by the agent's counters."""

from runtime.experiment.calm_rig import _Rig

from kmind.runtime.experiment.circumstances import BLOCKS


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
