# SPDX-License-Identifier: Apache-2.0
"""The adversary finds harm where there is some to be found, and its judge is what the docs say."""

import pytest
from bench.adversaries import attack

from kmind.bench import _adversary as adversary
from kmind.bench._adversary_world import LONGEST_S, World
from kmind.cli.bench import bench_command
from kmind.errors import UsageError
from kmind.runtime.experiment.case import Running


def test_each_subject_has_ten_harmful_values_to_be_kept() -> None:
    for subject in adversary.subjects():
        assert any(len(subject.harmful(load)) >= 10 for load in subject.loads)


def test_an_owner_that_keeps_anything_is_found_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Running, "convinces", True)
    attack(world, 400)
    assert world.worst_s > LONGEST_S
    assert world.found == {"load": "goal", "value": 16, "ratio": 0.125}


def test_harm_in_pieces_is_added_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Running, "convinces", True)
    attack(world, 500, dodge="baseline", dodge_s=20.0, gap_s=1.0)
    assert world.worst_s > LONGEST_S


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
