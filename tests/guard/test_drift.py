# SPDX-License-Identifier: Apache-2.0
"""Knobs' values against those that the journal says we set."""

from pathlib import Path

import pytest

from kmind.guard import Actuator, Journal, Owner, Policy, find_standing
from kmind.knobs import Target, get_knob

KNOB = get_knob("block.nr_requests")


@pytest.fixture
def disk(tmp_path: Path) -> Target:
    queue = tmp_path / "sys/block/sda/queue"
    queue.mkdir(parents=True)
    (queue.parent / "dev").write_text("8:0\n")
    (queue / "nr_requests").write_text("64\n")
    return Target.block("sda", root=tmp_path)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.db")


def states(journal: Journal, disk: Target) -> list[tuple[str, object]]:
    return [(each.state, each.found) for each in find_standing(journal, root=disk.root)]


def test_what_was_kept_is_compared(journal: Journal, disk: Target) -> None:
    assert states(journal, disk) == []
    actuator = Actuator(journal, Policy(), root=disk.root)
    actuator.keep(actuator.apply(KNOB, disk, 128, who="admin", why="by hand"))
    assert states(journal, disk) == [("same", 128)]
    KNOB.write(disk, 256)
    assert states(journal, disk) == [("drifted", 256)]


def test_a_change_that_was_undone_leaves_what_was_kept_before(
    journal: Journal, disk: Target
) -> None:
    actuator = Actuator(journal, Policy(), root=disk.root)
    actuator.keep(actuator.apply(KNOB, disk, 128, who="admin", why="by hand"))
    actuator.apply(KNOB, disk, 512, who="x@sda", why="y")
    assert states(journal, disk) == [("same", 512)]
    actuator.undo_all()
    assert states(journal, disk) == [("same", 128)]


def test_a_running_owner_may_stand_at_either_value(journal: Journal, disk: Target) -> None:
    Actuator(journal, Policy(), root=disk.root).apply(KNOB, disk, 128, who="x@sda", why="y")
    KNOB.write(disk, 64)
    assert states(journal, disk) == [("measured", 64)]
    KNOB.write(disk, 65)
    assert states(journal, disk) == [("drifted", 65)]


def test_what_a_dead_owner_left_is_named(journal: Journal, disk: Target) -> None:
    ended = Owner("x@sda", 0, 1 << 22, 1)
    change = journal.intend(KNOB, disk, 64, 128, ended, why="y")
    journal.applied(change, 128)
    assert states(journal, disk) == [("drifted", 64)]
    KNOB.write(disk, 128)
    assert states(journal, disk) == [("left", 128)]


def test_what_somebody_else_took_is_no_longer_ours(journal: Journal, disk: Target) -> None:
    actuator = Actuator(journal, Policy(), root=disk.root)
    actuator.apply(KNOB, disk, 128, who="x@sda", why="y")
    KNOB.write(disk, 256)
    assert actuator.check()
    assert states(journal, disk) == []


def test_a_device_that_has_gone_says_so(journal: Journal, disk: Target) -> None:
    actuator = Actuator(journal, Policy(), root=disk.root)
    actuator.keep(actuator.apply(KNOB, disk, 128, who="admin", why="by hand"))
    (disk.root / "sys/block/sda/dev").write_text("8:16\n")
    found = find_standing(journal, root=disk.root)
    assert [(each.state, each.found) for each in found] == [("drifted", None)]
    assert found[0].why == "sda is another device now"
