# SPDX-License-Identifier: Apache-2.0
"""The owner trusts the agent's count, whatever the extension writes into the arena."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from kmind.abi import layout
from kmind.agent.sim.agent import SimAgent
from kmind.events import Event
from kmind.extension import find_module
from kmind.queue.layout import window_view
from kmind.runtime.budget import OwnerBudget
from kmind.runtime.instance.telemetry import View, Watcher

MANIFEST = find_module("readahead").manifest
READS = MANIFEST.columns["reads"]
MOST = layout.LIMIT["WINDOW_SLOTS"]


class Watched:
    """A simulated agent whose load reads, and its owner's look at it."""

    def __init__(self) -> None:
        self.now = 1_000_000_000
        self.agent = SimAgent(realtime=False, now_ns=self.now)
        self.agent.start()
        self.told: list[dict[str, Any]] = []
        self.watcher = Watcher(
            "one", MANIFEST, self.agent, View(), self.emit, OwnerBudget(time.monotonic)
        )

    def emit(self, event: Event) -> None:
        self.told.append(event.fields())

    def windows(self, count: int, reads: int = 7) -> None:
        for _ in range(count):
            self.now += 100_000_000
            if reads:
                self.agent.count(READS, reads)
            self.agent.step(self.now)

    @property
    def ring(self) -> Any:
        where = self.agent.geometry
        start = where.rings + where.nr_cpus * layout.RING.itemsize
        return self.agent.arena[start:][: layout.RING.itemsize].view(layout.RING)


@pytest.fixture
def one() -> Iterator[Watched]:
    made = Watched()
    yield made
    made.agent.close()


def test_each_window_is_told_once(one: Watched) -> None:
    one.windows(3)
    assert one.watcher.poll().windows == 3
    assert [each["seq"] for each in one.told] == [0, 1, 2]
    assert [each["features"]["reads"] for each in one.told] == [7, 7, 7]
    assert one.watcher.poll().windows == 0
    one.windows(1, reads=9)
    assert (one.watcher.poll().busy, one.told[-1]["features"]["reads"]) == (1, 9)


@pytest.mark.parametrize("seq", [(1 << 32) - 1, 1 << 31, 5_000])
def test_a_forged_number_or_head_hides_no_traffic(one: Watched, seq: int) -> None:
    one.windows(3)
    one.watcher.poll()
    for _ in range(3):
        window_view(one.agent.arena, one.agent.geometry)["seq"] = seq
        one.ring["head"] = seq
        one.windows(5)
        seen = one.watcher.poll()
        assert (seen.windows, seen.busy) == (5, 5)
    assert [each["seq"] for each in one.told] == list(range(18))


def test_a_reader_that_never_reads_hides_no_traffic(one: Watched) -> None:
    one.windows(MOST + 10)
    assert one.watcher.poll().windows == MOST
    one.windows(5)
    seen = one.watcher.poll()
    assert (seen.windows, seen.busy) == (0, 5)


def test_scribbling_over_all_of_it_neither(one: Watched) -> None:
    one.windows(3)
    one.watcher.poll()
    random = np.random.default_rng(7)
    one.agent.arena[:] = random.integers(0, 256, len(one.agent.arena), np.uint8)
    one.windows(5)
    assert one.watcher.poll().busy == 5


def test_without_traffic_nothing_is_busy(one: Watched) -> None:
    one.windows(3)
    one.watcher.poll()
    window_view(one.agent.arena, one.agent.geometry)["value"] = 1 << 40
    one.ring["head"] += 100
    one.windows(10, reads=0)
    assert one.watcher.poll().busy == 0
