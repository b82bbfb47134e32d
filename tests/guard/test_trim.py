# SPDX-License-Identifier: Apache-2.0
"""The journal grows no more while it is written to."""

from pathlib import Path

import pytest

from kmind.guard import Journal, Owner
from kmind.guard import journal as module
from kmind.knobs import get_knob
from kmind.workloads.simulated_disk import make_disk_files

KNOB = get_knob("block.read_ahead_kb")


def test_old_rows_go_while_new_ones_come(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, me = make_disk_files(tmp_path / "root"), Owner.me("a@b")
    held = journal.intend(KNOB, target, 128, 16, me, why="it stays open")
    for _ in range(60):
        journal.finish([journal.intend(KNOB, target, 16, 32, me, why="")], "undone")
    monkeypatch.setattr(module, "_KEPT_ROWS", 20)
    for _ in range(40):
        journal.finish([journal.intend(KNOB, target, 16, 32, me, why="")], "undone")
    rows = journal.history(1000)
    assert len(rows) <= 22
    assert rows[-1].id == held.id  # what is held stays, however old
    assert journal.open_changes()[0].id == held.id
