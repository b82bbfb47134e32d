# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of extension and its neighbours."""

import math
from collections.abc import Mapping
from typing import Any

from kmind.modules.autotune.search import Search
from kmind.modules.autotune.space import Codes, Dimension
from kmind.testing.tuning import World

QUEUE = {"block.nr_requests": 64, "block.rq_affinity": 1}


def outcomes(world: World) -> list[str]:
    words = ("gain", "loss", "no change", "aborted")
    return [word for line in world.lines for word in words if f": {word}, " in line]


def asked(search: Search, dimensions: list[Dimension], count: int) -> list[Codes]:
    """Return the points that are proposed while nothing gains."""
    centre = tuple(dimension.baseline for dimension in dimensions)
    found = []
    for _ in range(count):
        codes = search.ask(centre)
        assert codes is not None
        search.tell(codes, -0.1)
        search.away.add(codes)
        search.missed()
        found.append(codes)
    return found


def hill(knobs: Mapping[str, Any]) -> float:
    """Best at 512 requests, 1.5 times as good as at 64; the other does nothing."""
    off = math.log2(knobs["block.nr_requests"]) - 9
    return 100 * math.exp(-0.09 * off**2 / 2)


def flat(knobs: Mapping[str, Any]) -> float:
    return 100.0
