# SPDX-License-Identifier: Apache-2.0
"""Another process holds a lock of the journal, and the owner does not wait for it."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from kmind.errors import BusyError
from kmind.guard import Actuator, Journal, Policy
from kmind.knobs import Target, get_knob
from kmind.runtime.evidence_store import EvidenceStore
from kmind.workloads.simulated_disk import make_disk_files

KNOB = get_knob("block.read_ahead_kb")
SOON_S = 1.0  # the lock was waited for ten seconds, or two


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return make_disk_files(tmp_path / "root")


@pytest.fixture
def actuator(target: Target, journal: Journal) -> Actuator:
    journal.hurry()
    return Actuator(journal, Policy(), root=target.root)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another connection is in the midst of a transaction."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        yield
        assert time.monotonic() - began < SOON_S
        other.execute("ROLLBACK")


def test_a_change_is_refused_at_once(
    actuator: Actuator, target: Target, state: Path, journal: Journal
) -> None:
    before = KNOB.read(target)
    with locked(state), pytest.raises(BusyError, match="another process is writing to it"):
        actuator.apply(KNOB, target, 16, who="a@b", why="")
    assert KNOB.read(target) == before
    assert journal.open_changes() == []
    actuator.apply(KNOB, target, 16, who="a@b", why="")
    assert KNOB.read(target) == 16


def test_an_undo_is_done_at_once_and_recorded_later(
    actuator: Actuator, target: Target, state: Path, journal: Journal
) -> None:
    before = KNOB.read(target)
    change = actuator.apply(KNOB, target, 16, who="a@b", why="")
    with locked(state):
        assert actuator.undo(change).state == "undone"
        assert KNOB.read(target) == before
        assert actuator.check() == []
        assert actuator.unsettled
    assert journal.get(change.id).state == "applied"
    actuator.check()
    assert journal.get(change.id).state == "undone"
    assert not actuator.unsettled


def test_what_somebody_set_is_yielded_at_once_and_recorded_later(
    actuator: Actuator, target: Target, state: Path, journal: Journal
) -> None:
    change = actuator.apply(KNOB, target, 16, who="a@b", why="")
    KNOB.write(target, 64)
    with locked(state):
        assert [each.found for each in actuator.check()] == [64]
    actuator.check()
    assert journal.get(change.id).state == "yielded"
    assert KNOB.read(target) == 64


def test_how_an_experiment_ended_is_recorded_later(tmp_path: Path, target: Target) -> None:
    path = tmp_path / "evidence.db"
    with EvidenceStore(path) as store:
        number = store.begin(
            kind="trial", instance="m@d", module="m", backend="sim", knob=KNOB, target=target,
            incumbent=128, candidate=16, metric="rate", unit="1/s",
        )  # fmt: skip
        record = {"outcome": "gain", "reason": "so", "interval": None, "detectable": 1.1}
        with locked(path):
            store.end(number, record, kept=True)
        assert store.get(str(number))["outcome"] == "gain"


def test_what_waits_to_be_recorded_is_written_at_the_end(tmp_path: Path, target: Target) -> None:
    path = tmp_path / "evidence.db"
    with EvidenceStore(path) as store:
        number = store.begin(
            kind="trial", instance="m@d", module="m", backend="sim", knob=KNOB, target=target,
            incumbent=128, candidate=16, metric="rate", unit="1/s",
        )  # fmt: skip
        record = {"outcome": "loss", "reason": "so", "interval": None, "detectable": 1.1}
        with locked(path):
            store.end(number, record, kept=False)
    with EvidenceStore(path, read_only=True) as store:
        assert store.get(str(number))["outcome"] == "loss"
