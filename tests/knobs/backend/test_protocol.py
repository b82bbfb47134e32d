# SPDX-License-Identifier: Apache-2.0
"""A backend of a test's own: actuator, journal, restore and gate reach its knob through it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from guard.gate_support import FILE, PRESSURE, Admin

import kmind.guard.gate.gate
from kmind.errors import KmindError, KnobError, UsageError
from kmind.guard import Actuator, Change, Gate, Journal, Policy, restore
from kmind.guard.drift import find_standing
from kmind.knobs import Knob, Target, Value, all_knobs
from kmind.knobs._record import KnobRecord
from kmind.knobs.backend import Guard, SysctlGuard, SysfsGuard

SYSTEM = Target.system()


class Dial:
    """Levels that are no files. ``number`` is that of the device behind the name."""

    def __init__(self, guard: Guard | None = None) -> None:
        self.levels: dict[str, Value] = {"level": 3, "other": 3}
        self.number = 1
        self.broken: set[str] = set()
        self.way = guard

    def exists(self, knob: KnobRecord, target: Target) -> bool:
        return knob.path in self.levels

    def read(self, knob: KnobRecord, target: Target) -> Value:
        return self.levels[knob.path]

    def available(self, knob: KnobRecord, target: Target) -> tuple[str, ...]:
        return knob.choices

    def write(self, knob: KnobRecord, target: Target, value: Value) -> None:
        if value == 8:
            raise KnobError("the dial does not turn to 8")
        self.levels[knob.path] = value

    def check_writable(self, knob: KnobRecord, target: Target) -> None:
        raise KnobError("the dial is stuck")

    def guard(self, knob: KnobRecord, target: Target) -> Guard | None:
        return self.way

    def identity(self, knob: KnobRecord, target: Target) -> str:
        if knob.path in self.broken:
            raise KnobError("the dial does not answer")
        return f"dial {self.number}"

    def place(self, knob: KnobRecord, target: Target) -> str:
        return f"dial:{knob.path}"

    def show_command(self, knob: KnobRecord, target: Target) -> str:
        return f"dial show {knob.path}"

    def set_command(self, knob: KnobRecord, target: Target, text: str) -> str:
        return f"dial set {knob.path} {text}"


class PressureDial(Dial):
    """The same for a sysctl of the running kernel, with the guard that it needs."""

    def read(self, knob: KnobRecord, target: Target) -> Value:
        return PRESSURE.read(target)

    def write(self, knob: KnobRecord, target: Target, value: Value) -> None:
        PRESSURE.write(target, value)


def make(dial: Dial, path: str = "level", most: int = 9) -> Knob:
    return Knob(
        name=f"test.{path}", target="system", path=path, summary="a level", reference="none",
        minimum=0, maximum=most, backend=dial,
    )  # fmt: skip


@pytest.fixture
def dial() -> Dial:
    return Dial()


@pytest.fixture
def knob(dial: Dial, monkeypatch: pytest.MonkeyPatch) -> Knob:
    return known(monkeypatch, make(dial), make(dial, "other"))[0]


def known(monkeypatch: pytest.MonkeyPatch, *knobs: Knob) -> tuple[Knob, ...]:
    """Have the catalog hold these, too."""
    each = [*all_knobs(), *knobs]
    monkeypatch.setattr("kmind.knobs._BY_NAME", {knob.name: knob for knob in each})
    monkeypatch.setattr("kmind.knobs._BY_ID", {knob.id: knob for knob in each})
    return knobs


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.db") as opened:
        yield opened


def apply(journal: Journal, knob: Knob, value: Value) -> tuple[Actuator, Change]:
    actuator = Actuator(journal, Policy())
    return actuator, actuator.apply(knob, SYSTEM, value, who="test@system", why="a test")


def test_actuator_sets_and_undoes(dial: Dial, knob: Knob, journal: Journal) -> None:
    actuator, change = apply(journal, knob, 5)
    assert dial.levels == {"level": 5, "other": 3}
    assert actuator.undo(change).state == "undone"
    assert dial.levels == {"level": 3, "other": 3}


def test_actuator_puts_back_what_the_backend_refuses(
    dial: Dial, knob: Knob, journal: Journal
) -> None:
    with pytest.raises(KnobError, match="does not turn to 8"):
        apply(journal, knob, 8)
    assert dial.levels["level"] == 3
    assert [change.state for change in journal.history()] == ["failed"]


def test_actuator_yields_to_another_writer(dial: Dial, knob: Knob, journal: Journal) -> None:
    actuator, _ = apply(journal, knob, 5)
    dial.levels["level"] = 7
    assert [(each.knob, each.found) for each in actuator.check()] == [("test.level", 7)]
    assert dial.levels["level"] == 7


def test_journal_has_identity_and_way_back_of_the_backend(knob: Knob, journal: Journal) -> None:
    _, change = apply(journal, knob, 5)
    assert (change.identity, change.undo) == ("dial 1", "dial set level 3")
    assert [(each.state, each.found) for each in find_standing(journal)] == [("same", 5)]


def test_restore_puts_back_a_row_of_any_backend(dial: Dial, knob: Knob, journal: Journal) -> None:
    apply(journal, knob, 5)
    apply(journal, make(dial, "other"), 6)
    with Journal(journal.path) as later:  # the next process has only the file
        done = restore(later, force=True)
        assert later.open_changes() == []
    assert {each.knob for each in done.restored} == {"test.level", "test.other"}
    assert dial.levels == {"level": 3, "other": 3}


def test_restore_leaves_another_device_alone(dial: Dial, knob: Knob, journal: Journal) -> None:
    apply(journal, knob, 5)
    dial.number = 2
    assert [each.state for each in find_standing(journal)] == ["drifted"]
    assert [each.state for each in restore(journal, force=True).skipped] == ["expired"]
    assert dial.levels["level"] == 5


def test_restore_goes_on_past_a_backend_that_does_not_answer(
    dial: Dial, knob: Knob, journal: Journal
) -> None:
    apply(journal, knob, 5)
    apply(journal, make(dial, "other"), 6)
    dial.broken = {"level"}
    done = restore(journal, force=True)
    assert [each.knob for each in done.restored] == ["test.other"]
    assert [each.why for each in done.skipped] == ["the dial does not answer"]
    assert [change.knob for change in journal.open_changes()] == ["test.level"]
    dial.broken.clear()
    assert [each.knob for each in restore(journal, force=True).restored] == ["test.level"]


def test_drain_left_behind_is_ended_through_the_backend(
    dial: Dial, knob: Knob, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    drained = Knob(
        name="test.level", target="system", path="level", summary="", reference="", maximum=9,
        drain=0, backend=dial,
    )  # fmt: skip
    known(monkeypatch, drained)
    journal.begin_drain(drained, SYSTEM, 4)
    dial.levels["level"] = 0
    restore(journal, force=True)
    assert dial.levels["level"] == 4
    assert journal.drains() == []


@pytest.mark.parametrize("acts", [True, False])
def test_gate_covers_what_the_backend_has_a_guard_for(
    monkeypatch: pytest.MonkeyPatch, acts: bool
) -> None:
    monkeypatch.setattr(kmind.guard.gate.gate, "acts", lambda: acts)
    assert not Gate.covers(make(Dial()), SYSTEM)
    assert Gate.covers(make(Dial(SysctlGuard("vm/swappiness"))), SYSTEM)
    assert Gate.covers(make(Dial(SysfsGuard(Path("/sys/x")))), SYSTEM) is acts


def test_gate_refuses_what_has_no_guard(knob: Knob) -> None:
    with (
        Gate.open() as gate,
        pytest.raises(KnobError, match=r"test\.level cannot be gated: .* dial:level"),
    ):
        gate.guard(knob, SYSTEM, 3)


@pytest.mark.kernel("cgroup_sysctl", "cgroup2")
def test_gate_guards_by_what_the_backend_says(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = PRESSURE.read(SYSTEM)
    assert isinstance(before, int)
    dial = PressureDial(SysctlGuard("vm/vfs_cache_pressure"))
    (knob,) = known(monkeypatch, make(dial, most=1000))
    admin = Admin()
    actuator = Actuator(journal, Policy())
    try:
        actuator.apply(knob, SYSTEM, before + 1, who="test@system", why="", by_admin=True)
        with pytest.raises(KmindError):
            knob.write(SYSTEM, before + 2)
        assert knob.read(SYSTEM) == before + 1
        assert admin.write(before + 1, FILE) == 0  # our own value counts as well
        assert [each.knob for each in actuator.check()] == ["test.level"]
    finally:
        admin.close()
        actuator.undo_all()
        PRESSURE.write(SYSTEM, before)


def test_kind_of_target_and_value_are_checked_before_the_backend(dial: Dial, knob: Knob) -> None:
    disk = Target("block", "vda", 1)
    for act in (
        knob.read, knob.guard, knob.identity, knob.place, knob.show_command, knob.check_writable,
    ):  # fmt: skip
        with pytest.raises(UsageError, match="knob of a system target"):
            act(disk)
    assert not knob.exists(disk)
    with pytest.raises(UsageError, match="takes an integer"):
        knob.write(SYSTEM, "loud")
    assert dial.levels["level"] == 3
    with pytest.raises(KnobError, match="stuck"):
        knob.check_writable(SYSTEM)
