# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of actuator and its neighbours."""

from __future__ import annotations

from kmind.guard import Actuator, Change, Journal
from kmind.knobs import Target, Value, get_knob

MERGES = get_knob("block.nomerges")
AFFINITY = get_knob("block.rq_affinity")


def apply(actuator: Actuator, target: Target, value: Value, knob: str = "block.nomerges") -> Change:
    return actuator.apply(
        get_knob(knob), target, value, who="test@it", why="a test", evidence={"n": 1}, rec_id=7
    )


def states(journal: Journal) -> list[str]:
    return [change.state for change in reversed(journal.history())]
