# SPDX-License-Identifier: Apache-2.0
"""Traces of dead owners are removed, also if the next one cannot begin."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from guard.support import in_child

from kmind.errors import JournalError, KmindError
from kmind.events import Event, Restored
from kmind.guard import Actuator, Journal, Policy, restore
from kmind.knobs import get_knob
from kmind.runtime import cleanup
from kmind.workloads.simulated_disk import make_disk_files

KNOB = get_knob("block.read_ahead_kb")


class Left:
    """A knob that a dead process left changed, with its journal."""

    def __init__(self, folder: Path) -> None:
        self.disk = make_disk_files(folder / "root")
        self.path = folder / "state" / "journal.db"
        self.events: list[Event] = []
        self.change()

    def change(self) -> None:
        def die() -> None:
            actuator = Actuator(Journal(self.path), Policy(), root=self.disk.root)
            actuator.apply(KNOB, self.disk, 16, who="t@d", why="")

        assert in_child(die) == 0
        assert KNOB.read(self.disk) == 16

    @property
    def restored(self) -> list[object]:
        return [event.value for event in self.events if isinstance(event, Restored)]


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Left:
    left = Left(tmp_path)
    monkeypatch.setenv("KMIND_STATE_DIR", str(left.path.parent))
    monkeypatch.setattr(cleanup, "restore", partial(restore, root=left.disk.root))
    return left


def test_an_owner_puts_back_by_its_own_journal(left: Left) -> None:
    with (
        cleanup.restoring(None, left.events.append) as put_back,
        Journal() as journal,
    ):
        put_back(journal)
        assert journal.open_changes() == []
    assert left.restored == [8192]
    assert KNOB.read(left.disk) == 8192


def test_an_owner_that_cannot_begin_puts_back_all_the_same(left: Left) -> None:
    with Journal() as journal:
        journal._db.execute("PRAGMA user_version = 99")
    with (
        pytest.raises(JournalError, match="has version 99"),
        cleanup.restoring(None, left.events.append),
        Journal(),
    ):
        pytest.fail("it began")
    assert left.restored == [8192]
    assert KNOB.read(left.disk) == 8192


def test_an_error_after_it_is_no_reason_to_do_it_twice(left: Left) -> None:
    def owner() -> None:
        with cleanup.restoring(None, left.events.append) as put_back, Journal() as journal:
            put_back(journal)
            left.change()
            raise KmindError("something else")

    with pytest.raises(KmindError, match="something else"):
        owner()
    assert left.restored == [8192]
    assert KNOB.read(left.disk) == 16


def test_what_cannot_be_put_back_either_leaves_the_first_error(left: Left) -> None:
    left.path.write_bytes(b"nonsense" * 1000)
    for part in ("-wal", "-shm"):
        left.path.with_name(f"journal.db{part}").unlink(missing_ok=True)
    with (
        pytest.raises(KmindError, match="the first"),
        cleanup.restoring(None, left.events.append),
    ):
        raise KmindError("the first")
    assert left.events == []
