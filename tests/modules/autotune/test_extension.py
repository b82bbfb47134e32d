# SPDX-License-Identifier: Apache-2.0
"""The safe search: what it finds, what it risks, and what it does when things go wrong."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modules.tuned import QUEUE, flat, hill, outcomes

from kmind.modules.autotune.space import Dimension
from kmind.testing.tuning import World, knob


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "random"])
def test_it_finds_what_is_better_and_holds_it(sampler: str) -> None:
    world = World(hill, QUEUE, sampler=sampler).run(1500)
    assert hill(world.stands) > 1.3 * hill(QUEUE)
    status = world.status
    assert status["gain"] == pytest.approx(hill(world.stands) / hill(QUEUE), rel=0.1)
    assert status["gains"] >= 1
    assert status["converged_s"] > 0
    held = dict(world.stands)
    world.run(60)
    assert world.stands == held


def test_lower_can_be_better() -> None:
    world = World(lambda knobs: 1 / hill(knobs), QUEUE, better="lower").run(1500)
    assert hill(world.stands) > 1.3 * hill(QUEUE)


def test_what_is_found_is_proven_before_the_search_is_over() -> None:
    world = World(hill, QUEUE)  # which would measure it again after a day
    while world.status["converged_s"] < 0:
        world.run(5)
    assert "measures again" in world.lines[-2]
    assert outcomes(world)[-1] == "gain"


def test_a_loss_is_never_kept() -> None:
    world = World(lambda knobs: hill({"block.nr_requests": 512 * 64 / knobs["block.nr_requests"]})
                  if knobs["block.nr_requests"] >= 64 else 50.0, QUEUE)  # fmt: skip
    world.run(900)
    assert "gain" not in outcomes(world)
    assert world.stands["block.nr_requests"] == 64


def test_without_a_value_nothing_is_kept() -> None:
    world = World(hill, QUEUE)
    world.gap = "timeout"
    world.run(300)
    assert world.history == []
    assert world.status["gaps"] > 100
    assert "waiting for a value" in world.status["state"]


@pytest.mark.parametrize("how", ["gap", "dead"])
def test_what_was_kept_goes_when_the_values_stop(how: str) -> None:
    world = World(hill, QUEUE).run(1500)
    best = dict(world.stands)
    assert best != QUEUE
    if how == "gap":
        world.gap = "failed"
    else:
        world.dead = True
    world.run(15)
    assert world.stands == QUEUE
    world.gap, world.dead = "", False
    world.run(5)
    assert world.stands == best


def test_what_was_found_is_there_after_a_restart_and_measured_again() -> None:
    world = World(hill, QUEUE).run(1500)
    memory = json.loads(json.dumps(world.kept[-1]))
    assert len(json.dumps(memory)) < 64_000
    again = World(hill, QUEUE, memory=memory)
    again.run(5)
    at_once = [stood for when, stood in again.history if when == again.history[0][0]]
    assert at_once[-1] == world.stands
    again.run(120)
    assert any(line.startswith("measures again") for line in again.lines)
    assert again.stands == world.stands
    worse = World(flat, QUEUE, memory=memory).run(300)
    assert worse.status["gain"] == 1.0  # it was not so any more


@pytest.mark.parametrize(
    "change",
    [
        {"version": 0},
        {"key": {"objective": "another"}},
        {"phases": 5},
        {"phases": [{"place": [1]}]},
        {"phases": [None]},
        "text",
        [],
    ],
)
def test_a_memory_of_something_else_begins_anew(change: Any) -> None:
    memory = World(hill, QUEUE).run(300).kept[-1]
    memory = memory | change if isinstance(change, dict) else change
    world = World(hill, QUEUE, memory=memory).run(5)
    assert world.status["trials"] == 0
    assert world.stands == QUEUE


def test_another_baseline_is_another_question() -> None:
    memory = World(hill, QUEUE).run(1500).kept[-1]
    world = World(hill, QUEUE | {"block.nr_requests": 128}, memory=memory).run(5)
    assert world.stands["block.nr_requests"] == 128


def test_a_choice_that_the_disk_lacks_is_left_out() -> None:
    world = World(flat, {"block.scheduler": "none"}, trials=20)
    asked = []

    def answer(name: str, value: int | str) -> str:
        asked.append(value)
        return "approved" if value in ("none", "kyber") else "grid"

    world.answer = answer
    world.run(600)
    assert asked.count("bfq") <= 1
    assert world.stands["block.scheduler"] == "none"
    assert "kyber" in asked


def test_in_mode_canary_nothing_is_kept() -> None:
    world = World(hill, QUEUE, mode="canary").run(900)
    assert "gain" in outcomes(world)
    world.run(100)
    assert world.status["best"] == "nothing"


def test_in_mode_advise_only_what_is_known_is_said() -> None:
    world = World(hill, QUEUE, mode="advise").run(60)
    assert world.history == []
    memory = World(hill, QUEUE).run(1500).kept[-1]
    asked: list[Any] = []
    told = World(hill, QUEUE, mode="advise", memory=memory)
    told.answer = lambda name, value: asked.append((name, value)) or "approved"  # type: ignore[func-returns-value]
    told.run(30)
    assert asked
    assert told.history == []


@given(st.sampled_from(["block.read_ahead_kb", "vm.swappiness", "block.wbt_lat_usec"]), st.data())
def test_positions_and_values_fit(name: str, data: st.DataObject) -> None:
    info = knob(name, 1, 0)
    dimension = Dimension(info)
    position = data.draw(st.floats(0, 1))
    code = dimension.code(position)
    assert info.minimum <= code <= info.maximum
    assert code % info.grid == 0
    assert dimension.code(dimension.position(code)) == code


def test_a_knob_of_few_values_is_searched_too() -> None:
    def worth(knobs: Mapping[str, Any]) -> float:
        return 150.0 if knobs["block.nomerges"] == 1 else 100.0

    world = World(worth, {"block.nomerges": 0}).run(600)
    assert world.stands == {"block.nomerges": 1}
