# SPDX-License-Identifier: Apache-2.0
"""Stores of every version: brought to the present one, or left as they are."""

from __future__ import annotations

import inspect
import os
import re
import signal
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stores
from guard.support import in_child
from small_disk import fill, small_disk

from kmind.errors import KmindError
from kmind.guard import Journal
from kmind.runtime.evidence_store import EvidenceStore
from kmind.runtime.findings.store import FindingStore
from kmind.runtime.supervisor.advice import AdviceStore
from kmind.util import sqlite
from kmind.util.sqlite import DeferringStore, Schema, Step, Store
from kmind.workloads.simulated_disk import make_disk_files

ROWS = 300


def _grow(db: sqlite3.Connection) -> None:
    db.execute("ALTER TABLE t ADD COLUMN twice INTEGER NOT NULL DEFAULT 0")
    for n, text in db.execute("SELECT n, text FROM t").fetchall():
        db.execute("UPDATE t SET twice = ?, text = ? WHERE n = ?", (2 * n, f"{text}{text}", n))


class First(Store):
    schema = Schema(
        "test store",
        (
            # Semicolons that end no statement.
            "CREATE TABLE t (n INTEGER PRIMARY KEY, -- a number; that is all\n"
            "text TEXT NOT NULL DEFAULT 'a;b') STRICT; CREATE INDEX t_text ON t (text);",
        ),
    )


class Third(Store):
    schema = replace(
        First.schema,
        steps=(*First.schema.steps, _grow, "CREATE TABLE more (n INTEGER) STRICT;"),
    )


def bad(step: Step) -> type[Store]:
    """A store with a step that fails."""
    return type(
        "Bad", (Store,), {"schema": replace(First.schema, steps=(*First.schema.steps, step))}
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store of the first version, with rows."""
    return made(tmp_path / "store.db")


def made(path: Path, rows: int = ROWS) -> Path:
    with First(path) as store:
        store._db.execute("BEGIN")
        store._db.executemany("INSERT INTO t (n) VALUES (?)", [(n,) for n in range(rows)])
        store._db.execute("COMMIT")
    return path


def content(path: Path) -> tuple[int, list[tuple[Any, ...]], list[str]]:
    """Version, rows and tables, as SQLite alone reads them."""
    with closing(sqlite3.connect(path)) as db:
        names = [row[0] for row in db.execute("SELECT name FROM sqlite_master ORDER BY name")]
        rows = db.execute("SELECT * FROM t ORDER BY n").fetchall()
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        return db.execute("PRAGMA user_version").fetchone()[0], rows, names


OLD = (1, [(n, "a;b") for n in range(ROWS)], ["t", "t_text"])
NEW = (3, [(n, "a;ba;b", 2 * n) for n in range(ROWS)], ["more", "t", "t_text"])


def test_a_new_file_takes_every_step(tmp_path: Path) -> None:
    with Third(tmp_path / "new.db"):
        pass
    assert content(tmp_path / "new.db") == (3, [], NEW[2])
    with Third(None) as store:
        assert store._db.execute("SELECT count(*) FROM more").fetchone()[0] == 0


def test_an_earlier_version_is_brought_to_the_present_one(path: Path) -> None:
    assert content(path) == OLD
    Third(path).close()
    assert content(path) == NEW
    Third(path).close()  # and no step is taken twice
    assert content(path) == NEW


def test_processes_that_meet_take_each_step_once(path: Path) -> None:
    children = []
    for _ in range(4):
        if not (pid := os.fork()):
            try:
                Third(path).close()
                os._exit(0)
            finally:
                os._exit(1)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    assert content(path) == NEW


def test_who_reads_meanwhile_goes_on_with_what_was(path: Path) -> None:
    reading, upgraded = threading.Event(), threading.Event()
    seen = []

    def read() -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("BEGIN")
            seen.append(db.execute("SELECT count(text) FROM t WHERE text = 'a;b'").fetchone()[0])
            reading.set()
            upgraded.wait(60)
            seen.append(db.execute("SELECT count(text) FROM t WHERE text = 'a;b'").fetchone()[0])

    thread = threading.Thread(target=read)
    thread.start()
    reading.wait(60)
    Third(path).close()
    upgraded.set()
    thread.join()
    assert seen == [ROWS, ROWS]
    assert content(path) == NEW


def test_who_has_an_earlier_version_open_goes_on_writing(path: Path) -> None:
    """As a kmind that still runs while another one is put in its place."""
    with First(path) as running:
        Third(path).close()
        running._db.execute("INSERT INTO t (n) VALUES (?)", (ROWS,))
        assert running._db.execute("SELECT count(*) FROM t").fetchone()[0] == ROWS + 1
    assert content(path) == (3, [*NEW[1], (ROWS, "a;b", 0)], NEW[2])


def test_a_step_that_fails_changes_nothing(path: Path) -> None:
    def fails(db: sqlite3.Connection) -> None:
        _grow(db)
        db.execute("SELECT * FROM nowhere")

    with pytest.raises(KmindError, match=r"cannot open the test store in .*: no such table"):
        bad(fails)(path)
    assert content(path) == OLD


def test_a_later_version_is_not_written_to(path: Path) -> None:
    Third(path).close()
    with pytest.raises(KmindError) as told:
        First(path)
    assert str(told.value) == (
        f"the test store in {path} has version 3, and this kmind knows 1; use the kmind that "
        "wrote it, or move the file away"
    )
    assert content(path) == NEW
    with First(path, read_only=True) as store:
        assert store.is_later
        assert store._db.execute("SELECT text FROM t WHERE n = 1").fetchone()["text"] == "a;ba;b"


def test_a_look_at_an_earlier_version_is_upgraded_in_memory(path: Path) -> None:
    before = path.read_bytes()
    with Third(path, read_only=True) as store:
        assert not store.is_later
        assert store._db.execute("SELECT twice FROM t WHERE n = 7").fetchone()["twice"] == 14
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            store._db.execute("DELETE FROM t")
    assert path.read_bytes() == before
    assert content(path) == OLD


def test_a_look_at_what_cannot_be_upgraded_shows_what_is_there(path: Path) -> None:
    with bad("DROP TABLE nowhere;")(path, read_only=True) as store:
        assert store._db.execute("SELECT text FROM t WHERE n = 7").fetchone()["text"] == "a;b"


# Killed half-way


class _Kill:
    """Kills this process at the ``at``-th statement, or after so many of SQLite's instructions."""

    def __init__(self, at: int, connect: Callable[..., sqlite3.Connection]) -> None:
        self._left = at
        self._connect = connect

    def by_statement(self, path: Path, **more: Any) -> sqlite3.Connection:
        db = self._connect(path, **more)
        db.set_trace_callback(self._count)
        return db

    def by_instruction(self, path: Path, **more: Any) -> sqlite3.Connection:
        db = self._connect(path, **more)
        db.set_progress_handler(self._count, 1)
        return db

    def _count(self, statement: str = "") -> None:
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)


def killed(how: str, at: int, work: Callable[[], object]) -> bool:
    """True if it was killed, and did not end before."""

    def child() -> None:
        kill = _Kill(at, sqlite.connect_private)
        sqlite.connect_private = getattr(kill, how)
        work()

    code = in_child(child)
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.mark.parametrize(("how", "stride"), [("by_statement", 1), ("by_instruction", 97)])
def test_killed_anywhere_a_store_has_one_version_whole(
    tmp_path: Path, how: str, stride: int
) -> None:
    few = 40
    versions = set()
    for at in range(1, 1 << 20, stride):
        path = made(tmp_path / f"{at}.db", few)
        if not killed(how, at, lambda path=path: Third(path).close()):
            break
        version, rows, names = content(path)
        versions.add(version)
        assert rows == ([row[:2] for row in OLD[1][:few]] if version == 1 else NEW[1][:few])
        assert names == (OLD[2] if version < 3 else NEW[2])
        Third(path).close()
        assert content(path) == (3, NEW[1][:few], NEW[2])
    # Whether so many instructions meet the moment between two steps is up to SQLite's version.
    assert versions >= ({1, 2} if how == "by_statement" else {1})
    assert at > 10 * stride


@pytest.mark.parametrize("copy", [*stores.kept("journal")[:1], *stores.kept("evidence")[:1]])
def test_a_kept_copy_survives_a_kill_at_each_statement(tmp_path: Path, copy: Path) -> None:
    kind = copy.stem.partition("-")[0]
    before = rows_of(stores.unpack(copy, tmp_path / "before.db"))
    for at in range(1, 1 << 20):
        path = stores.unpack(copy, tmp_path / f"{at}.db")
        if not killed("by_statement", at, lambda path=path: opened(kind, path).close()):
            break
        assert {name: rows_of(path)[name] for name in before} == before or version_of(path) == 2
        opened(kind, path).close()
        assert holds(rows_of(path), before)
    assert at > 5


# A full disk


@pytest.mark.kernel
@pytest.mark.fault
def test_a_disk_that_is_full_while_upgrading_loses_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "768k") as folder:
        upgraded = refused = 0
        told: list[str] = []
        for leave in range(0, 200 << 10, 8 << 10):
            path = made(folder / f"{leave}.db")
            ballast = fill(folder, leave)
            try:
                Third(path).close()
                upgraded += 1
            except KmindError as error:
                refused += 1
                told.append(str(error))
            ballast.unlink()
            assert content(path)[0] in (1, 2, 3)
            Third(path).close()
            assert content(path) == NEW
            for file in folder.glob("*.db*"):
                file.unlink()
        assert upgraded
        assert refused > 2
        assert all("cannot open the test store" in each for each in told)
        assert all("free space on its disk" in each or "disk is full" in each for each in told)


# Kept copies


class Doer:
    def apply_advice(self, advice: Any) -> int:
        return 1

    def undo_advice(self, change: int) -> str:
        return ""


STORES: dict[str, type[Store]] = {
    "journal": Journal,
    "advice": AdviceStore,
    "evidence": EvidenceStore,
    "findings": FindingStore,
}


def opened(store: str, path: Path) -> Store:
    return AdviceStore(path, Doer()) if store == "advice" else STORES[store](path)


Rows = dict[str, list[dict[str, Any]]]


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


def tables(path: Path) -> dict[str, str]:
    """Return the statement that makes each table and index, without comments."""
    with closing(sqlite3.connect(path)) as db:
        found = db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
        return {name: " ".join(re.sub("--.*", "", sql).split()) for name, sql in found}


def rows_of(path: Path) -> Rows:
    with closing(sqlite3.connect(path)) as db:
        db.row_factory = sqlite3.Row
        found = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {
            name: [dict(row) for row in db.execute(f"SELECT * FROM {name}")]
            for (name,) in found
            if not name.startswith("sqlite_")
        }


def holds(now: Rows, before: Rows) -> bool:
    """True if all earlier rows are there, unchanged."""
    return all(
        [{key: row[key] for key in old} for row, old in zip(now[name], rows, strict=True)] == rows
        for name, rows in before.items()
    )


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[str], Path]:
    """A file of each store as the present code makes it."""

    def make(store: str) -> Path:
        path = tmp_path / "fresh" / f"{store}.db"
        stores.WRITERS[store](path, make_disk_files(tmp_path / "root"))
        return path

    return make


@pytest.mark.parametrize("copy", stores.DATABASES, ids=lambda copy: copy.stem)
def test_a_kept_copy_is_brought_to_the_present_version(
    tmp_path: Path, fresh: Callable[[str], Path], copy: Path
) -> None:
    store = copy.stem.partition("-")[0]
    path = stores.unpack(copy, tmp_path / f"{store}.db")
    assert version_of(path) == stores.version(copy)
    before = rows_of(path)
    assert any(before.values())
    with opened(store, path):
        pass
    assert version_of(path) == STORES[store].schema.version
    assert tables(path) == tables(fresh(store))
    assert holds(rows_of(path), before)


def test_each_store_has_kept_copies() -> None:
    sources = Path(sqlite.__file__).parents[1].rglob("*.py")
    found = {path for path in sources if re.search(r"[^.\w]Schema\(", path.read_text())}
    known = {Path(inspect.getfile(store)) for store in STORES.values()}
    assert found == known, "add it to STORES here, and what writes it to tests/stores.py"
    assert {copy.stem.partition("-")[0] for copy in stores.DATABASES} == set(STORES)


@pytest.mark.parametrize("store", STORES)
def test_each_version_has_a_kept_copy(store: str) -> None:
    """A change of schema needs a step, and a kept copy of its result: CONTRIBUTING.md."""
    copies = stores.kept(store)
    versions = sorted({stores.version(copy) for copy in copies})
    assert versions == list(range(1, STORES[store].schema.version + 1))


@pytest.mark.parametrize("store", STORES)
def test_a_schema_does_not_change_without_a_new_version(
    tmp_path: Path, fresh: Callable[[str], Path], store: str
) -> None:
    present = [c for c in stores.kept(store) if stores.version(c) == STORES[store].schema.version]
    path = stores.unpack(present[-1], tmp_path / "kept.db")
    assert tables(path) == tables(fresh(store))


def test_what_only_tells_writes_later_where_the_file_is_locked(path: Path) -> None:
    class Telling(DeferringStore):
        schema = Third.schema

    with Telling(path) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            store._soon("INSERT INTO more (n) VALUES (?)", 1)
            assert store._late
        store._soon("INSERT INTO more (n) VALUES (?)", 2)
        assert [row["n"] for row in store._db.execute("SELECT n FROM more")] == [1, 2]
