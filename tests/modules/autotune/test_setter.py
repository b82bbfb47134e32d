# SPDX-License-Identifier: Apache-2.0
"""Values that are set, held and let go."""

import numpy as np
import pytest
from modules.tuned import QUEUE, flat, hill, outcomes

from kmind.testing.tuning import World


def test_only_a_slow_knob_that_moves_is_waited_for() -> None:
    world = World(flat, {"block.rq_affinity": 1, "vm.swappiness": 60}).run(600)
    assert world.infos["vm.swappiness"].settle == "slow"
    took: dict[bool, list[float]] = {True: [], False: []}
    states = list(dict(world.history).items())  # both knobs of a step are set at once
    for (_, before), (start, here), (end, _) in zip(states, states[1:], states[2:], strict=False):
        took[before["vm.swappiness"] != here["vm.swappiness"]].append(end - start)
    # A block of 1 s, after 1.5 s where the slow knob was moved, whichever way, else 0.3 s.
    assert np.median(took[True]) >= 2.5
    assert len(took[False]) > 10
    assert np.median(took[False]) < 2.5


def test_a_knob_that_somebody_else_takes_ends_it() -> None:
    world = World(hill, QUEUE).run(1500)
    world.stands["block.nr_requests"] = 1000
    world.change("yielded", "block.nr_requests")
    world.run(5)
    assert world.stands["block.rq_affinity"] == QUEUE["block.rq_affinity"]
    count = len(world.history)
    world.run(60)
    assert len(world.history) == count
    assert world.stands["block.nr_requests"] == 1000


@pytest.mark.parametrize("verdict", ["rule", "step", "range", "lease", "rate", "busy"])
def test_refusals_leave_everything_as_it_was(verdict: str) -> None:
    world = World(hill, QUEUE, trials=5)
    world.answer = lambda name, value: verdict
    world.run(200)
    assert world.history == []
    assert "gain" not in outcomes(world)
