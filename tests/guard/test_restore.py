# SPDX-License-Identifier: Apache-2.0
"""Knobs are put back by a journal of any version, and where it cannot be written."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import stores
from guard.support import in_child
from small_disk import fill, small_disk

from kmind.errors import JournalError
from kmind.guard import Actuator, Journal, Policy, restore
from kmind.knobs import Target, get_knob
from kmind.workloads.simulated_disk import make_disk_files

KNOB = get_knob("block.read_ahead_kb")
LATER = 99


@pytest.fixture
def disk(tmp_path: Path) -> Target:
    """The disk that the kept copies are about, its knob at the last value in them."""
    disk = make_disk_files(tmp_path / "root")
    KNOB.write(disk, 16)
    return disk


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "small") as folder:
        yield folder


def change(path: Path, *statements: str) -> None:
    """Make another file of a journal."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript(";".join(statements))


def later(path: Path, *statements: str) -> Path:
    """The journal of a kmind to come."""
    stores.unpack(stores.kept("journal")[-1], path)
    change(path, *statements, f"PRAGMA user_version = {LATER}")
    return path


@pytest.mark.parametrize("copy", stores.kept("journal"), ids=lambda copy: copy.stem)
def test_each_kept_journal_puts_back_its_knobs(tmp_path: Path, disk: Target, copy: Path) -> None:
    path = stores.unpack(copy, tmp_path / "journal.db")
    with Journal.rescue(path) as journal:
        assert journal.unwritable is None
        done = restore(journal, root=disk.root)
        assert done.unrecorded is None
        assert journal.open_changes() == []
        assert journal.drains() == []
    assert [(o.knob, o.found, o.to) for o in done.restored] == [(KNOB.name, 16, 8192)]
    assert KNOB.read(disk) == 8192


@pytest.mark.parametrize(
    "statements",
    [
        (),
        ("ALTER TABLE change ADD COLUMN heart BLOB", "CREATE TABLE finding (id)"),
        ("ALTER TABLE change RENAME COLUMN why TO reason",),
        ("DROP TABLE drain",),
        (
            "DROP INDEX change_open",
            *(
                f"ALTER TABLE change DROP COLUMN {name}"
                for name in ("time", "cause", "rec_id", "why", "evidence", "undo", "trial")
            ),
        ),
    ],
    ids=["same", "more", "renamed", "no drains", "few columns"],
)
def test_a_later_journal_puts_back_its_knobs(
    tmp_path: Path, disk: Target, statements: tuple[str, ...]
) -> None:
    path = later(tmp_path / "journal.db", *statements)
    before = path.read_bytes()
    with pytest.raises(JournalError, match=f"has version {LATER}, .*have kmind restore put back"):
        Journal(path)
    with Journal.rescue(path) as journal:
        done = restore(journal, root=disk.root)
    assert [(o.found, o.to) for o in done.restored] == [(16, 8192)]
    assert KNOB.read(disk) == 8192
    assert f"has version {LATER}" in str(done.unrecorded)
    assert path.read_bytes() == before


def test_a_row_of_a_later_journal_that_is_not_understood_stops_no_other(
    tmp_path: Path, disk: Target
) -> None:
    path = later(
        tmp_path / "journal.db",
        "INSERT INTO change (time, boot, knob, target, identity, old, new, instance, uid, pid, "
        "start, rec_id, why, evidence, undo, state) SELECT time, boot, 'net.route', target, "
        "identity, '{\"via\": 1}', '[2]', instance, uid, pid, start, rec_id, why, evidence, undo, "
        "'applied' FROM change WHERE id = 1",
    )
    with Journal.rescue(path) as journal:
        restore(journal, root=disk.root)
        assert journal.unread == {5}
    assert KNOB.read(disk) == 8192


def test_a_journal_without_what_restore_needs_is_an_error(tmp_path: Path, disk: Target) -> None:
    path = later(tmp_path / "journal.db", "ALTER TABLE change DROP COLUMN pid")
    with Journal.rescue(path) as journal, pytest.raises(JournalError, match="have no pid"):
        restore(journal, root=disk.root)
    assert KNOB.read(disk) == 16


def test_a_row_of_our_own_version_that_makes_no_sense_is_an_error(
    tmp_path: Path, disk: Target
) -> None:
    path = stores.unpack(stores.kept("journal")[-1], tmp_path / "journal.db")
    change(path, "UPDATE change SET old = '[1]' WHERE id = 2")
    with Journal.rescue(path) as journal, pytest.raises(JournalError, match="change 2 is from"):
        restore(journal, root=disk.root)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("mistake", ["owner", "link"])
def test_a_journal_that_is_not_ours_is_not_read_either(
    tmp_path: Path, disk: Target, mistake: str
) -> None:
    path = later(tmp_path / "state" / "journal.db")
    if mistake == "owner":
        os.chown(path, 65534, 65534)
    else:
        path.rename(tmp_path / "else.db")
        path.symlink_to(tmp_path / "else.db")
    with pytest.raises(JournalError, match=r"belongs to user 65534|is not a regular file"):
        Journal.rescue(path)
    with pytest.raises(JournalError, match=r"belongs to user 65534|is not a regular file"):
        Journal(path, read_only=True, ours=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_journal_that_others_may_write_to_is_no_ground_to_set_a_knob(tmp_path: Path) -> None:
    path = later(tmp_path / "state" / "journal.db")
    path.chmod(0o660)
    with pytest.raises(JournalError, match="can be written to by others"):
        Journal(path, read_only=True, ours=True)
    path.chmod(0o600)
    path.parent.chmod(0o777)
    with pytest.raises(JournalError, match="can be written to by everybody"):
        Journal(path, read_only=True, ours=True)


def test_a_locked_journal_of_an_earlier_version_is_read(
    tmp_path: Path, disk: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kmind.guard.journal._PATIENCE_S", 0.01)
    path = stores.unpack(stores.kept("journal")[0], tmp_path / "journal.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with Journal.rescue(path) as journal:
            done = restore(journal, root=disk.root)
    assert KNOB.read(disk) == 8192
    assert "it is locked" in str(done.unrecorded)


def policy(tmp_path: Path) -> Policy:
    path = tmp_path / "policy.toml"
    path.write_text('[defaults]\non_daemon_death = "keep"\n')
    return Policy.load(path)


def test_what_the_policy_keeps_is_kept_though_that_cannot_be_recorded(
    tmp_path: Path, disk: Target
) -> None:
    path = later(tmp_path / "journal.db", "DELETE FROM change WHERE id = 3")
    KNOB.write(disk, 1024)
    with Journal.rescue(path) as journal:
        done = restore(journal, policy(tmp_path), root=disk.root)
    assert done.restored == ()
    assert [(o.knob, o.found) for o in done.kept] == [(KNOB.name, 1024)]
    assert KNOB.read(disk) == 1024


def test_each_drain_is_ended_though_none_can_be_recorded(tmp_path: Path) -> None:
    disks = [make_disk_files(tmp_path / "root", name) for name in ("sim0", "sim1")]
    path = stores.unpack(stores.kept("journal")[-1], tmp_path / "journal.db")
    change(
        path,
        "INSERT INTO drain (boot, knob, target, identity, value, pid, start) "
        "SELECT boot, knob, 'sim1', identity, value, pid, start FROM drain",
        "DELETE FROM change",
        f"PRAGMA user_version = {LATER}",
    )
    for disk in disks:
        KNOB.write(disk, 0)
    with Journal.rescue(path) as journal:
        restore(journal, root=tmp_path / "root")
    assert [KNOB.read(disk) for disk in disks] == [16, 16]


def test_what_an_ended_instance_of_a_living_process_holds_is_put_back(
    tmp_path: Path, journal: Journal
) -> None:
    disks = [make_disk_files(tmp_path / "root", name) for name in ("sim0", "sim1")]
    actuator = Actuator(journal, Policy(), root=tmp_path / "root")
    for disk, who in zip(disks, ("ended@sim0", "goes_on@sim1"), strict=True):
        actuator.apply(KNOB, disk, 64, who=who, why="")
    assert restore(journal, root=tmp_path / "root").restored == ()
    done = restore(
        journal, is_abandoned=lambda owner: owner.instance == "ended@sim0", root=tmp_path / "root"
    )
    assert [(o.target, o.to) for o in done.restored] == [("sim0", 8192)]
    assert [KNOB.read(disk) for disk in disks] == [8192, 64]


# A full disk

CLOSED, KILLED, NO_INDEX = "closed", "killed", "no index"


def leave(path: Path, disk: Target, how: str) -> None:
    """Change the knob, and end as said."""

    def die() -> None:
        with Journal(path) as journal:
            Actuator(journal, Policy(), root=disk.root).apply(KNOB, disk, 64, who="t@d", why="")
            if how != CLOSED:
                os._exit(0)

    assert in_child(die) == 0
    if how == NO_INDEX:
        path.with_name(f"{path.name}-shm").unlink()
    assert path.with_name(f"{path.name}-wal").exists() == (how != CLOSED)


@pytest.mark.kernel
@pytest.mark.fault
@pytest.mark.parametrize("how", [CLOSED, KILLED, NO_INDEX])
def test_a_full_disk_stops_no_restore(small: Path, disk: Target, how: str) -> None:
    path = small / "journal.db"
    leave(path, disk, how)
    assert KNOB.read(disk) == 64
    ballast = fill(small)
    with Journal.rescue(path) as journal:
        done = restore(journal, root=disk.root)
    assert [(o.found, o.to) for o in done.restored] == [(64, 16)]
    assert KNOB.read(disk) == 16
    assert "full" in str(done.unrecorded)
    ballast.unlink()
    with Journal(path) as journal:
        assert restore(journal, root=disk.root).unrecorded is None
        assert journal.open_changes() == []
        assert len(journal.history()) == 1


@pytest.mark.kernel
@pytest.mark.fault
@pytest.mark.parametrize("copy", stores.kept("journal"), ids=lambda copy: copy.stem)
def test_a_full_disk_stops_no_restore_from_an_earlier_version(
    small: Path, disk: Target, copy: Path
) -> None:
    path = stores.unpack(copy, small / "journal.db")
    ballast = fill(small)
    with Journal.rescue(path) as journal:
        done = restore(journal, root=disk.root)
    assert [(o.found, o.to) for o in done.restored] == [(16, 8192)]
    assert KNOB.read(disk) == 8192
    assert "full" in str(done.unrecorded)
    ballast.unlink()
    with Journal(path) as journal:
        assert restore(journal, root=disk.root).unrecorded is None
        assert journal.open_changes() == []


@pytest.mark.kernel
@pytest.mark.fault
def test_the_command_says_what_a_full_disk_kept_it_from(small: Path, spare: Target) -> None:
    before = KNOB.read(spare)
    leave(small / "journal.db", spare, CLOSED)
    fill(small)
    done = subprocess.run(
        [sys.executable, "-m", "kmind", "restore"],
        env={**os.environ, "KMIND_STATE_DIR": str(small)},
        capture_output=True,
        text=True,
    )
    assert KNOB.read(spare) == before
    assert done.stdout == f"{KNOB.name} of {spare}: 64 -> {before}\n"
    assert done.stderr.startswith(
        "kmind: the knobs are as said above, but the journal still shows them as changed: cannot"
    )
    assert "full" in done.stderr
    assert done.stderr.endswith("; then run kmind restore again\n")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
