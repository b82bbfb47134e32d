# SPDX-License-Identifier: Apache-2.0
"""``kmind restore`` where something else is wrong."""

import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import stores
from guard.support import in_child

from kmind.cli import restore as command
from kmind.errors import JournalError, PolicyError, PrivilegeError
from kmind.guard import Actuator, Journal, Policy, restore
from kmind.knobs import get_knob
from kmind.workloads.simulated_disk import make_disk_files

KNOB = get_knob("block.read_ahead_kb")


@pytest.mark.parametrize(
    "mistake",
    ['[knob."block.nomerges"\n', "x = " + "9" * 5000, "x = " + "[" * 3000, "\0", "forbidden = 1\n"],
    ids=["bracket", "digits", "nesting", "zero", "type"],
)
def test_a_policy_that_cannot_be_read_stops_no_undo(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mistake: str,
) -> None:
    disk = make_disk_files(tmp_path / "root")
    state = tmp_path / "state"
    monkeypatch.setenv("KMIND_STATE_DIR", str(state))
    monkeypatch.setattr("kmind.guard.policy._ADMIN", tmp_path / "policy.toml")
    monkeypatch.setattr(command, "restore", partial(restore, root=disk.root))
    monkeypatch.setattr(command, "os", SimpleNamespace(geteuid=lambda: 0))
    (tmp_path / "policy.toml").write_text(mistake)

    def die() -> None:
        actuator = Actuator(Journal(state / "journal.db"), Policy(), root=disk.root)
        actuator.apply(KNOB, disk, 16, who="t@d", why="")

    assert in_child(die) == 0
    assert KNOB.read(disk) == 16
    with pytest.raises(PolicyError):
        command.restore_command(json=False, force=False, dry_run=False)
    assert KNOB.read(disk) == 8192
    assert capsys.readouterr().out == "block.read_ahead_kb of sim0: 16 -> 8192\n"


def test_a_look_at_what_would_be_done_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = make_disk_files(tmp_path / "root")
    path = tmp_path / "state" / "journal.db"
    monkeypatch.setenv("KMIND_STATE_DIR", str(path.parent))
    monkeypatch.setattr(command, "os", SimpleNamespace(geteuid=lambda: 1000))
    with Journal(path) as journal:
        Actuator(journal, Policy(), root=disk.root).apply(KNOB, disk, 16, who="t@d", why="")
    before = path.read_bytes()
    assert command.restore_command(json=False, force=False, dry_run=True) == 0
    assert capsys.readouterr().out.startswith("would set block.read_ahead_kb of sim0 to 8192")
    assert (path.read_bytes(), KNOB.read(disk)) == (before, 16)
    with pytest.raises(PrivilegeError):
        command.restore_command(json=False, force=False, dry_run=False)


def test_a_journal_of_a_later_kmind_is_put_back_from_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = make_disk_files(tmp_path / "root")
    path = stores.unpack(stores.kept("journal")[-1], tmp_path / "state" / "journal.db")
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    KNOB.write(disk, 16)
    monkeypatch.setenv("KMIND_STATE_DIR", str(path.parent))
    monkeypatch.setattr(command, "restore", partial(restore, root=disk.root))
    monkeypatch.setattr(command, "os", SimpleNamespace(geteuid=lambda: 0))
    assert command.restore_command(json=False, force=False, dry_run=True) == 0
    assert capsys.readouterr().out.startswith("would set block.read_ahead_kb of sim0 to 8192")
    with pytest.raises(JournalError) as told:
        command.restore_command(json=False, force=False, dry_run=False)
    assert KNOB.read(disk) == 8192
    assert capsys.readouterr().out == "block.read_ahead_kb of sim0: 16 -> 8192\n"
    assert str(told.value) == (
        "the knobs are as said above, but the journal still shows them as changed: the journal in "
        f"{path} has version 99, and this kmind knows 2; use the kmind that wrote it, or move the "
        "file away"
    )
