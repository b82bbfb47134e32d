# SPDX-License-Identifier: Apache-2.0
"""Changes of dead processes: what is put back, and what is not."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from guard.changing import AFFINITY, MERGES, apply, states
from guard.support import in_child

from kmind.guard import Actuator, Journal, Owner, Policy, restore
from kmind.knobs import Target

pytestmark = pytest.mark.kernel


@pytest.mark.fault
@pytest.mark.parametrize("written", [False, True])
def test_a_change_cut_short_is_restored(
    journal: Journal, spare: Target, state: Path, written: bool
) -> None:
    def cut() -> None:
        with Journal(state) as mine:
            mine.intend(MERGES, spare, 0, 2, Owner.me("test@it"), why="")
            if written:
                MERGES.write(spare, 2)

    assert in_child(cut) == 0
    report = restore(journal)
    assert [(o.found, o.to) for o in report.restored] == [(2 if written else 0, 0)]
    assert MERGES.read(spare) == 0
    assert states(journal) == ["undone"]


@pytest.mark.fault
def test_a_change_cut_short_and_overwritten_is_yielded(
    journal: Journal, spare: Target, state: Path
) -> None:
    assert in_child(lambda: apply(Actuator(Journal(state), Policy()), spare, 1) and None) == 0
    MERGES.write(spare, 2)
    report = restore(journal)
    assert report.restored == ()
    assert [o.why for o in report.skipped] == ["set to 2 by somebody else; we had set 1"]
    assert (MERGES.read(spare), states(journal)) == (2, ["yielded"])
    assert restore(journal).skipped == ()


def test_the_policy_may_keep_what_a_dead_daemon_set(
    journal: Journal, spare: Target, state: Path, tmp_path: Path
) -> None:
    file = tmp_path / "policy.toml"
    file.write_text('[knob."block.nomerges"]\non_daemon_death = "keep"\n')

    def die() -> None:
        actuator = Actuator(Journal(state), Policy())
        apply(actuator, spare, 1)
        apply(actuator, spare, 2, AFFINITY.name)

    assert in_child(die) == 0
    report = restore(journal, Policy.load(file))
    assert [o.knob for o in report.kept] == [MERGES.name]
    assert [o.knob for o in report.restored] == [AFFINITY.name]
    assert (MERGES.read(spare), AFFINITY.read(spare)) == (1, 1)
    assert restore(journal).restored == ()


@pytest.mark.fault
def test_rows_of_an_earlier_boot_restore_nothing(
    journal: Journal, spare: Target, state: Path
) -> None:
    assert in_child(lambda: apply(Actuator(Journal(state), Policy()), spare, 1) and None) == 0
    with sqlite3.connect(state) as db:
        db.execute("UPDATE change SET boot = 'before'")
    db.close()
    report = restore(journal)
    assert (report.restored, report.skipped) == ((), ())
    assert (MERGES.read(spare), states(journal)) == (1, ["expired"])


@pytest.mark.fault
@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("target", "gone0", "gone0 is gone"),
        ("identity", "7:7 serial=other", "is another device now"),
    ],
)
def test_a_device_that_is_gone_expires(
    journal: Journal, spare: Target, state: Path, column: str, value: str, why: str
) -> None:
    assert in_child(lambda: apply(Actuator(Journal(state), Policy()), spare, 1) and None) == 0
    with sqlite3.connect(state) as db:
        db.execute(f"UPDATE change SET {column} = ?", (value,))
    db.close()
    (left,) = restore(journal).skipped
    assert left.state == "expired"
    assert why in left.why
    assert MERGES.read(spare) == 1


@pytest.mark.fault
def test_a_knob_of_another_release_is_skipped(journal: Journal, spare: Target, state: Path) -> None:
    assert in_child(lambda: apply(Actuator(Journal(state), Policy()), spare, 1) and None) == 0
    with sqlite3.connect(state) as db:
        db.execute("UPDATE change SET knob = 'block.future'")
    db.close()
    assert "unknown knob 'block.future'" in restore(journal).skipped[0].why
    assert states(journal) == ["applied"]
