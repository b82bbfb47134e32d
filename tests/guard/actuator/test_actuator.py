# SPDX-License-Identifier: Apache-2.0
"""Applying and undoing on the real kernel, and what happens when somebody else interferes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from guard.changing import AFFINITY, MERGES, apply, states
from guard.support import in_child

from kmind.errors import KnobError, PolicyError, UsageError
from kmind.guard import Actuator, Journal, Policy, restore
from kmind.guard._carry import Carrier
from kmind.knobs import Target, get_knob

pytestmark = pytest.mark.kernel

REQUESTS = get_knob("block.nr_requests")
SCHEDULER = get_knob("block.scheduler")
PRESSURE = get_knob("vm.vfs_cache_pressure")


def test_a_change_is_made_and_is_on_record(
    actuator: Actuator, journal: Journal, spare: Target
) -> None:
    change = apply(actuator, spare, 2)
    assert MERGES.read(spare) == 2
    assert journal.open_changes() == [change] == actuator.held
    assert (change.old, change.new, change.state) == (0, 2, "applied")
    assert (change.knob, change.target) == ("block.nomerges", spare.name)
    assert change.identity == spare.identity()
    assert (change.why, change.evidence, change.rec_id) == ("a test", {"n": 1}, 7)
    owner = change.owner
    assert (owner.instance, owner.uid, owner.pid) == ("test@it", os.getuid(), os.getpid())
    assert owner.alive()
    assert abs(time.time() - change.time) < 3600


def test_the_undo_command_on_record_works(actuator: Actuator, spare: Target) -> None:
    change = apply(actuator, spare, 2)
    subprocess.run(["sh", "-c", change.undo], check=True)
    assert MERGES.read(spare) == 0


def test_undo_puts_back_what_was_there_before_that_change(
    actuator: Actuator, journal: Journal, spare: Target
) -> None:
    first, second = apply(actuator, spare, 1), apply(actuator, spare, 2)
    assert journal.baseline(MERGES.name, spare.name) == 0
    outcome = actuator.undo(second)
    assert (outcome.state, outcome.found, outcome.to) == ("undone", 2, 1)
    assert MERGES.read(spare) == 1
    assert actuator.held == [first]
    third = apply(actuator, spare, 2)
    actuator.undo(first)
    assert MERGES.read(spare) == 0
    assert actuator.held == []
    assert states(journal) == ["undone", "undone", "undone"]
    with pytest.raises(KnobError, match="is not held here"):
        actuator.undo(third)


def test_undo_all_is_by_instance(actuator: Actuator, spare: Target) -> None:
    actuator.apply(MERGES, spare, 2, who="a@x", why="")
    actuator.apply(AFFINITY, spare, 2, who="b@x", why="")
    assert [o.knob for o in actuator.undo_all("a@x")] == [MERGES.name]
    assert (MERGES.read(spare), AFFINITY.read(spare)) == (0, 2)
    assert [o.knob for o in actuator.undo_all()] == [AFFINITY.name]
    assert actuator.undo_all() == []
    assert AFFINITY.read(spare) == 1


def test_what_is_kept_is_the_first_value_from_then_on(
    actuator: Actuator, journal: Journal, spare: Target
) -> None:
    actuator.keep(apply(actuator, spare, 1))
    assert (actuator.held, journal.baseline(MERGES.name, spare.name)) == ([], None)
    apply(actuator, spare, 2)
    actuator.undo_all()
    assert MERGES.read(spare) == 1
    assert states(journal) == ["kept", "undone"]


def test_the_policy_is_checked_before_anything_is_written(
    actuator: Actuator, journal: Journal, spare: Target, system: Target
) -> None:
    with pytest.raises(PolicyError, match="allowed are 0 to 2"):
        apply(actuator, spare, 3)
    with pytest.raises(PolicyError, match=r"it must be < vm\.dirty_ratio, which is"):
        apply(actuator, system, 60, "vm.dirty_background_ratio")
    with pytest.raises(UsageError, match="knob of a block target"):
        apply(actuator, system, 1)
    assert journal.history() == []
    assert MERGES.read(spare) == 0


@pytest.mark.fault
def test_a_value_that_the_kernel_refuses_changes_nothing(
    actuator: Actuator, journal: Journal, spare: Target
) -> None:
    assert SCHEDULER.read(spare) == "none"
    before = REQUESTS.read(spare)
    with pytest.raises(KnobError, match="Invalid argument"):
        apply(actuator, spare, 2048, REQUESTS.name)
    assert REQUESTS.read(spare) == before
    assert (states(journal), actuator.held) == (["failed"], [])
    assert "Invalid argument" in journal.history()[0].remark


@pytest.mark.fault
def test_a_value_that_the_kernel_rounds_is_put_back(
    journal: Journal, spare: Target, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[knob."block.nr_requests"]\nmin = 1\nunsafe = true\n')
    actuator = Actuator(journal, Policy.load(policy))
    before = REQUESTS.read(spare)
    with pytest.raises(KnobError, match="reads 4 after 2 was written"):
        apply(actuator, spare, 2, REQUESTS.name)
    assert REQUESTS.read(spare) == before
    assert (states(journal), actuator.held) == (["failed"], [])


@pytest.mark.fault
def test_a_knob_that_somebody_else_set_is_yielded(
    actuator: Actuator, journal: Journal, spare: Target
) -> None:
    apply(actuator, spare, 1)
    assert actuator.check() == []
    MERGES.write(spare, 2)
    (found,) = actuator.check()
    assert (found.knob, found.target, found.ours, found.found) == (MERGES.name, spare.name, 1, 2)
    assert found.rec_id == 7
    assert states(journal) == ["yielded"]
    assert actuator.check() == []
    assert actuator.undo_all() == []
    with pytest.raises(KnobError, match="set to 2 by somebody else"):
        apply(actuator, spare, 0)
    assert MERGES.read(spare) == 2
    actuator.acquire(MERGES, spare)
    apply(actuator, spare, 0)
    assert journal.baseline(MERGES.name, spare.name) == 2
    actuator.undo_all()
    assert MERGES.read(spare) == 2


@pytest.mark.fault
def test_undo_and_apply_leave_what_somebody_else_set(
    actuator: Actuator, journal: Journal, spare: Target, system: Target
) -> None:
    change = apply(actuator, spare, 1)
    MERGES.write(spare, 2)
    outcome = actuator.undo(change)
    assert (outcome.state, outcome.found) == ("yielded", 2)
    assert MERGES.read(spare) == 2
    before = PRESSURE.read(system)
    assert isinstance(before, int)
    apply(actuator, system, before + 10, PRESSURE.name)
    # Of a sysctl the gate knows who writes: somebody else has to.
    assert in_child(lambda: PRESSURE.write(system, before + 20)) == 0
    with pytest.raises(KnobError, match="by somebody else"):
        apply(actuator, system, before + 30, PRESSURE.name)
    assert PRESSURE.read(system) == before + 20
    assert states(journal) == ["yielded", "yielded"]


@pytest.mark.fault
def test_a_baseline_that_somebody_else_put_back_is_yielded_too(
    actuator: Actuator, spare: Target
) -> None:
    apply(actuator, spare, 1)
    MERGES.write(spare, 0)
    assert [found.found for found in actuator.check()] == [0]


@pytest.mark.parametrize("by", ["undo", "undo_all", "restore"])
def test_a_scheduler_goes_back_with_what_it_disturbed(
    actuator: Actuator, journal: Journal, spare: Target, by: str
) -> None:
    SCHEDULER.write(spare, "mq-deadline")
    REQUESTS.write(spare, 100)
    change = apply(actuator, spare, "none", SCHEDULER.name)
    assert REQUESTS.read(spare) != 100, "the kernel is expected to reset it"
    assert {c.knob for c in actuator.held} == {
        SCHEDULER.name,
        REQUESTS.name,
        "block.wbt_lat_usec",
    }
    assert actuator.check() == []
    if by == "undo":
        assert actuator.undo(change).state == "undone"
    elif by == "undo_all":
        actuator.undo_all()
    else:
        assert restore(journal, force=True).skipped == ()
    assert (SCHEDULER.read(spare), REQUESTS.read(spare)) == ("mq-deadline", 100)
    assert journal.open_changes() == []


@pytest.mark.fault
@pytest.mark.parametrize("where", ["change", "undo"])
def test_killed_while_a_scheduler_changes_all_goes_back(
    journal: Journal, spare: Target, state: Path, where: str
) -> None:
    SCHEDULER.write(spare, "mq-deadline")
    REQUESTS.write(spare, 100)

    def die() -> None:
        # It is called once the scheduler is written, and nothing else yet.
        calls = iter(range(1 if where == "change" else 2))
        next(calls)
        Carrier.carry = lambda *_, **__: os._exit(0) if next(calls, None) is None else ""  # type: ignore[method-assign]
        actuator = Actuator(Journal(state), Policy())
        apply(actuator, spare, "none", SCHEDULER.name)
        actuator.undo_all()
        os._exit(1)

    assert in_child(die) == 0
    assert REQUESTS.read(spare) != 100
    assert SCHEDULER.read(spare) == ("none" if where == "change" else "mq-deadline")
    assert restore(journal).skipped == ()
    assert (SCHEDULER.read(spare), REQUESTS.read(spare)) == ("mq-deadline", 100)


def test_a_knob_that_was_ours_before_the_scheduler_disturbed_it_goes_back_too(
    actuator: Actuator, journal: Journal, spare: Target
) -> None:
    SCHEDULER.write(spare, "mq-deadline")
    REQUESTS.write(spare, 100)
    apply(actuator, spare, 64, REQUESTS.name)
    change = apply(actuator, spare, "none", SCHEDULER.name)
    actuator.undo(change)
    assert REQUESTS.read(spare) == 64
    assert actuator.check() == []
    actuator.undo_all()
    assert REQUESTS.read(spare) == 100
    assert journal.open_changes() == []


def test_keeping_a_scheduler_keeps_what_it_disturbed(
    actuator: Actuator, journal: Journal, spare: Target
) -> None:
    actuator.keep(apply(actuator, spare, "mq-deadline", SCHEDULER.name))
    after = REQUESTS.read(spare)
    assert (actuator.undo_all(), journal.open_changes()) == ([], [])
    assert (SCHEDULER.read(spare), REQUESTS.read(spare)) == ("mq-deadline", after)


@pytest.mark.fault
def test_a_knob_that_another_process_holds_is_refused(
    actuator: Actuator, journal: Journal, spare: Target, state: Path
) -> None:
    ready, done = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            apply(Actuator(Journal(state), Policy()), spare, 1)
            os.write(done, b".")
            signal.pause()
        finally:
            os._exit(1)
    try:
        assert os.read(ready, 1) == b"."
        with pytest.raises(KnobError, match=rf"is held by test@it \(pid {pid}\); stop it first"):
            apply(actuator, spare, 2)
        report = restore(journal)
        assert [o.why for o in report.skipped] == [f"held by test@it (pid {pid}), which is running"]
        assert MERGES.read(spare) == 1
    finally:
        os.kill(pid, signal.SIGKILL)
        # Not waited for yet: a zombie holds nothing.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(KnobError, match=r"is left behind by .* run: kmind restore"):
        apply(actuator, spare, 2)
    assert [o.to for o in restore(journal).restored] == [0]
    os.waitpid(pid, 0)
    os.close(ready)
    os.close(done)
    apply(actuator, spare, 2)
    actuator.undo_all()


@pytest.mark.fault
def test_a_restore_by_force_takes_the_knob_from_its_owner(
    actuator: Actuator, journal: Journal, spare: Target
) -> None:
    change = apply(actuator, spare, 1)
    report = restore(journal, force=True)
    assert [(o.knob, o.target, o.found, o.to) for o in report.restored] == [
        (MERGES.name, spare.name, 1, 0)
    ]
    assert [found.found for found in actuator.check()] == [0]
    with pytest.raises(KnobError, match="not held here"):
        actuator.undo(change)


@pytest.mark.fault
def test_what_a_restore_took_is_not_undone_once_more(
    actuator: Actuator, journal: Journal, spare: Target
) -> None:
    change = apply(actuator, spare, 1)
    restore(journal, force=True)
    MERGES.write(spare, 1)  # the admin's own, though it looks like ours
    with pytest.raises(KnobError, match="not held here"):
        actuator.undo(change)
    assert actuator.undo_all() == []
    assert MERGES.read(spare) == 1
