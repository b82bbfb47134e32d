# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of adversary and its neighbours."""

from typing import Any

from kmind.bench._adversary_attacks import TURN_S, Attack, Attacker
from kmind.bench._adversary_loads import Point, Subject
from kmind.bench._adversary_world import World


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


def attack(world: World, seconds: float, **words: Any) -> None:
    attacker = Attacker(Attack("goal", 16, **words), world, 1)
    end = world.now + seconds
    while world.now < end:
        attacker.turn()
        world.run_until(world.now + TURN_S)
