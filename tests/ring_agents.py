# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of endpoint and its neighbours."""

import time
from collections.abc import Callable

import pytest
from agents import (
    BareAgent,
    BareSim,
    bell,
)

from kmind.queue import Endpoint, Reader

Bare = BareAgent | BareSim
Make = Callable[..., Bare]
SLOTS = 64
on_kernel = pytest.mark.kernel("bpf_timer", "syscall")
LONG_S = 60.0


def reader_of(agent: Bare, cpu: int) -> tuple[Endpoint, Reader]:
    endpoint = Endpoint(agent.arena, bell(agent))
    return endpoint, endpoint.records[0 if agent.backend == "sim" else cpu]


def until(done: Callable[[], object]) -> None:
    """Wait for something that is sure to come; the limit only ends a broken test."""
    deadline = time.monotonic() + LONG_S
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.001)
