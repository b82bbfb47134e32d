# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests below."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from agents import (
    BareAgent,
    BareSim,
)
from ring_agents import LONG_S, SLOTS, Bare, Make, on_kernel


@pytest.fixture
def one_cpu() -> Iterator[int]:
    """This thread stays on one CPU, so that its records come into one ring."""
    before = os.sched_getaffinity(0)
    cpu = min(before)
    os.sched_setaffinity(0, {cpu})
    yield cpu
    os.sched_setaffinity(0, before)


@pytest.fixture(params=["sim", pytest.param("bpf", marks=on_kernel)])
def make(request: pytest.FixtureRequest, one_cpu: int) -> Iterator[Make]:
    """Makes an agent, ticking only once it is started."""
    made: list[Bare] = []

    def build(**options: Any) -> Bare:
        options = {"sq_slots": SLOTS, "deadline_s": LONG_S, **options}
        if request.param == "sim":
            made.append(BareSim(**options))
        else:
            made.append(BareAgent(request.getfixturevalue("bare"), **options))
        return made[-1]

    yield build
    for agent in made:
        agent.close()
