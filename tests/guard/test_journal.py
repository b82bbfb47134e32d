# SPDX-License-Identifier: Apache-2.0
"""The journal as a file: full, read-only, damaged, shared."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from guard.support import in_child
from small_disk import fill, small_disk

from kmind.errors import JournalError
from kmind.guard import Actuator, Journal, Owner, Policy, restore
from kmind.knobs import Target, get_knob
from kmind.util.procfs import start_time

MERGES = get_knob("block.nomerges")
AFFINITY = get_knob("block.rq_affinity")
PRESSURE = get_knob("vm.vfs_cache_pressure")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "small") as folder:
        yield folder


def test_the_place_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KMIND_STATE_DIR", str(tmp_path / "deep/er"))
    with Journal() as journal:
        assert journal.path == tmp_path / "deep/er/journal.db"
        assert journal.path.exists()


def test_it_is_durable_by_settings(journal: Journal, state: Path) -> None:
    assert journal._db.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
    assert journal._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    with sqlite3.connect(state) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == 2
    db.close()


def test_it_does_not_grow_for_ever(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kmind.guard.journal._KEPT_ROWS", 10)
    system = Target.system()
    held = journal.intend(PRESSURE, system, 1, 2, Owner.me("a@b"), why="")
    for _ in range(30):
        change = journal.intend(PRESSURE, system, 1, 2, Owner.me("a@b"), why="")
        journal.finish([change], "undone")
    assert journal.expire() == 0
    assert [row.id for row in journal.history()] == [*range(31, 21, -1), held.id]


@pytest.mark.kernel
@pytest.mark.fault
def test_no_change_is_made_when_the_disk_is_full(small: Path, spare: Target) -> None:
    with Journal(small / "journal.db") as journal:
        actuator = Actuator(journal, Policy())
        ballast = fill(small)
        with pytest.raises(JournalError, match=r"cannot write the journal .*; no knob is changed"):
            actuator.apply(MERGES, spare, 2, who="test@it", why="")
        assert (MERGES.read(spare), actuator.held) == (0, [])
        ballast.unlink()
        actuator.apply(MERGES, spare, 2, who="test@it", why="")
        assert MERGES.read(spare) == 2
        actuator.undo_all()


@pytest.mark.kernel
@pytest.mark.fault
def test_a_disk_that_fills_up_at_any_point_leaves_no_half_change(
    small: Path, spare: Target
) -> None:
    made = refused = 0
    for leave in range(0, 80 << 10, 4 << 10):
        path = small / f"{leave}.db"
        with Journal(path) as journal:
            actuator = Actuator(journal, Policy())
            ballast = fill(small, leave)
            try:
                change = actuator.apply(
                    MERGES, spare, 2, who="test@it", why="", evidence={"filler": "x" * 3000}
                )
            except JournalError:
                refused += 1
                assert (MERGES.read(spare), actuator.held) == (0, [])
            else:
                made += 1
                assert change.state == "applied"
            ballast.unlink()
            report = restore(journal, force=True)
            assert (MERGES.read(spare), report.skipped) == (0, ())
            assert journal.open_changes() == []
        for file in small.glob("*.db*"):
            file.unlink()
    assert made
    assert refused > 1


@pytest.mark.kernel
@pytest.mark.fault
def test_a_full_disk_does_not_stop_an_undo(small: Path, spare: Target) -> None:
    with Journal(small / "journal.db") as journal:
        actuator = Actuator(journal, Policy())
        actuator.apply(MERGES, spare, 2, who="test@it", why="")
        actuator.apply(AFFINITY, spare, 2, who="test@it", why="")
        ballast = fill(small)
        with pytest.raises(JournalError, match="full"):
            actuator.undo_all()
        assert (MERGES.read(spare), AFFINITY.read(spare)) == (0, 1)
        ballast.unlink()
        assert len(restore(journal, force=True).restored) == 2
        assert journal.open_changes() == []


@pytest.mark.kernel
@pytest.mark.fault
def test_a_full_disk_does_not_stop_a_restore(small: Path, spare: Target) -> None:
    path = small / "journal.db"

    def die() -> None:
        Actuator(Journal(path), Policy()).apply(MERGES, spare, 2, who="test@it", why="")

    assert in_child(die) == 0
    with Journal(path) as journal:
        ballast = fill(small)
        report = restore(journal)
        assert [o.to for o in report.restored] == [0]
        assert report.unrecorded is not None
        assert MERGES.read(spare) == 0
        ballast.unlink()
        assert restore(journal).unrecorded is None
        assert journal.open_changes() == []


@pytest.mark.kernel
@pytest.mark.fault
def test_a_read_only_journal_changes_nothing(small: Path, spare: Target) -> None:
    path = small / "journal.db"
    Journal(path).close()
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    with pytest.raises(JournalError, match="set KMIND_STATE_DIR"), Journal(path) as journal:
        Actuator(journal, Policy()).apply(MERGES, spare, 2, who="test@it", why="")
    assert MERGES.read(spare) == 0
    with pytest.raises(JournalError, match="cannot open the journal"):
        Journal(small / "new" / "journal.db")


@pytest.mark.fault
@pytest.mark.parametrize("content", [b"not a database, at all. " * 100, b"SQLite format 3\0" * 99])
def test_a_file_that_is_no_journal_is_left_as_it_is(state: Path, content: bytes) -> None:
    state.write_bytes(content)
    with pytest.raises(JournalError, match=r"cannot open the journal.*move it away"):
        Journal(state)
    assert state.read_bytes() == content


@pytest.mark.fault
def test_a_directory_or_a_later_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="cannot open the journal"):
        Journal(tmp_path)
    with Journal(tmp_path / "later.db") as journal:
        journal._db.execute("PRAGMA user_version = 99")
    with pytest.raises(JournalError, match="has version 99"):
        Journal(tmp_path / "later.db")


@pytest.mark.kernel
@pytest.mark.fault
def test_a_damaged_journal_is_an_error_and_not_a_traceback(system: Target, state: Path) -> None:
    before = PRESSURE.read(system)
    with Journal(state) as journal:
        for _ in range(60):
            change = journal.intend(PRESSURE, system, before, before, Owner.me("a@b"), why="w" * 99)
            journal.finish([change], "undone")
    whole = state.read_bytes()
    rng = random.Random(1)
    errors = 0
    for _ in range(40):
        damaged = bytearray(whole)
        for _ in range(8):
            start = rng.randrange(len(damaged))
            damaged[start : start + 64] = rng.randbytes(64)
        for file in state.parent.glob("journal.db*"):
            file.unlink()
        state.write_bytes(damaged[: len(whole)])
        try:
            with Journal(state) as journal:
                restore(journal)
                journal.history()
        except JournalError:
            errors += 1
        assert PRESSURE.read(system) == before
    assert errors


@pytest.mark.kernel
@pytest.mark.fault
def test_processes_share_it(system: Target, state: Path) -> None:
    value = PRESSURE.read(system)

    def write() -> None:
        with Journal(state) as mine:
            for _ in range(25):
                change = mine.intend(PRESSURE, system, value, value, Owner.me("a@b"), why="")
                mine.finish([change], "undone")

    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            try:
                write()
                os._exit(0)
            finally:
                os._exit(1)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 4
    with Journal(state) as journal:
        rows = journal.history(1000)
        assert len(rows) == len({row.id for row in rows}) == 100
        assert {row.state for row in rows} == {"undone"}
        assert len({row.owner.pid for row in rows}) == 4


@pytest.mark.kernel
@pytest.mark.fault
def test_rows_of_a_dead_owner_are_taken_over(journal: Journal, state: Path, system: Target) -> None:
    value = PRESSURE.read(system)

    def die() -> None:
        theirs = Journal(state)
        for who in ("a@b", "a@b"):
            theirs.intend(PRESSURE, system, value, value, Owner.me(who), why="")
        interval = get_knob("vm.stat_interval")
        theirs.intend(interval, system, interval.read(system), 2, Owner.me("c@d"), why="")
        done = theirs.intend(PRESSURE, system, value, value, Owner.me("a@b"), why="")
        theirs.finish([done], "undone")

    assert in_child(die) == 0
    mine = journal.take_over("a@b")
    assert [change.id for change in mine] == [1, 2]
    assert all(change.owner == Owner.me("a@b") for change in mine)
    assert journal.take_over("a@b") == mine  # again changes nothing
    assert not journal.open_changes()[2].owner.alive()
    assert journal.get(4).owner != Owner.me("a@b")
    # What is ours now is not restored as left behind.
    restore(journal)
    assert [change.id for change in journal.open_changes()] == [1, 2]


@pytest.mark.kernel
def test_rows_of_a_living_owner_stay_theirs(journal: Journal, state: Path, system: Target) -> None:
    value = PRESSURE.read(system)
    with subprocess.Popen(["sleep", "30"]) as process:
        start = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19])
        owner = Owner("a@b", 0, process.pid, start)
        journal.intend(PRESSURE, system, value, value, owner, why="")
        assert journal.take_over("a@b") == []
        process.kill()
        process.wait()
        assert [change.id for change in journal.take_over("a@b")] == [1]


@pytest.mark.kernel
def test_an_owner_may_have_any_name() -> None:
    ended = "import os, time; open('/proc/self/comm', 'wb').write(b'\\xff) Z 1'); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", ended]) as process:
        try:
            while b"\xff" not in Path(f"/proc/{process.pid}/comm").read_bytes():
                pass
            start = start_time(process.pid)
            assert start
            assert Owner("a@b", 0, process.pid, start).alive()
        finally:
            process.kill()
            process.wait()
    assert start_time(process.pid) is None
