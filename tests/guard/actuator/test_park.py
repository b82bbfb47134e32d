# SPDX-License-Identifier: Apache-2.0
"""Holding a knob at either of two values in turn, under one row of the journal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kmind.errors import KnobError
from kmind.guard import Actuator, Change, Journal, Policy, restore
from kmind.knobs import Target, Value, get_knob
from kmind.workloads.simulated_disk import make_disk_files

KNOB = get_knob("block.read_ahead_kb")


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return make_disk_files(tmp_path / "root", read_ahead_kb=128)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.db") as journal:
        yield journal


@pytest.fixture
def actuator(tmp_path: Path, journal: Journal) -> Actuator:
    return Actuator(journal, Policy(), root=tmp_path / "root")


def park(actuator: Actuator, target: Target, value: Value = 512) -> Change:
    return actuator.apply(KNOB, target, value, who="test@it", why="a test", parked=True)


def now(target: Target) -> Value:
    return KNOB.read(target)


def test_it_is_on_record_before_it_is_set(
    actuator: Actuator, journal: Journal, target: Target
) -> None:
    change = park(actuator, target)
    assert (now(target), change.state, change.old, change.new) == (128, "intended", 128, 512)
    for _ in range(3):
        actuator.resume(change)
        assert now(target) == 512
        actuator.resume(change)
        assert actuator.check() == []
        actuator.park(change)
        assert now(target) == 128
        assert actuator.check() == []
    (row,) = journal.history()
    assert (row.state, row.old, row.new) == ("applied", 128, 512)


@pytest.mark.parametrize("turn", ["before", "candidate", "incumbent"])
def test_it_goes_back_from_either_turn(
    actuator: Actuator, journal: Journal, target: Target, turn: str
) -> None:
    change = park(actuator, target)
    if turn != "before":
        actuator.resume(change)
    if turn == "incumbent":
        actuator.park(change)
    assert actuator.undo(change).state == "undone"
    assert (now(target), actuator.held, journal.open_changes()) == (128, [], [])
    # And another one can begin.
    second = park(actuator, target, 64)
    actuator.resume(second)
    assert now(target) == 64


@pytest.mark.parametrize("turn", [512, 128])
def test_restore_finds_either_of_them(
    actuator: Actuator, journal: Journal, target: Target, tmp_path: Path, turn: int
) -> None:
    change = park(actuator, target)
    actuator.resume(change)
    if turn == 128:
        actuator.park(change)
    done = restore(journal, Policy(), force=True, root=tmp_path / "root")
    assert [outcome.state for outcome in done.restored] == ["undone"]
    assert now(target) == 128


def test_what_stood_may_be_a_change_itself(
    actuator: Actuator, journal: Journal, target: Target
) -> None:
    first = actuator.apply(KNOB, target, 64, who="test@it", why="a test")
    second = park(actuator, target)
    assert now(target) == 64
    actuator.resume(second)
    actuator.park(second)
    assert now(target) == 64
    actuator.undo(second)
    assert actuator.held == [first]
    assert actuator.check() == []
    actuator.undo_all()
    assert now(target) == 128


@pytest.mark.parametrize("turn", [512, 128])
def test_somebody_else_s_value_is_not_written_over(
    actuator: Actuator, journal: Journal, target: Target, turn: int
) -> None:
    change = park(actuator, target)
    if turn == 512:
        actuator.resume(change)
    KNOB.write(target, 1000)
    with pytest.raises(KnobError, match="was set to 1000 by somebody else"):
        (actuator.park if turn == 512 else actuator.resume)(change)
    (gone,) = actuator.check()
    assert (gone.ours, gone.found) == (turn, 1000)
    assert now(target) == 1000
    assert journal.open_changes() == []


def test_another_value_has_to_wait(actuator: Actuator, target: Target) -> None:
    park(actuator, target)
    with pytest.raises(KnobError, match="is being measured"):
        actuator.apply(KNOB, target, 64, who="test@it", why="a test")


def test_what_is_not_the_last_cannot_be_parked(actuator: Actuator, target: Target) -> None:
    change = actuator.apply(KNOB, target, 64, who="test@it", why="a test")
    actuator.apply(KNOB, target, 256, who="test@it", why="a test")
    with pytest.raises(KnobError, match="is not the last"):
        actuator.park(change)


def test_what_disturbs_others_cannot_be_parked(actuator: Actuator, target: Target) -> None:
    with pytest.raises(KnobError, match="cannot be measured"):
        actuator.apply(
            get_knob("block.scheduler"), target, "none", who="test@it", why="a test", parked=True
        )


def test_of_two_that_are_joined_the_first_value_is_what_it_goes_back_to(
    actuator: Actuator, journal: Journal, target: Target
) -> None:
    first = actuator.apply(KNOB, target, 512, who="test@it", why="a test")
    parked = park(actuator, target, 256)
    actuator.resume(parked)
    joined = actuator.join(first, parked)
    assert (now(target), joined.id, joined.old, joined.new) == (256, parked.id, 128, 256)
    assert joined.state == "applied"
    assert actuator.held == [joined]
    assert journal.open_changes() == [joined]
    assert journal.history()[1].state == "undone"
    actuator.park(joined)
    assert (now(target), actuator.check()) == (128, [])
    actuator.resume(joined)
    assert (now(target), actuator.check()) == (256, [])
    assert actuator.undo(joined).state == "undone"
    assert (now(target), actuator.held, journal.open_changes()) == (128, [], [])
