# SPDX-License-Identifier: Apache-2.0
"""The search for values that are better."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modules.tuned import QUEUE, asked, outcomes

from kmind.modules.autotune.search import Search
from kmind.modules.autotune.space import Dimension
from kmind.testing.tuning import World, knob

SPACE = {"block.scheduler": "none", "block.nr_requests": 128, "thp.enabled": "madvise"}


def space() -> list[Dimension]:
    return [Dimension(knob(name, n, value)) for n, (name, value) in enumerate(SPACE.items())]


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "random"])
def test_each_choice_and_a_step_either_way_come_first(sampler: Any) -> None:
    dimensions = space()
    search = Search(dimensions, sampler, 0)
    radius = search.radius
    first = asked(search, dimensions, 7)
    scheduler, requests, thp = dimensions
    assert [codes[0] for codes in first[:3]] == [
        c for c in scheduler.codes if c != scheduler.baseline
    ]
    assert [codes[2] for codes in first[3:5]] == [c for c in thp.codes if c != thp.baseline]
    assert first[5][1] > requests.baseline > first[6][1]
    alone = [sum(a != d.baseline for a, d in zip(c, dimensions, strict=True)) for c in first]
    assert alone == [1] * 7
    assert search.radius == radius  # none of that makes the region smaller
    more = asked(search, dimensions, 12)
    assert len(set(first + more)) == 19
    assert search.radius < radius
    assert not search.exhausted


def test_a_gain_up_or_down_is_followed_the_same_way() -> None:
    dimensions = space()
    search = Search(dimensions, "tpe", 0)
    asked(search, dimensions, 5)
    centre = tuple(dimension.baseline for dimension in dimensions)
    up = search.ask(centre)
    assert up is not None
    search.tell(up, 0.2)
    search.gained(centre, up)
    further = search.ask(up)
    assert further is not None
    assert further[1] > up[1] > centre[1]
    assert (further[0], further[2]) == (centre[0], centre[2])


def test_a_search_begun_in_an_earlier_run_does_not_begin_anew() -> None:
    dimensions = space()
    search = Search(dimensions, "tpe", 0)
    first = asked(search, dimensions, 5)
    later = Search(dimensions, "tpe", 0)
    later.recall(search.trials, search.radius)
    assert later.trials == search.trials
    assert asked(later, dimensions, 1)[0] not in first


def test_a_choice_that_gains_is_found_within_minutes() -> None:
    def worth(knobs: Mapping[str, Any]) -> float:
        return 112.0 if knobs["block.scheduler"] == "bfq" else 100.0

    found = 0
    for seed in range(6):
        world = World(worth, SPACE | {"block.scheduler": "none"}, noise=0.05, seed=seed).run(240)
        assert world.status["trials"] >= 10
        found += "block.scheduler none -> bfq" in world.status["best"]
    assert found >= 5


def test_what_is_clearly_worse_counts_as_unsafe_though_it_is_given_up_early() -> None:
    def worth(knobs: Mapping[str, Any]) -> float:
        return 100.0 if knobs == QUEUE else 70.0

    world = World(worth, QUEUE, trials=8).run(300)
    assert set(outcomes(world)) == {"no change"}
    assert world.status["unsafe"] == world.status["trials"] == 8
    assert world.stands == QUEUE


@given(st.integers(16, 2048), st.integers(0, 2), st.floats(0.06, 1))
def test_a_step_stays_in_the_region_of_trust(requests: int, affinity: int, radius: float) -> None:
    dimensions = [Dimension(knob(name, n, value)) for n, (name, value) in enumerate(QUEUE.items())]
    search = Search(dimensions, "random", 0)
    search.radius = radius
    centre = (requests, affinity)
    for _ in range(4):
        codes = search.ask(centre)
        if codes is None:
            return
        for dimension, here, there in zip(dimensions, centre, codes, strict=True):
            rounding = 0.05 if dimension.info.name == "block.nr_requests" else 0.5
            gone = abs(dimension.position(here) - dimension.position(there))
            assert gone <= radius + rounding
