# SPDX-License-Identifier: Apache-2.0
"""A disk in virtual time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from testing.disk_model import MODEL, PAGES, RANDOM, STREAM, Load

from kmind.agent.sim.agent import SimAgent, SimDoorbell
from kmind.agent.types import Mode
from kmind.extension import find_module
from kmind.queue import Endpoint
from kmind.testing.simulation import Simulation
from kmind.workloads import streams
from kmind.workloads.simulated_disk import DiskModel, SimulatedDisk, make_disk_files

COLUMN = find_module("readahead").manifest.columns
MAPPED_STREAM: Load = (lambda: streams.sequential(PAGES, pages=PAGES), True)
RANDOM_READS: Load = (lambda: streams.random(100_000, pages=PAGES), False)


def speed(load: Load, kb: int, seconds: float = 1.0, **model: Any) -> float:
    """Accesses a second under one value that nobody changes."""
    made = DiskModel(**{**vars(MODEL), **model})
    with Simulation(mode=Mode.OBSERVE, read_ahead_kb=kb, model=made) as simulation:
        rate = simulation.run(load[0](), seconds, mapped=load[1])
        assert simulation.changes == []
        return rate


def test_the_model_goes_the_way_of_a_real_disk() -> None:
    assert speed(RANDOM, 16) > 1.2 * speed(RANDOM, 128) > 5 * speed(RANDOM, 8192)
    for stream in (STREAM, MAPPED_STREAM):
        assert speed(stream, 8192) > 1.02 * speed(stream, 128) > 1.04 * speed(stream, 16)
    assert speed(RANDOM_READS, 16) == speed(RANDOM_READS, 8192)


def test_the_trap() -> None:
    """If the whole file fits, a large readahead fills the cache, and wins despite random access."""
    assert speed(RANDOM, 8192, cache_pages=PAGES) > 5 * speed(RANDOM, 16, cache_pages=PAGES)


def test_features_tell_what_happened(tmp_path: Path) -> None:
    agent = SimAgent(realtime=False, now_ns=10**12, gauges=(COLUMN["cgroup_left"],))
    agent.start()
    endpoint = Endpoint(agent.arena, SimDoorbell(agent.doorbell_fd))
    disk = SimulatedDisk(agent, make_disk_files(tmp_path, read_ahead_kb=64), MODEL)
    rate = disk.run(streams.random(20_000, pages=PAGES), 2, mapped=True)
    windows = endpoint.windows.peek()
    assert len(windows) == 20
    total = {name: int(windows["value"][:, column].sum()) for name, column in COLUMN.items()}
    assert rate == pytest.approx(disk.accesses / 2, rel=0.02)
    assert total["faults"] == total["fault_misses"] == total["strides"] == total["device_reads"]
    assert 0 <= disk.accesses - total["faults"] - total["fault_around"] < disk.accesses * 0.01
    assert total["reads"] == total["read_pages"] == 0
    assert total["device_bytes"] == total["added_pages"] * 4096
    assert 12 < total["added_pages"] / total["faults"] <= 16
    assert total["added_pages"] - total["removed_pages"] == disk.cached_pages == PAGES // 4
    assert windows["value"][-1, COLUMN["cgroup_left"]] == 0
    assert 0 < total["fault_sequential"] < total["faults"] * 0.01
    assert total["device_ns"] < 2e9
    assert (windows["value"][:, COLUMN["file_pages"]] == PAGES).all()
    disk.drop_caches()
    assert disk.cached_pages == 0
    agent.close()


def test_one_stream_goes_on_where_it_stopped(tmp_path: Path) -> None:
    agent = SimAgent(realtime=False, now_ns=10**12)
    agent.start()
    disk = SimulatedDisk(agent, make_disk_files(tmp_path), MODEL)
    stream = np.array([[n, 1] for n in range(PAGES)], np.int64)
    disk.run(stream, 0.02, mapped=False)
    first = disk.accesses
    disk.run(stream, 0.02, mapped=False)
    assert disk._next_page == disk.accesses % PAGES > first
    agent.close()
