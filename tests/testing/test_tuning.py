# SPDX-License-Identifier: Apache-2.0
"""The made-up machine for autotune: it answers and sets as an owner does, in its own time."""

import pytest

from kmind.testing.tuning import EVERY, World, knob

NAME = "vm.swappiness"


def world(**more: object) -> World:
    return World(lambda held: 100.0 + held[NAME], {NAME: 60}, noise=0.0, **more)  # type: ignore[arg-type]


def submit(made: World, value: int, hold_ms: int = 5000) -> int:
    info = made.infos[NAME]
    return made.submit(info.id, 0, info.encode(value), hold_ms=hold_ms)


def test_knob_has_the_catalogues_bounds_unless_told_otherwise() -> None:
    assert (knob(NAME, 1, 60).minimum, knob(NAME, 1, 60).maximum) == (0, 200)
    assert knob(NAME, 1, 60, maximum=100).maximum == 100


def test_time_is_its_own() -> None:
    made = world()
    start = made.now
    assert made.run(10).now == start + 10


def test_value_is_set_and_goes_back_when_its_hold_ends() -> None:
    made = world(mode="observe")
    submit(made, 10, hold_ms=2000)
    made.run(1)
    assert made.stands[NAME] == 10
    made.run(2 + EVERY)
    assert made.stands[NAME] == 60


def test_in_advise_nothing_is_set() -> None:
    made = world(mode="advise")
    submit(made, 10)
    made.run(5)
    assert made.stands[NAME] == 60


def test_refused_value_is_not_set() -> None:
    made = world(mode="observe")
    made.answer = lambda name, value: "range"
    submit(made, 10)
    made.run(5)
    assert made.stands[NAME] == 60


@pytest.mark.parametrize("seed", [1, 2])
def test_same_seed_same_history(seed: int) -> None:
    one, other = (
        World(lambda held: 100.0, {NAME: 60}, seed=seed).run(300).history for _ in range(2)
    )
    assert one == other
