# SPDX-License-Identifier: Apache-2.0
"""One value against another."""

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
from modules.tuned import QUEUE, flat, hill, outcomes

from kmind.testing.tuning import World


def cliff(knobs: Mapping[str, Any]) -> float:
    """Ten times as bad at everything but the current setting."""
    return 100.0 if knobs == QUEUE else 10.0


def seconds_away(world: World) -> float:
    """Return for how long the knobs differed from their values at the start."""
    times = [*world.history, (world.now, {})]
    return sum(b[0] - a[0] for a, b in itertools.pairwise(times) if a[1] != QUEUE)


def test_noise_is_no_gain() -> None:
    kept = trials = 0
    for seed in range(5):
        world = World(flat, QUEUE, noise=0.1, seed=seed, min_gain=0.0, trials=15)
        world.run(1200)
        kept += outcomes(world).count("gain")
        trials += len(outcomes(world))
    assert trials >= 40
    # At the 4% that the low end may err, more than seven of fifty come once in a thousand.
    assert kept <= 7


def test_what_helps_for_two_seconds_only_does_not_stay() -> None:
    """A block of one second cannot tell that from a gain; the longer ones of the proof can."""

    def worth(knobs: Mapping[str, Any]) -> float:
        if knobs["block.rq_affinity"] != 2:
            return 100.0
        return 150.0 if world.now - world.history[-1][0] < 2.6 else 50.0

    world = World(worth, QUEUE, recheck=60)
    world.run(900)
    first = outcomes(world).index("gain")
    assert "gain" not in outcomes(world)[first + 1 :]
    assert any("measures again" in line for line in world.lines)
    assert world.stands == QUEUE
    assert world.status["best"] == "nothing"


def test_a_collapse_is_cut_at_its_first_block() -> None:
    world = World(cliff, QUEUE).run(600)
    status = world.status
    assert set(outcomes(world)) == {"aborted"}
    assert status["unsafe"] == status["trials"] > 5
    assert status["worst"] == pytest.approx(0.1, rel=0.3)
    # A block is 1 s, what is waited before it 0.8 s.
    assert seconds_away(world) / status["trials"] < 2 * 2.5
    assert world.stands == QUEUE


def test_gaps_within_a_trial_void_their_blocks() -> None:
    world = World(hill, QUEUE)
    for _ in range(400):
        world.gap = "" if world.gap else "text"
        world.run(0.5)
    assert "gain" not in outcomes(world)
    assert world.status["gaps"] > 50
