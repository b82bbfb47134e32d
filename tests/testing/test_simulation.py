# SPDX-License-Identifier: Apache-2.0
"""A module on a simulated disk, in virtual time."""

from pathlib import Path

import pytest
from testing.disk_model import MODEL, PAGES, RANDOM, STREAM

from kmind.agent.types import Mode
from kmind.runtime.evidence_store import EvidenceStore
from kmind.testing.simulation import Simulation
from kmind.workloads.simulated_disk import DiskModel


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
