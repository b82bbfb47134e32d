# SPDX-License-Identifier: Apache-2.0
"""The simulated disk goes the way a real one goes, and the readahead module finds it out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kmind.agent.sim.agent import SimAgent, SimDoorbell
from kmind.agent.types import Mode
from kmind.extension import find_module
from kmind.queue import Endpoint
from kmind.runtime.experiment.store import EvidenceStore
from kmind.testing.simulation import Simulation
from kmind.workloads import streams
from kmind.workloads.simulated_disk import DiskModel, SimulatedDisk, make_disk_files
from kmind.workloads.streams import Stream

PAGES = 1 << 16
MODEL = DiskModel(file_pages=PAGES, cache_pages=PAGES // 4)
COLUMN = find_module("readahead").manifest.columns

Load = tuple[Callable[[], Stream], bool]
RANDOM: Load = (lambda: streams.random(100_000, pages=PAGES), True)
STREAM: Load = (lambda: streams.sequential(PAGES // 8, pages=PAGES, length=8), False)
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
    """Where all of the file fits, a large readahead fills the cache, and wins though at random."""
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


def test_the_best_value_is_found_and_remembered() -> None:
    with Simulation("readahead", model=MODEL) as simulation:
        before = simulation.run(stream := RANDOM[0](), 0.4, mapped=True)
        simulation.run(stream, 28, mapped=True)
        assert simulation.value == 4  # one step after the other
        results = simulation.results
        kept = [(r["incumbent"], r["candidate"]) for r in results if r["kept"]]
        assert kept == [(8192, 16), (16, 4)]
        assert all(r["interval"]["low"] > 1.02 for r in results if r["kept"])
        simulation.run(STREAM[0](), 3, mapped=False)
        assert simulation.value == 8192
        # The second visit needs no search.
        done = len(results)
        simulation.run(stream, 1.6, mapped=True)
        assert (simulation.value, len(results)) == (4, done)
        assert simulation.run(stream, 0.3, mapped=True) > 5 * before
        assert set(simulation.verdicts) == {"approved", "renewed"}


def test_a_load_that_just_changes_is_not_measured_by_what_decided_before() -> None:
    with Simulation("readahead", model=MODEL) as simulation:
        simulation.run(stream := RANDOM[0](), 28.4, mapped=True)
        simulation.run(STREAM[0](), 3, mapped=False)
        done = len(simulation.results)
        # The value is recommended while most of the latest blocks are still of the stream.
        simulation.run(stream, 2.5, mapped=True)
        assert (simulation.value, len(simulation.results)) == (4, done)


def test_another_run_remembers(tmp_path: Path) -> None:
    with EvidenceStore(tmp_path / "evidence.db") as store:
        for seconds in (12, 1.5):
            with Simulation("readahead", "search=false", model=MODEL, store=store) as simulation:
                simulation.run(RANDOM[0](), seconds, mapped=True)
                assert simulation.value == 16
        assert [change.kind for change in simulation.changes] == ["applied"]
        assert simulation.results == []


def test_a_stream_is_left_alone() -> None:
    with Simulation("readahead", model=MODEL) as simulation:
        simulation.run(STREAM[0](), 5, mapped=False)
        assert (simulation.changes, simulation.value) == ([], 8192)


def test_the_trap_is_not_walked_into() -> None:
    slow = DiskModel(file_pages=PAGES, cache_pages=PAGES, hit_s=1e-4)
    with Simulation("readahead", model=slow) as simulation:
        simulation.run(RANDOM[0](), 5, mapped=True)
        assert simulation.value == 8192
        assert simulation.disk.cached_pages > 0.9 * PAGES


def test_another_phase_ends_what_was_kept() -> None:
    with Simulation("readahead", "search=false", model=MODEL) as simulation:
        simulation.run(RANDOM[0](), 12, mapped=True)
        assert simulation.value == 16
        simulation.run(STREAM[0](), 3, mapped=False)
        assert simulation.value == 8192


@pytest.mark.parametrize(
    ("mode", "verdict"), [(Mode.OBSERVE, "shadowed"), (Mode.ADVISE, "advised")]
)
def test_modes_that_change_nothing(mode: Mode, verdict: str) -> None:
    with Simulation("readahead", model=MODEL, mode=mode) as simulation:
        simulation.run(RANDOM[0](), 3, mapped=True)
        assert (simulation.changes, simulation.value) == ([], 8192)
        assert set(simulation.verdicts) == {verdict}


def test_canary_keeps_nothing() -> None:
    with Simulation("readahead", model=MODEL, mode=Mode.CANARY) as simulation:
        simulation.run(RANDOM[0](), 14, mapped=True)
        assert [result["outcome"] for result in simulation.results] == ["gain"]
        assert simulation.value == 8192
        assert [result["candidate"] for result in simulation.results] == [16]
        assert {change.kind for change in simulation.changes} == {"dropped"}


def test_a_simulation_can_be_repeated() -> None:
    runs = []
    for _ in range(2):
        with Simulation("readahead", "patience=0", model=MODEL) as simulation:
            rate = simulation.run(RANDOM[0](), 12, mapped=True)
            runs.append((rate, simulation.changes, simulation.results, simulation.log))
    assert runs[0] == runs[1]
    assert len(runs[0][1]) > 0


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
