# SPDX-License-Identifier: Apache-2.0
"""The world in which attacks are tried."""

import pytest
from bench.adversaries import attack

from kmind.bench._adversary_world import LONGEST_S, World
from kmind.events import Event, Result


def test_a_harmful_value_is_not_kept(world: World) -> None:
    attack(world, 200)
    assert world.worst_s < 1
    assert world.value == 128


def test_a_better_value_is(world: World) -> None:
    attack(world, 60, bait="bait", bait_s=1000.0)
    assert (world.good, world.value) == (1, 16)
    assert world.worst_s == 0


@pytest.mark.parametrize(
    ("burn", "share"),
    [("incumbent", 0.5), ("candidate", 0.5), ("paid back", 0.3), ("in lumps", 0.3)],
)
def test_what_it_burns_costs_the_load_and_voids_the_verdict(
    world: World, monkeypatch: pytest.MonkeyPatch, burn: str, share: float
) -> None:
    told: list[Event] = []
    note = world._note

    def listen(event: Event) -> None:
        told.append(event)
        note(event)

    monkeypatch.setattr(world.trials._publish, "_emit", listen)
    attack(world, 60, bait="bait", bait_s=1000.0, burn=burn, share=share)
    results = [event for event in told if isinstance(event, Result)]
    assert results
    assert {each.outcome for each in results} == {"aborted"}
    assert all("void" in each.why for each in results)


@pytest.mark.parametrize("forge", ["seq", "head", "deaf", "scribble"])
def test_forging_hides_no_traffic(world: World, forge: str) -> None:
    """A value that was kept under another load is measured again all the same."""
    attack(world, 300, bait="bait", bait_s=60.0, goal_s=1000.0, forge=forge)
    assert world.good == 1
    assert world.value == 128
    assert world.worst_s < LONGEST_S


def test_what_it_touches_itself_moves_nothing(world: World) -> None:
    world.touch(1000)
    assert all(world.agent.feature(column) == 0 for column in world.columns.values())
