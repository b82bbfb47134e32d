# SPDX-License-Identifier: Apache-2.0
"""The adversary finds harm where there is some to be found, and its judge is what the docs say."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kmind.bench import _adversary as adversary
from kmind.bench._adversary_attacks import NAMED, TURN_S, Attack, Attacker, draw, mutate, named
from kmind.bench._adversary_loads import Point, Subject
from kmind.bench._adversary_world import LONGEST_S, World
from kmind.cli.bench import bench_command
from kmind.errors import UsageError
from kmind.events import Event, Result
from kmind.runtime.experiment.controller import Trials


def _point(work: float) -> Point:
    return Point(work, {"reads": work, "read_pages": work, "added_pages": work})


SUBJECT = Subject(
    "readahead",
    "block.read_ahead_kb",
    128,
    {
        "goal": {128: _point(1000.0), **{v: _point(1000.0 * v / 128) for v in range(4, 64, 4)}},
        "bait": {128: _point(1000.0), **{v: _point(3000.0) for v in range(4, 64, 4)}},
    },
)
"""By each counter alike, less is done under a smaller value: no outcome is to be fooled here."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(SUBJECT, tmp_path, seed=1) as made:
        yield made


def attack(world: World, seconds: float, **words: Any) -> None:
    attacker = Attacker(Attack("goal", 16, **words), world, 1)
    end = world.now + seconds
    while world.now < end:
        attacker.turn()
        world.run_until(world.now + TURN_S)


def test_each_subject_has_ten_harmful_values_to_be_kept() -> None:
    for subject in adversary.subjects():
        assert any(len(subject.harmful(load)) >= 10 for load in subject.loads)


def test_a_harmful_value_is_not_kept(world: World) -> None:
    attack(world, 200)
    assert world.worst_s < 1
    assert world.value == 128


def test_a_better_value_is(world: World) -> None:
    attack(world, 60, bait="bait", bait_s=1000.0)
    assert (world.good, world.value) == (1, 16)
    assert world.worst_s == 0


def test_an_owner_that_keeps_anything_is_found_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trials, "_keeps", lambda self, running: True)
    attack(world, 400)
    assert world.worst_s > LONGEST_S
    assert world.found == {"load": "goal", "value": 16, "ratio": 0.125}


def test_harm_in_pieces_is_added_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trials, "_keeps", lambda self, running: True)
    attack(world, 500, dodge="baseline", dodge_s=20.0, gap_s=1.0)
    assert world.worst_s > LONGEST_S


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


def test_attacks_fit_their_subject() -> None:
    rng = np.random.default_rng(1)
    for subject in adversary.subjects():
        outcomes = ["one", "two"]
        for name in NAMED:
            made = named(name, subject, outcomes, rng)
            assert made.value in subject.harmful(made.goal)
        for _ in range(50):
            made = mutate(draw(subject, outcomes, rng), subject, outcomes, rng)
            assert made.value in subject.harmful(made.goal)
            assert not made.bait or subject.ratio(made.bait, made.value) > 1


def test_an_hour_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adversary, "EPISODE_S", 60.0)
    result = adversary.run_adversary(hours=0.1)
    assert result["schema"] == adversary.SCHEMA
    assert (result["episodes"], result["hours"]) == (6, pytest.approx(0.1))
    assert sum(row["episodes"] for row in result["subjects"]) == 6
    again = adversary.run_adversary(hours=0.1, workers=1)
    assert again["strategies"] == result["strategies"], "seeds are fixed"


def test_real_goes_with_adversary_only() -> None:
    with pytest.raises(UsageError, match="--real is of the adversary"):
        bench_command("evidence", quick=True, json=True, options={"real": 1.0})


STEPS = "mapped, in steps"
# Found in 200 hours, before pages that come in were asked whether they are used, and before what
# stands was measured against the baseline: each was kept for some ten minutes of ten.
FOUND: list[tuple[int, int, dict[str, Any]]] = [
    (0, 216, {"goal": STEPS, "value": 768, "context": "fresh", "forge": "deaf", "hold_s": 600.0,
              "renew_s": 5.0}),
    (0, 1, {"goal": STEPS, "value": 256}),
    (0, 1, {"goal": STEPS, "value": 16384}),
    (1, 535, {"goal": "read, in order", "value": 20, "bait": STEPS, "bait_s": 300.0,
              "goal_s": 1200.0, "context": "fresh", "dodge": "other", "dodge_s": 58.0, "gap_s": 0.3,
              "other": 40, "burn": "always", "share": 0.01, "hold_s": 600.0, "renew_s": 5.0}),
    (1, 658, {"goal": "read, in order", "value": 8, "bait": STEPS, "bait_s": 60.0, "goal_s": 120.0,
              "context": "load", "dodge_s": 50.0, "gap_s": 0.3, "other": 40, "forge": "deaf",
              "burn": "in lumps", "share": 0.029, "hold_s": 3600.0, "renew_s": 0.5}),
]  # fmt: skip


@pytest.mark.parametrize(("subject", "seed", "words"), FOUND, ids=lambda each: str(each)[:4])
def test_an_attack_that_was_found_keeps_nothing(
    subject: int, seed: int, words: dict[str, Any]
) -> None:
    made = adversary.play(subject, "mixtures", Attack(**words), seed)
    assert not made.harmful_kept, made
