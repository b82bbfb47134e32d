# SPDX-License-Identifier: Apache-2.0
"""Phases of the load, told apart and remembered."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from modules.tuned import QUEUE, hill

from kmind.modules.autotune.memory import remember
from kmind.modules.autotune.phases import Phase
from kmind.modules.autotune.search import Search
from kmind.modules.autotune.space import Dimension
from kmind.testing.tuning import World, knob


def test_what_was_learnt_in_a_phase_is_there_at_the_second_visit() -> None:
    writes = {"requests": 3000, "reads": 0, "flushes": 1500, "reclaims": 0}

    def worth(knobs: Mapping[str, Any]) -> float:
        reading = world.load["reads"] > 0
        mirrored = {"block.nr_requests": 64**2 / knobs["block.nr_requests"]}
        return hill(knobs) if reading else hill(mirrored)

    world = World(worth, QUEUE | {"block.nr_requests": 64})
    reads = dict(world.load)
    world.run(1500)
    first = dict(world.stands)
    assert first["block.nr_requests"] > 128
    world.load = writes
    world.run(8)
    assert world.stands == QUEUE  # nothing is known of it
    world.run(1200)
    second = dict(world.stands)
    assert second["block.nr_requests"] < 64
    for load, best in ((reads, first), (writes, second)):
        world.load = load
        count = len(world.history)
        world.run(8)
        assert best in [stood for _, stood in world.history[count : count + 2]]  # at once
        assert any("measures again" in line for line in world.lines[-2:])
        assert world.status["phases"] == 2
        world.run(60)
        assert world.stands == best


def test_what_is_remembered_of_many_phases_fits() -> None:
    infos = [knob("vm.min_free_kbytes", n, 10_000_000) for n in range(20)]
    dimensions = [Dimension(info) for info in infos]
    search = Search(dimensions, "random", 0)
    search.trials = [((10_000_000,) * 20, -1.23456789)] * 500
    phase = Phase(np.array([0.1, 0.2, 0.3, 0.4]), search, (10_000_000,) * 20)
    memory = remember({}, [phase] * 16, {})
    assert len(json.dumps(memory, separators=(",", ":"))) < 64_000
    assert all(each["trials"] for each in memory["phases"])
