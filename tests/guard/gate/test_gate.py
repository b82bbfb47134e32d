# SPDX-License-Identifier: Apache-2.0
"""The gate on the real kernel: who may write what to a sysctl, who notices, what survives."""

from __future__ import annotations

import errno
import gc
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from guard.gate_support import (
    FILE,
    HASH,
    INTERVAL,
    PRESSURE,
    RATIO,
    Admin,
    living,
    now,
    readable,
    write,
)
from guard.support import in_child
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kmind.guard.gate.gate
from kmind.bpf import _syscall as raw
from kmind.bpf import obj_pin, open_map
from kmind.errors import BpfError, KnobError
from kmind.guard import Gate, GateEvent
from kmind.guard.gate._cgroup2 import cgroup2_root
from kmind.guard.gate._layout import APPROVALS, APPROVED, HELD, HOLDS, OWNER, key_of
from kmind.knobs import Target

pytestmark = pytest.mark.kernel("cgroup_sysctl", "cgroup2")


@pytest.fixture
def gate(system: Target, base: int) -> Iterator[Gate]:
    """One that guards vm.vfs_cache_pressure."""
    with Gate.open() as opened:
        opened.guard(PRESSURE, system, base)
        yield opened


# The program


def test_the_owner_writes_the_baseline_and_nothing_else(gate: Gate, base: int) -> None:
    assert (write(base + 1), now()) == (errno.EPERM, base)
    assert (write(base), now()) == (0, base)
    assert gate.events() == []


def test_the_owner_writes_what_is_approved_and_anything_else_is_refused(
    gate: Gate, system: Target, base: int
) -> None:
    gate.approvals.approve(PRESSURE, system, base + 7)
    assert gate.approvals.current(PRESSURE, system) == base + 7
    assert (write(base + 7), now()) == (0, base + 7)
    assert (write(base), now()) == (0, base)
    assert (write(base + 8), now()) == (errno.EPERM, base)


@pytest.mark.parametrize(
    ("text", "lands"),
    [("{}", 1), (" {}", 1), ("{} \n", 1), ("0x{:x}", 0), ("{}x", 0), ("{0} {0}", 0), ("x", 0)],
)
def test_only_a_plain_number_counts_as_the_baseline(
    gate: Gate, system: Target, base: int, text: str, lands: bool
) -> None:
    gate.approvals.approve(PRESSURE, system, base + 7)
    assert write(base + 7) == 0
    assert write(text.format(base)) == (0 if lands else errno.EPERM)
    assert now() == (base if lands else base + 7)


def test_the_owner_writes_nothing_in_parts(gate: Gate, base: int) -> None:
    fd = os.open(FILE, os.O_WRONLY)
    try:
        with pytest.raises(PermissionError):
            os.pwrite(fd, f"{base}\n".encode(), 1)
    finally:
        os.close(fd)
    assert (gate.events(), now()) == ([], base)


def test_all_threads_of_the_owner_are_the_owner(gate: Gate, base: int) -> None:
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(write(base + 1)))
    thread.start()
    thread.join()
    assert (results, now()) == ([errno.EPERM], base)


def test_a_process_that_got_the_owners_number_later_is_an_outsider(gate: Gate, base: int) -> None:
    owners = gate._map(OWNER)
    row = owners.lookup(bytes(4))
    assert row is not None
    start, rest = int.from_bytes(row[:8], sys.byteorder), row[8:]
    owners.update(bytes(4), (start - 1).to_bytes(8, sys.byteorder) + rest)
    assert (write(base + 1), now()) == (0, base + 1)
    assert [event.pid for event in gate.events()] == [os.getpid()]


def test_a_child_of_the_owner_is_an_outsider(gate: Gate, base: int) -> None:
    assert in_child(lambda: (write(base + 1) == 0) or os._exit(2)) == 0
    assert now() == base + 1
    assert len(gate.events()) == 1


def test_the_admin_writes_and_the_owner_is_told(
    gate: Gate, admin: Admin, system: Target, base: int
) -> None:
    gate.approvals.approve(PRESSURE, system, base + 7)
    assert not readable(gate.fd)
    before = time.monotonic_ns()
    assert (admin.write(base + 1), now()) == (0, base + 1)
    assert readable(gate.fd, 5)
    (event,) = gate.events()
    assert before <= event.time_ns <= time.monotonic_ns()
    assert (event.knob, event.target) == (PRESSURE.id, system.id)
    assert (event.file, event.own, event.pid) == ("vm/vfs_cache_pressure", True, admin.pid)
    assert event.text == f"{base + 1}\n"
    assert event.sets(base + 1)
    assert not event.sets(base)
    assert not readable(gate.fd)


def test_after_the_admin_the_owner_writes_nothing_until_he_settles(
    gate: Gate, admin: Admin, system: Target, base: int
) -> None:
    gate.approvals.approve(PRESSURE, system, base + 7)
    assert admin.write(base + 1) == 0
    for value in (base, base + 7, base + 9):
        assert (write(value), now()) == (errno.EPERM, base + 1)
    gate.settle(PRESSURE, system)
    assert (write(base + 7), now()) == (0, base + 7)


@pytest.mark.parametrize(
    "command",
    ["sysctl -q -w vm.vfs_cache_pressure={}", "echo {} > {}", "printf %s {} > {}"],
)
def test_the_tools_of_an_admin_pass_and_are_noticed(gate: Gate, base: int, command: str) -> None:
    said = subprocess.run(
        ["sh", "-c", command.format(base + 1, FILE)], capture_output=True, text=True
    )
    if said.returncode == 127:
        pytest.skip("no sysctl(8)")
    assert (said.returncode, said.stderr, now()) == (0, "", base + 1)
    assert [event.sets(base + 1) for event in gate.events()] == [True]


def test_other_sysctls_are_free(gate: Gate, admin: Admin, system: Target) -> None:
    value = INTERVAL.read(system)
    assert isinstance(value, int)
    file = Path(INTERVAL.place(system))
    assert (write(value + 1, file), now(file)) == (0, value + 1)
    assert admin.write(value, file) == 0
    # A name that is longer than the gate keeps.
    long = next((p for p in Path("/proc/sys/net").rglob("*") if len(str(p)) > 75), None)
    if long is not None and long.is_file():
        text = long.read_text()
        assert write(text, long) == 0
    assert gate.events() == []


def test_what_is_released_is_free(gate: Gate, system: Target, base: int) -> None:
    gate.guard(INTERVAL, system, 1)
    gate.approvals.approve(PRESSURE, system, base + 7)
    gate.release(PRESSURE, system)
    assert (write(base + 1), now()) == (0, base + 1)
    assert gate._map(APPROVALS).lookup(key_of(PRESSURE, system)) is None
    assert gate._map(HOLDS).lookup(key_of(PRESSURE, system)) is None
    gate.release(PRESSURE, system)
    gate.release(INTERVAL, system)
    assert gate.approvals.current(PRESSURE, system) is None


def test_an_approval_that_came_later_outlives_the_release(system: Target, base: int) -> None:
    with (
        raw.owned(raw.map_create(HASH, 8, APPROVED.size, 8)) as approvals,
        Gate.open(approvals) as gate,
    ):
        key = key_of(PRESSURE, system)

        def agent_approves(value: int) -> None:
            raw.map_update(approvals, key, APPROVED.pack(value, base, 1, value, 5))

        gate.guard(PRESSURE, system, base)
        assert (gate.approvals.current(PRESSURE, system), write(base + 7)) == (None, errno.EPERM)
        agent_approves(base + 7)
        assert (gate.approvals.current(PRESSURE, system), write(base + 7), now()) == (
            base + 7,
            0,
            base + 7,
        )
        assert not gate.approvals.claim(PRESSURE, system, base + 8)
        assert gate.approvals.claim(PRESSURE, system, base + 7)
        agent_approves(base + 8)
        assert write(base) == 0
        gate.release(PRESSURE, system)
        gate.guard(PRESSURE, system, base)
        assert gate.approvals.claim(PRESSURE, system, base + 8)
        gate.release(PRESSURE, system)
        gate.guard(PRESSURE, system, base)
        assert gate.approvals.current(PRESSURE, system) is None


def test_a_sysctl_that_resets_a_knob_is_watched_too(
    gate: Gate, admin: Admin, system: Target
) -> None:
    ratio = RATIO.read(system)
    if not ratio:
        pytest.skip("vm.dirty_bytes is in force")
    gate.guard(RATIO, system, ratio)
    rival = Path("/proc/sys/vm/dirty_bytes")
    # As a number that might pass, were it the knob's own.
    assert (write(str(ratio), rival), gate.events()) == (errno.EPERM, [])
    try:
        assert admin.write(1 << 30, rival) == 0
        (event,) = gate.events(RATIO, system)
        assert (event.file, event.own, event.sets(1 << 30)) == ("vm/dirty_bytes", False, False)
        assert write(str(ratio), Path(RATIO.place(system))) == errno.EPERM
    finally:
        gate.release(RATIO, system)
        Path(RATIO.place(system)).write_text(str(ratio))


def test_two_gates_do_not_disturb_each_other(
    gate: Gate, admin: Admin, system: Target, base: int
) -> None:
    value = INTERVAL.read(system)
    assert isinstance(value, int)
    file = Path(INTERVAL.place(system))

    def other() -> Gate:
        theirs = Gate.open()
        theirs.guard(INTERVAL, system, value)
        theirs.approvals.approve(INTERVAL, system, value + 1)
        assert write(value + 9, file) == errno.EPERM
        assert write(value + 1, file) == 0
        assert write(base + 3) == 0  # what is guarded by the other
        return theirs

    with living(other) as pid:
        assert (now(file), now()) == (value + 1, base + 3)
        assert [event.pid for event in gate.events()] == [pid]
        # Ours is refused to us, theirs is free for us.
        assert write(base + 5) == errno.EPERM
        assert (write(value, file), now(file)) == (0, value)
        assert (admin.write(base), now()) == (0, base)


def test_two_owners_of_one_sysctl_are_admins_to_each_other(
    gate: Gate, system: Target, base: int
) -> None:
    gate.approvals.approve(PRESSURE, system, base + 7)

    def other() -> Gate:
        theirs = Gate.open()
        theirs.guard(PRESSURE, system, base)
        theirs.approvals.approve(PRESSURE, system, base + 1)
        assert (write(base + 1), now()) == (0, base + 1)
        return theirs

    with living(other) as pid:
        assert [event.pid for event in gate.events()] == [pid]
        assert (write(base + 7), now()) == (errno.EPERM, base + 1)


def test_in_a_pid_namespace_the_owner_knows_himself(system: Target, base: int) -> None:
    script = (
        "import os\n"
        "from kmind.errors import KmindError\n"
        "from kmind.guard import Gate\n"
        "from kmind.knobs import Target, get_knob\n"
        "assert os.getpid() == 1\n"
        "knob, system = get_knob('vm.vfs_cache_pressure'), Target.system()\n"
        "with Gate.open() as gate:\n"
        f"    gate.guard(knob, system, {base})\n"
        f"    gate.approvals.approve(knob, system, {base + 7})\n"
        f"    knob.write(system, {base + 7})\n"
        "    try:\n"
        f"        knob.write(system, {base + 1})\n"
        "    except KmindError:\n"
        f"        assert knob.read(system) == {base + 7}\n"
        "    else:\n"
        "        raise AssertionError('it passed')\n"
        f"    knob.write(system, {base})\n"
    )
    unshare = ["unshare", "--pid", "--fork", sys.executable, "-c", script]
    said = subprocess.run(unshare, capture_output=True, text=True, check=False)
    if "Operation not permitted" in said.stderr.splitlines()[:1]:
        pytest.skip("no PID namespaces")
    assert (said.returncode, said.stderr) == (0, "")
    assert now() == base


def test_more_events_than_fit_stop_nobody(gate: Gate, admin: Admin, base: int) -> None:
    for turn in range(1000):
        assert admin.write(base + turn % 2) == 0
    assert 300 < len(gate.events()) < 1000
    assert (admin.write(base + 5), now()) == (0, base + 5)
    assert [event.sets(base + 5) for event in gate.events()] == [True]


# How it is loaded


@pytest.mark.fault
def test_after_kill_9_of_an_owner_all_is_free(system: Target, base: int) -> None:
    def owner() -> Gate:
        gate = Gate.open()
        gate.guard(PRESSURE, system, base)
        assert write(base + 1) == errno.EPERM
        return gate

    with living(owner) as pid:
        gates = attached() & programs_of(pid)
        assert len(gates) == 1
        assert (write(base + 1), now()) == (0, base + 1)
    for _ in range(300):  # the kernel detaches a link a moment after its last descriptor
        if not attached() & gates:
            break
        time.sleep(0.01)
    assert not attached() & gates
    assert (write(base + 2), now()) == (0, base + 2)


def attached() -> set[int]:
    """The programs that are attached to the root of cgroup v2, by bpftool."""
    tool = shutil.which("bpftool", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if tool is None:
        pytest.skip("no bpftool")
    command = [tool, "-j", "cgroup", "show", str(cgroup2_root())]
    shown = subprocess.run(command, capture_output=True, check=True).stdout.strip() or b"[]"
    return {program["id"] for program in json.loads(shown)}


def programs_of(pid: int) -> set[int]:
    """The programs that a process holds open."""
    found = set()
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # the listing's own
            lines = path.read_text().splitlines()
            found |= {int(line.split()[1]) for line in lines if line.startswith("prog_id:")}
    return found


def test_nothing_is_attached_while_nothing_is_guarded(
    admin: Admin, system: Target, base: int
) -> None:
    with Gate.open() as gate:
        assert not attached() & programs_of(os.getpid())
        for _ in range(2):
            gate.guard(PRESSURE, system, base)
            gate.guard(INTERVAL, system, 1)
            assert gate.events() == []
            gate.release(PRESSURE, system)
            assert attached() & programs_of(os.getpid())
            gate.guard(PRESSURE, system, base)
            assert admin.write(base) == 0  # nobody asks for it any more
            gate.release(PRESSURE, system)
            gate.release(INTERVAL, system)
            assert not attached() & programs_of(os.getpid())
            assert write(base + 1) == 0


def test_a_gate_that_is_forgotten_is_freed(system: Target, base: int) -> None:
    gc.collect()
    before = programs_of(os.getpid())
    gate = Gate.open()
    gate.guard(PRESSURE, system, base)
    assert len(programs_of(os.getpid()) - before) == 2
    del gate
    gc.collect()
    assert programs_of(os.getpid()) == before
    assert write(base + 1) == 0


@pytest.mark.fault
def test_a_pinned_gate_outlives_its_owner_and_is_taken_over(
    pins: Path, admin: Admin, system: Target, base: int
) -> None:
    def owner() -> Gate:
        first = Gate.adopt(pins)
        first.guard(PRESSURE, system, base)
        first.approvals.approve(PRESSURE, system, base + 7)
        assert (write(base + 7), now()) == (0, base + 7)
        return first

    with living(owner):
        pass
    # Its owner is dead. The admin is free, and all that he does is kept for the next owner.
    assert admin.write(base + 1) == 0
    assert write(base + 2) == 0
    with Gate.adopt(pins) as second:
        assert [event.text for event in second.events()] == [f"{base + 1}\n", f"{base + 2}\n"]
        assert second.approvals.current(PRESSURE, system) == base + 7
        assert write(base) == errno.EPERM
        second.settle(PRESSURE, system)
        assert (write(base + 9), now()) == (errno.EPERM, base + 2)
        assert (write(base + 7), now()) == (0, base + 7)
        assert (write(base), now()) == (0, base)
    # Closed, not released: it goes on.
    assert (write(base + 2), now()) == (errno.EPERM, base)
    with Gate.adopt(pins) as third:
        assert third.events() == []
        third.release(PRESSURE, system)
        assert not pins.exists()
        assert write(base + 2) == 0


@pytest.mark.fault
def test_no_write_is_unseen_while_a_gate_is_taken_over(
    pins: Path, system: Target, base: int
) -> None:
    with Gate.adopt(pins) as first:
        first.guard(PRESSURE, system, base)

    def count_up() -> None:
        for turn in itertools.count(base):
            write(turn)
            time.sleep(0.0005)

    seen: list[GateEvent] = []
    with living(lambda: None, count_up):
        for _ in range(20):
            with Gate.adopt(pins) as gate:
                time.sleep(0.01)
                seen += gate.events()
    # While the old program and the new one are both attached, both tell.
    written = {int(event.text) for event in seen}
    assert len(written) > 100
    assert written == set(range(min(written), max(written) + 1))


def test_a_gate_can_be_pinned_later_and_only_once(pins: Path, system: Target, base: int) -> None:
    with Gate.open() as gate:
        gate.guard(PRESSURE, system, base)
        gate.pin(pins)
    assert write(base + 1) == errno.EPERM
    with Gate.open() as another, pytest.raises(BpfError, match="adopt or discard it"):
        another.pin(pins)
    Gate.discard(pins)
    Gate.discard(pins)
    assert write(base + 1) == 0


@pytest.mark.fault
def test_pins_without_a_link_are_not_taken_for_a_gate(
    pins: Path, system: Target, base: int
) -> None:
    with Gate.adopt(pins) as gate:
        gate.guard(PRESSURE, system, base)
    (pins / "link").unlink()
    with Gate.adopt(pins) as gate:
        gate.guard(INTERVAL, system, 1)
        gate.guard(PRESSURE, system, base + 1)
        assert write(base + 1) == 0
    with Gate.adopt(pins) as gate, open_map(pins / HOLDS) as holds:
        row = holds.lookup(key_of(PRESSURE, system))
        assert row is not None
        assert HELD.unpack(row)[0] == base + 1
        gate.release(PRESSURE, system)
        gate.release(INTERVAL, system)


@pytest.mark.fault
def test_a_gate_of_another_release_is_not_taken_over(pins: Path, system: Target, base: int) -> None:
    with Gate.adopt(pins) as gate:
        gate.guard(PRESSURE, system, base)
    (pins / HOLDS).unlink()
    with raw.owned(raw.map_create(HASH, 8, 24, 8)) as other:
        obj_pin(other, pins / HOLDS)
    with pytest.raises(BpfError, match="of another release of kmind"):
        Gate.adopt(pins)


def test_where_cgroup2_is_not_mounted_a_private_mount_does(
    monkeypatch: pytest.MonkeyPatch, system: Target, base: int
) -> None:
    monkeypatch.setattr(kmind.guard.gate.gate, "cgroup2_root", lambda: None)
    with Gate.open() as gate, pytest.raises(KnobError, match="cgroup v2 is not mounted"):
        gate.guard(PRESSURE, system, base)
    with Gate.open(mount=True) as gate:
        gate.guard(PRESSURE, system, base)
        assert write(base + 1) == errno.EPERM
        gate.release(PRESSURE, system)
    assert write(base + 1) == 0


# A model of all of it


steps = st.lists(
    st.tuples(st.sampled_from(["own", "admin", "approve", "settle"]), st.integers(0, 3)),
    max_size=30,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=steps)
def test_it_decides_as_the_model_does(
    gate: Gate, admin: Admin, system: Target, base: int, steps: list[tuple[str, int]]
) -> None:
    gate.release(PRESSURE, system)
    write(base)
    gate.guard(PRESSURE, system, base)
    value, approved, noticed = base, None, 0
    fresh = False
    for what, offset in steps:
        wanted = base + offset
        if what == "own":
            passes = not fresh and wanted in (base, approved)
            if passes:
                value = wanted
            assert write(wanted) == (0 if passes else errno.EPERM)
        elif what == "admin":
            assert admin.write(wanted) == 0
            value, fresh = wanted, True
            noticed += 1
        elif what == "approve":
            gate.approvals.approve(PRESSURE, system, wanted)
            approved = wanted
        else:
            gate.settle(PRESSURE, system)
            fresh = False
        assert now() == value
    assert len(gate.events()) == noticed
