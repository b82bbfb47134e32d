# SPDX-License-Identifier: Apache-2.0
"""Exercise the gate for sysfs in a guest; test_lsm.py checks the results."""

from __future__ import annotations

import ctypes
import json
import os
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from guard.gate_support import Admin, living, readable, write

from kmind.agent.core.core import Core
from kmind.bpf.probe import probe
from kmind.errors import KmindError
from kmind.guard import Actuator, Gate, Journal, Policy
from kmind.guard.gate._lsm import acts
from kmind.knobs import Target, get_knob

__all__ = ["main"]

KNOB = get_knob("block.read_ahead_kb")
OTHER = get_knob("block.nomerges")
RATIO = get_knob("vm.dirty_ratio")
DISK, SPARE, SYSTEM = Target.block("ram0"), Target.block("ram1"), Target.system()
FILE = Path("/sys/block/ram0/queue/read_ahead_kb")
_RATIO_FILE = Path("/proc/sys/vm/dirty_ratio")
PINS = Path("/sys/fs/bpf/kmind-gate")
BASE = 128
_NEW_NET_AND_MOUNTS = 0x40000000 | 0x00020000  # CLONE_NEWNET, CLONE_NEWNS


def now() -> int:
    return int(FILE.read_text())


def tried(value: int | str) -> list[int]:
    """The error number of this process's write, and the value then."""
    return [write(value, FILE), now()]


def the_owner_writes_what_is_approved(admin: Admin) -> Any:
    with Gate.open() as gate:
        covered = gate.covers(KNOB, DISK)
        gate.guard(KNOB, DISK, BASE)
        refused = [tried(BASE + 4), tried(BASE), tried("")]
        beside = [write(2, Path("/sys/block/ram0/queue/nomerges")), OTHER.read(DISK)]
        beside += [write(64, Path(KNOB.place(SPARE))), KNOB.read(SPARE)]
        gate.approvals.approve(KNOB, DISK, BASE + 8)
        approved = tried(BASE + 8)
        gate.release(KNOB, DISK)
        return [covered, refused, beside, approved, tried(BASE)]


def to_put_back_takes_leave(admin: Admin) -> Any:
    with Gate.open() as gate:
        gate.guard(KNOB, DISK, BASE)
        gate.allow_return(KNOB, DISK)
        back = tried(BASE + 4)
        gate.end_returns()
        return [back, tried(BASE)]


def the_admin_writes_and_the_owner_is_told(admin: Admin) -> Any:
    with Gate.open() as gate:
        gate.guard(KNOB, DISK, BASE)
        gate.approvals.approve(KNOB, DISK, BASE + 8)
        quiet = readable(gate.fd)
        passed = [admin.write(BASE + 16, FILE), now(), readable(gate.fd, 5)]
        (event,) = gate.events()
        told = [event.file, event.own, event.pid == admin.pid, event.text]
        held_off = [gate.noticed(KNOB, DISK), tried(BASE + 8)]
        gate.settle(KNOB, DISK)
        return [quiet, passed, told, held_off, tried(BASE + 8)]


def a_write_by_another_mount_is_noticed(admin: Admin) -> Any:
    libc = ctypes.CDLL(None, use_errno=True)

    def elsewhere() -> bool:
        assert libc.unshare(_NEW_NET_AND_MOUNTS) == 0
        place = Path("/tmp/sys")
        place.mkdir()
        assert libc.mount(b"sysfs", bytes(place), b"sysfs", 0, None) == 0
        other = place / FILE.relative_to("/sys")
        assert other.stat().st_dev != FILE.stat().st_dev
        return write(BASE + 20, other) == 0

    with Gate.open() as gate:
        gate.guard(KNOB, DISK, BASE)
        with living(elsewhere) as pid:
            return [now(), [event.pid == pid for event in gate.events()], gate.noticed(KNOB, DISK)]


def the_actuator_yields_at_once(admin: Admin) -> Any:
    found: list[Any] = []
    for theirs in (BASE + 12, BASE + 4, "nonsense"):
        with Journal(Path(f"/run/journal-{theirs}")) as journal, Gate.open() as gate:
            actuator = Actuator(journal, Policy(), gate=gate)
            actuator.apply(KNOB, DISK, BASE + 4, who="test@it", why="a test")
            calm = [readable(actuator.fd), actuator.check()]
            wrote = admin.write(f"{theirs}", FILE)
            gone = [readable(actuator.fd, 5), *(y.found for y in actuator.check())]
            found.append([calm, wrote, gone, [str(o) for o in actuator.undo_all()], now()])
        write(BASE, FILE)
    return found


def the_actuator_parks_and_resumes(admin: Admin) -> Any:
    with Journal(Path("/run/journal-parked")) as journal, Gate.open() as gate:
        actuator = Actuator(journal, Policy(), gate=gate)
        change = actuator.apply(KNOB, DISK, BASE + 4, who="test@it", why="a test")
        stood = [now()]
        for turn in (actuator.park, actuator.resume, actuator.park):
            turn(change)
            stood.append(now())
        wrote = [admin.write(BASE, FILE), *(gone.found for gone in actuator.check())]
        return [stood, wrote, actuator.held]


def the_actuator_writes_what_agents_approved(admin: Admin) -> Any:
    def applied(value: int) -> str:
        try:
            actuator.apply(KNOB, DISK, value, who="test@it", why="a test")
        except KmindError as error:
            return str(error)
        return str(now())

    with (
        Core.private() as core,
        Journal(Path("/run/journal-approved")) as journal,
        Gate.open(core.approved_fd) as gate,
    ):
        actuator = Actuator(journal, Policy(), gate=gate)
        said = [applied(BASE + 4)]
        core.approvals.approve(KNOB.id, DISK.id, BASE + 8, BASE, slot=1)
        said += [applied(BASE + 4), applied(BASE + 8)]
        assert core.approvals.disapprove(KNOB.id, DISK.id)
        said += [str(tried(BASE + 12)), *(o.state for o in actuator.undo_all())]
        return [said, now(), tried(BASE + 4), tried(BASE)]


def a_pinned_gate_outlives_its_owner(admin: Admin) -> Any:
    def owner() -> Gate:
        first = Gate.adopt(PINS)
        first.guard(KNOB, DISK, BASE)
        first.approvals.approve(KNOB, DISK, BASE + 8)
        assert tried(BASE + 8) == [0, BASE + 8]
        return first

    with living(owner):
        pass
    wrote = [admin.write(BASE + 12, FILE), now()]
    with Gate.adopt(PINS) as second:
        told = [event.pid == admin.pid for event in second.events()]
        second.guard(KNOB, DISK, BASE, inherit=True)
        refused = tried(BASE + 8)
        second.settle(KNOB, DISK)
        passed = tried(BASE + 8)
    with Gate.adopt(PINS) as third:
        third.release_inherited()
        left = PINS.exists()
    return [wrote, told, refused, passed, left, tried(BASE)]


def what_was_left_is_put_back_by_who_takes_over(admin: Admin) -> Any:
    with Core.private() as core:

        def owner() -> Gate:
            first = Gate.adopt(PINS, core.approved_fd)
            first.guard(KNOB, DISK, BASE)
            return first

        with living(owner):
            pass
        with Gate.adopt(PINS, core.approved_fd) as second:
            found = [tried(BASE + 4)]
            second.guard(KNOB, DISK, BASE, inherit=True)
            found.append(tried(BASE))
            second.release(KNOB, DISK)
            second.release_inherited()
            return [*found, PINS.exists()]


def sysctls_and_sysfs_share_a_gate(admin: Admin) -> Any:
    with Gate.adopt(PINS) as gate:
        gate.guard(KNOB, DISK, BASE)
        gate.guard(RATIO, SYSTEM, 20)
        pinned = [sorted(path.name for path in PINS.iterdir() if "link" in path.name)]
        refused = [tried(BASE + 4), write(30, _RATIO_FILE)]
        gate.release(RATIO, SYSTEM)
        pinned.append([tried(BASE + 4), PINS.exists()])
    with Gate.adopt(PINS) as gate:
        refused.append(tried(BASE + 8))
        gate.guard(KNOB, DISK, BASE, inherit=True)
        refused.append(tried(BASE + 8))
        gate.release(KNOB, DISK)
        return [pinned, refused, PINS.exists()]


def cost_of_a_write(admin: Admin) -> Any:
    def once() -> float:
        fd = os.open("/dev/null", os.O_WRONLY)
        began = time.perf_counter()
        for _ in range(20_000):
            os.write(fd, b"x")
        os.close(fd)
        return (time.perf_counter() - began) / 20_000 * 1e9

    free = min(once() for _ in range(3))
    with Gate.open() as gate:
        gate.guard(KNOB, DISK, BASE)
        return [round(free), round(min(once() for _ in range(3)))]


TRIALS: tuple[Callable[[Admin], Any], ...] = (
    the_owner_writes_what_is_approved,
    to_put_back_takes_leave,
    the_admin_writes_and_the_owner_is_told,
    a_write_by_another_mount_is_noticed,
    the_actuator_yields_at_once,
    the_actuator_parks_and_resumes,
    the_actuator_writes_what_agents_approved,
    a_pinned_gate_outlives_its_owner,
    what_was_left_is_put_back_by_who_takes_over,
    sysctls_and_sysfs_share_a_gate,
    cost_of_a_write,
)


def main() -> dict[str, Any]:
    """The result of each trial by its name, or the trace of what went wrong."""
    found: dict[str, Any] = {"probe": probe("lsm").state, "acts": acts()}
    if not found["acts"]:
        with Gate.open() as gate:
            found["covers"] = gate.covers(KNOB, DISK), gate.covers(RATIO, SYSTEM)
        return found
    admin = Admin()
    for trial in TRIALS:
        write(BASE, FILE)
        try:
            found[trial.__name__] = trial(admin)
            json.dumps(found)
        except Exception:
            found[trial.__name__] = traceback.format_exc()
        with suppress(KmindError):
            Gate.discard(PINS)
    admin.close()
    return found
