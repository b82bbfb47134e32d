# SPDX-License-Identifier: Apache-2.0
"""The actuator under the gate: what is held is guarded, and yielded to whoever writes to it."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from guard.gate_support import HASH, INTERVAL, PRESSURE, RATIO, Admin, living, now, readable, write
from guard.support import in_child

from kmind.agent.core.core import Core
from kmind.bpf import _syscall as raw
from kmind.errors import KnobError
from kmind.guard import Actuator, Gate, Journal, Policy, restore
from kmind.guard.gate._layout import APPROVALS, APPROVED, key_of
from kmind.knobs import Knob, Target, get_knob

pytestmark = pytest.mark.kernel("cgroup_sysctl", "cgroup2")

MERGES = get_knob("block.nomerges")


@pytest.fixture
def actuator(journal: Journal, system: Target) -> Iterator[Actuator]:
    acting = Actuator(journal, Policy())
    yield acting
    acting.undo_all()


def apply(actuator: Actuator, value: int, knob: Knob = PRESSURE, *, by_admin: bool = False) -> None:
    system = Target.system()
    actuator.apply(knob, system, value, who="test@it", why="a test", rec_id=7, by_admin=by_admin)


def test_a_sysctl_is_guarded_while_it_is_held(
    actuator: Actuator, system: Target, base: int
) -> None:
    apply(actuator, base + 1)
    assert (now(), write(base + 2), now()) == (base + 1, errno.EPERM, base + 1)
    apply(actuator, base + 2)
    assert now() == base + 2
    second = actuator.held[-1]
    assert actuator.undo(second).state == "undone"
    assert now() == base + 1
    actuator.undo_all()
    assert (now(), write(base + 9), now()) == (base, 0, base + 9)


def test_what_is_measured_passes_the_gate_in_turns(
    actuator: Actuator, system: Target, admin: Admin, base: int
) -> None:
    apply(actuator, base + 1)
    change = actuator.apply(
        PRESSURE, system, base + 2, who="test@it", why="a test", by_admin=True, parked=True
    )
    for _ in range(2):
        assert now() == base + 1
        actuator.resume(change)
        assert now() == base + 2
        actuator.park(change)
    assert admin.write(base + 1) == 0  # our very value
    with pytest.raises(KnobError, match="by somebody else"):
        actuator.resume(change)
    assert [gone.found for gone in actuator.check()] == [base + 1]


def test_what_was_approved_meanwhile_is_not_overwritten(
    actuator: Actuator, system: Target, base: int
) -> None:
    change = actuator.apply(
        PRESSURE, system, base + 2, who="test@it", why="a test", by_admin=True, parked=True
    )
    actuator.resume(change)
    key = key_of(PRESSURE, system)
    row = APPROVED.pack(PRESSURE.encode(base + 3), base, 1, 9, 1)
    actuator._gated._gate._map(APPROVALS).update(key, row)
    with pytest.raises(KnobError, match="was approved meanwhile"):
        actuator.park(change)


def test_what_is_kept_is_guarded_no_more(actuator: Actuator, base: int) -> None:
    apply(actuator, base + 1)
    actuator.keep(actuator.held[0])
    assert (write(base + 2), now()) == (0, base + 2)


@pytest.mark.fault
@pytest.mark.parametrize("same", [False, True], ids=["another value", "our very value"])
def test_the_actuator_yields_at_once(
    actuator: Actuator, journal: Journal, admin: Admin, base: int, same: bool
) -> None:
    apply(actuator, base + 1)
    theirs = base + 1 if same else base + 2
    assert not readable(actuator.fd)
    assert admin.write(theirs) == 0
    assert readable(actuator.fd, 5)
    (gone,) = actuator.check()
    assert (gone.knob, gone.ours, gone.found, gone.rec_id) == (PRESSURE.name, base + 1, theirs, 7)
    assert gone.by == f"{admin_comm()}, pid {admin.pid}"
    assert [change.state for change in journal.history()] == ["yielded"]
    assert not readable(actuator.fd)
    assert actuator.undo_all() == []
    assert now() == theirs
    with pytest.raises(KnobError, match="somebody else"):
        apply(actuator, base + 3)
    # It is nobody's now.
    assert (write(base + 4), now()) == (0, base + 4)


def admin_comm() -> str:
    return Path(sys.executable).name[:15]


@pytest.mark.fault
@pytest.mark.parametrize("how", ["undo", "undo_all", "apply"])
def test_our_very_value_written_by_the_admin_stays(
    actuator: Actuator, journal: Journal, admin: Admin, base: int, how: str
) -> None:
    apply(actuator, base + 1)
    assert admin.write(base + 1) == 0
    if how == "apply":
        with pytest.raises(KnobError, match=f"somebody else, {admin_comm()}, pid {admin.pid}"):
            apply(actuator, base + 2)
    else:
        change = actuator.held[0]
        outcomes = [actuator.undo(change)] if how == "undo" else actuator.undo_all()
        assert [(o.state, o.found) for o in outcomes] == [("yielded", base + 1)]
    assert (now(), actuator.held) == (base + 1, [])
    assert [change.state for change in journal.history()] == ["yielded"]


@pytest.mark.fault
@pytest.mark.parametrize("text", ["-1", "nonsense", "99999999999999999999"])
def test_a_write_that_the_kernel_refuses_ends_nothing(
    actuator: Actuator, admin: Admin, base: int, text: str
) -> None:
    apply(actuator, base + 1)
    assert admin.write(text) == errno.EINVAL
    assert actuator.check() == []
    apply(actuator, base + 2)
    assert admin.write(text) == errno.EINVAL
    assert [outcome.state for outcome in actuator.undo_all()] == ["undone"]
    assert now() == base


@pytest.mark.fault
def test_dirty_bytes_takes_dirty_ratio_from_us(
    actuator: Actuator, admin: Admin, system: Target
) -> None:
    ratio = RATIO.read(system)
    if not ratio or not isinstance(ratio, int):
        pytest.skip("vm.dirty_bytes is in force")
    apply(actuator, ratio + 1, RATIO)
    try:
        assert admin.write(1 << 30, Path("/proc/sys/vm/dirty_bytes")) == 0
        assert readable(actuator.fd, 5)
        assert [(gone.knob, gone.found) for gone in actuator.check()] == [(RATIO.name, 0)]
    finally:
        Path(RATIO.place(system)).write_text(str(ratio))


@pytest.mark.fault
def test_restore_by_another_process_passes_and_is_yielded_to(
    actuator: Actuator, state: Path, base: int
) -> None:
    apply(actuator, base + 1)

    def force() -> None:
        with Journal(state) as journal:
            assert [o.to for o in restore(journal, force=True).restored] == [base]

    assert in_child(force) == 0
    assert readable(actuator.fd, 5)
    assert [gone.found for gone in actuator.check()] == [base]
    assert now() == base


@pytest.mark.fault
def test_an_actuator_that_was_killed_is_restored(
    journal: Journal, state: Path, system: Target, base: int
) -> None:
    def owner() -> Actuator:
        mine = Actuator(Journal(state), Policy())
        apply(mine, base + 1)
        return mine

    with living(owner):
        pass
    assert now() == base + 1
    assert [outcome.to for outcome in restore(journal).restored] == [base]
    assert now() == base


@pytest.mark.fault
def test_what_cannot_be_gated_is_not_written(
    journal: Journal, spare: Target, system: Target, base: int, tmp_path: Path
) -> None:
    actuator = Actuator(journal, Policy(), gate=Gate.open(root=tmp_path))
    with pytest.raises(KnobError, match=r"vm\.vfs_cache_pressure cannot be gated: .*only reads it"):
        apply(actuator, base + 1)
    assert (now(), actuator.held, journal.history()) == (base, [], [])
    change = actuator.apply(MERGES, spare, 2, who="test@it", why="")
    assert MERGES.read(spare) == 2
    actuator.undo(change)


@pytest.mark.fault
def test_the_actuator_writes_only_what_agents_approved(
    journal: Journal, system: Target, base: int
) -> None:
    with (
        raw.owned(raw.map_create(HASH, 8, APPROVED.size, 8)) as approvals,
        Gate.open(approvals) as gate,
    ):
        actuator = Actuator(journal, Policy(), gate=gate)

        def agent_approves(value: int) -> None:
            raw.map_update(approvals, key_of(PRESSURE, system), APPROVED.pack(value, base, 1, 7, 5))

        with pytest.raises(KnobError, match="is not approved; no agent has approved a value"):
            apply(actuator, base + 1)
        agent_approves(base + 2)
        with pytest.raises(KnobError, match=f"is not approved; {base + 2} came later"):
            apply(actuator, base + 1)
        assert (now(), journal.history()) == (base, [])
        apply(actuator, base + 2)
        assert now() == base + 2
        agent_approves(base + 3)
        apply(actuator, base + 3)
        actuator.undo(actuator.held[-1])
        assert now() == base + 2
        apply(actuator, base + 9, by_admin=True)
        assert now() == base + 9
        actuator.undo_all()
        assert now() == base


def test_it_reads_what_stands_approved_in_the_core(system: Target, base: int) -> None:
    with Core.private() as core, Gate.open(core.approved_fd) as gate:
        gate.guard(PRESSURE, system, base)
        assert write(base + 1) == errno.EPERM
        core.approvals.approve(PRESSURE.id, system.id, base + 1, base, slot=1)
        assert gate.approvals.claim(PRESSURE, system, base + 1)
        assert (write(base + 2), now()) == (errno.EPERM, base)
        assert (write(base + 1), now()) == (0, base + 1)
        gate.release(PRESSURE, system)
        assert core.approvals.all() == {}


@pytest.mark.fault
def test_two_actuators_share_a_gate(
    journal: Journal, admin: Admin, system: Target, base: int
) -> None:
    value = INTERVAL.read(system)
    assert isinstance(value, int)
    with Gate.open() as gate:
        one, two = (Actuator(journal, Policy(), gate=gate) for _ in range(2))
        apply(one, base + 1)
        apply(two, value + 1, INTERVAL)
        assert admin.write(base + 2) == 0
        assert admin.write(value + 2, Path(INTERVAL.place(system))) == 0
        assert [gone.knob for gone in two.check()] == [INTERVAL.name]
        assert [gone.knob for gone in one.check()] == [PRESSURE.name]


@pytest.mark.fault
def test_events_that_were_lost_are_not_missed(actuator: Actuator, admin: Admin, base: int) -> None:
    apply(actuator, base + 1)
    for turn in range(1000):
        assert admin.write(base + turn % 2 + 2) == 0
    assert admin.write(base + 9) == 0
    assert [gone.found for gone in actuator.check()] == [base + 9]
    assert not readable(actuator.fd)


@pytest.mark.fault
def test_a_notice_without_its_event_blocks_nothing_for_good(
    journal: Journal, admin: Admin, base: int
) -> None:
    with Gate.open() as gate:
        actuator = Actuator(journal, Policy(), gate=gate)
        apply(actuator, base + 1)
        assert admin.write("nonsense") == errno.EINVAL
        gate.events()  # as when its owner died over it
        assert [outcome.state for outcome in actuator.undo_all()] == ["undone"]
        assert now() == base


@pytest.fixture
def left_behind(pins: Path, journal: Journal, state: Path, base: int) -> Path:
    """The folder of a gate whose owner holds vm.vfs_cache_pressure, and is dead."""

    def owner() -> Actuator:
        mine = Actuator(Journal(state), Policy(), gate=Gate.adopt(pins))
        apply(mine, base + 1)
        return mine

    with living(owner):
        pass
    return pins


@pytest.mark.fault
@pytest.mark.parametrize("written", [None, "same", "other", "refused"])
def test_a_daemon_that_takes_over_learns_what_happened_meanwhile(
    left_behind: Path, journal: Journal, admin: Admin, base: int, written: str | None
) -> None:
    texts: dict[str, int | str] = {"same": base + 1, "other": base + 2, "refused": "nonsense"}
    if written:
        assert admin.write(texts[written]) == (errno.EINVAL if written == "refused" else 0)
    with Gate.adopt(left_behind) as gate:
        actuator = Actuator(journal, Policy(), gate=gate)
        assert [change.new for change in actuator.adopt("test@it")] == [base + 1]
        gate.release_inherited()
        assert left_behind.exists()
        gone = [found.found for found in actuator.check()]
        if written in ("same", "other"):
            assert gone == [texts[written]] == [now()]
        else:
            assert gone == []
            assert (write(base + 5), now()) == (errno.EPERM, base + 1)
            apply(actuator, base + 3)
            actuator.undo_all()
            assert now() == base
        assert not left_behind.exists()


@pytest.mark.fault
def test_a_daemon_that_does_not_take_over_restores(
    left_behind: Path, journal: Journal, admin: Admin, base: int
) -> None:
    assert admin.write("nonsense") == errno.EINVAL
    with Gate.adopt(left_behind) as gate:
        gate.release_inherited()
        assert not left_behind.exists()
        assert [outcome.to for outcome in restore(journal).restored] == [base]
        assert now() == base


@pytest.mark.fault
def test_what_was_inherited_does_not_bind_a_new_change(
    left_behind: Path, journal: Journal, base: int
) -> None:
    with Gate.adopt(left_behind) as gate:
        assert [outcome.to for outcome in restore(journal).restored] == [base]
        assert in_child(lambda: (write(base + 4) == 0) or os._exit(2)) == 0
        actuator = Actuator(journal, Policy(), gate=gate)
        apply(actuator, base + 5)
        actuator.undo_all()
        assert now() == base + 4
