# SPDX-License-Identifier: Apache-2.0
"""The gate on the real kernel: who may write what to a sysctl, who notices, what survives."""

from __future__ import annotations

import errno
import gc
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from guard.support import in_child
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kmind.guard.gate
from kmind.bpf import _syscall as raw
from kmind.bpf import obj_pin, open_map
from kmind.errors import BpfError, KnobError
from kmind.guard import Actuator, Gate, GateEvent, Journal, Policy, restore
from kmind.guard._cgroup2 import cgroup2_root
from kmind.guard._gate_layout import APPROVALS, APPROVED, HELD, HOLDS, key_of
from kmind.knobs import Knob, Target, get_knob

pytestmark = pytest.mark.kernel("cgroup_sysctl", "cgroup2")

PRESSURE = get_knob("vm.vfs_cache_pressure")
INTERVAL = get_knob("vm.stat_interval")
RATIO = get_knob("vm.dirty_ratio")
MERGES = get_knob("block.nomerges")

FILE = Path("/proc/sys/vm/vfs_cache_pressure")
PINS = Path("/sys/fs/bpf/kmind-test-gate")
HASH = 1  # BPF_MAP_TYPE_HASH


class Admin:
    """Another process that writes to sysctls, as root from a shell does."""

    def __init__(self) -> None:
        loop = (
            "import os, sys\n"
            "for line in sys.stdin:\n"
            "    path, text = eval(line)\n"
            "    try:\n"
            "        fd = os.open(path, os.O_WRONLY)\n"
            "        try: print(0 * os.write(fd, text), flush=True)\n"
            "        finally: os.close(fd)\n"
            "    except OSError as error: print(error.errno, flush=True)\n"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", loop],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def write(self, text: int | str, file: Path = FILE) -> int:
        """Write; 0, or the error number."""
        assert self._process.stdin
        assert self._process.stdout
        data = f"{text}\n".encode() if isinstance(text, int) else text.encode()
        print((str(file), data), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def close(self) -> None:
        with self._process:
            self._process.kill()


@pytest.fixture
def admin() -> Iterator[Admin]:
    other = Admin()
    yield other
    other.close()


@pytest.fixture
def base(system: Target) -> int:
    value = PRESSURE.read(system)
    assert isinstance(value, int)
    return value


@pytest.fixture
def gate(system: Target, base: int) -> Iterator[Gate]:
    """One that guards vm.vfs_cache_pressure."""
    with Gate.open() as opened:
        opened.guard(PRESSURE, system, base)
        yield opened


@pytest.fixture
def pins(system: Target) -> Iterator[Path]:
    # Gone before the knobs of the system are put back.
    yield PINS
    Gate.discard(PINS)


@pytest.fixture
def actuator(journal: Journal, system: Target) -> Iterator[Actuator]:
    acting = Actuator(journal, Policy())
    yield acting
    acting.undo_all()


def write(text: int | str, file: Path = FILE) -> int:
    """Write from this process; 0, or the error number."""
    data = f"{text}\n".encode() if isinstance(text, int) else text.encode()
    try:
        fd = os.open(file, os.O_WRONLY)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
    except OSError as error:
        return error.errno or -1
    return 0


def now(file: Path = FILE) -> int:
    return int(file.read_text())


def readable(fd: int, seconds: float = 0) -> bool:
    return bool(select.select([fd], [], [], seconds)[0])


@contextmanager
def living(work: Callable[[], object], then: Callable[[], object] = signal.pause) -> Iterator[int]:
    """A forked process that has done its work, and lives on until kill -9; its id."""
    ready, done = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            kept = work()
            os.write(done, b".")
            then()
            del kept
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(done)
    try:
        assert os.read(ready, 1) == b".", "it ended"
        yield pid
    finally:
        os.close(ready)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def apply(actuator: Actuator, value: int, knob: Knob = PRESSURE, *, by_admin: bool = False) -> None:
    system = Target.system()
    actuator.apply(knob, system, value, who="test@it", why="a test", rec_id=7, by_admin=by_admin)


# The program


def test_the_owner_writes_the_baseline_and_nothing_else(gate: Gate, base: int) -> None:
    assert (write(base + 1), now()) == (errno.EPERM, base)
    assert (write(base), now()) == (0, base)
    assert gate.events() == []


def test_the_owner_writes_what_is_approved_and_anything_else_becomes_that(
    gate: Gate, system: Target, base: int
) -> None:
    gate.approve(PRESSURE, system, base + 7)
    assert gate.approved(PRESSURE, system) == base + 7
    assert (write(base + 7), now()) == (0, base + 7)
    assert (write(base), now()) == (0, base)
    assert (write(base + 8), now()) == (0, base + 7)


@pytest.mark.parametrize(
    ("text", "lands"),
    [("{}", 1), (" {}", 1), ("{} \n", 1), ("0x{:x}", 0), ("{}x", 0), ("{0} {0}", 0), ("x", 0)],
)
def test_only_a_plain_number_counts_as_the_baseline(
    gate: Gate, system: Target, base: int, text: str, lands: bool
) -> None:
    gate.approve(PRESSURE, system, base + 7)
    assert write(text.format(base)) == 0
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


def test_a_child_of_the_owner_is_an_outsider(gate: Gate, base: int) -> None:
    assert in_child(lambda: (write(base + 1) == 0) or os._exit(2)) == 0
    assert now() == base + 1
    assert len(gate.events()) == 1


def test_the_admin_writes_and_the_owner_is_told(
    gate: Gate, admin: Admin, system: Target, base: int
) -> None:
    gate.approve(PRESSURE, system, base + 7)
    assert not readable(gate.fd)
    before = time.monotonic_ns()
    assert (admin.write(base + 1), now()) == (0, base + 1)
    assert readable(gate.fd, 5)
    (event,) = gate.events()
    assert before <= event.time_ns <= time.monotonic_ns()
    assert (event.knob, event.target) == (PRESSURE.id, system.id)
    assert (event.sysctl, event.own, event.pid) == ("vm/vfs_cache_pressure", True, admin.pid)
    assert event.text == f"{base + 1}\n"
    assert event.sets(base + 1)
    assert not event.sets(base)
    assert not readable(gate.fd)


def test_after_the_admin_the_owner_writes_nothing_until_he_settles(
    gate: Gate, admin: Admin, system: Target, base: int
) -> None:
    gate.approve(PRESSURE, system, base + 7)
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
    file = INTERVAL.file(system)
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
    gate.approve(PRESSURE, system, base + 7)
    gate.release(PRESSURE, system)
    assert (write(base + 1), now()) == (0, base + 1)
    assert gate._map(APPROVALS).lookup(key_of(PRESSURE, system)) is None
    assert gate._map(HOLDS).lookup(key_of(PRESSURE, system)) is None
    gate.release(PRESSURE, system)
    gate.release(INTERVAL, system)
    assert gate.approved(PRESSURE, system) is None


def test_an_approval_that_came_later_outlives_the_release(system: Target, base: int) -> None:
    with (
        raw.owned(raw.map_create(HASH, 8, APPROVED.size, 8)) as approvals,
        Gate.open(approvals) as gate,
    ):
        key = key_of(PRESSURE, system)

        def agent_approves(value: int) -> None:
            raw.map_update(approvals, key, APPROVED.pack(value, base, 1, value, 5))

        gate.guard(PRESSURE, system, base)
        assert (gate.approved(PRESSURE, system), write(base + 7)) == (None, errno.EPERM)
        agent_approves(base + 7)
        assert (gate.approved(PRESSURE, system), write(base + 7), now()) == (base + 7, 0, base + 7)
        assert not gate.claim(PRESSURE, system, base + 8)
        assert gate.claim(PRESSURE, system, base + 7)
        agent_approves(base + 8)
        assert write(base) == 0
        gate.release(PRESSURE, system)
        gate.guard(PRESSURE, system, base)
        assert gate.claim(PRESSURE, system, base + 8)
        gate.release(PRESSURE, system)
        gate.guard(PRESSURE, system, base)
        assert gate.approved(PRESSURE, system) is None


def test_a_sysctl_that_resets_a_knob_is_watched_too(
    gate: Gate, admin: Admin, system: Target
) -> None:
    ratio = RATIO.read(system)
    if not ratio:
        pytest.skip("vm.dirty_bytes is in force")
    gate.guard(RATIO, system, ratio)
    rival = Path("/proc/sys/vm/dirty_bytes")
    assert (write("0", rival), gate.events()) == (errno.EPERM, [])
    try:
        assert admin.write(1 << 30, rival) == 0
        (event,) = gate.events(RATIO, system)
        assert (event.sysctl, event.own, event.sets(1 << 30)) == ("vm/dirty_bytes", False, False)
        assert write(str(ratio), RATIO.file(system)) == errno.EPERM
    finally:
        gate.release(RATIO, system)
        RATIO.file(system).write_text(str(ratio))


def test_two_gates_do_not_disturb_each_other(
    gate: Gate, admin: Admin, system: Target, base: int
) -> None:
    value = INTERVAL.read(system)
    assert isinstance(value, int)
    file = INTERVAL.file(system)

    def other() -> Gate:
        theirs = Gate.open()
        theirs.guard(INTERVAL, system, value)
        theirs.approve(INTERVAL, system, value + 1)
        assert write(value + 9, file) == 0
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
    gate.approve(PRESSURE, system, base + 7)

    def other() -> Gate:
        theirs = Gate.open()
        theirs.guard(PRESSURE, system, base)
        theirs.approve(PRESSURE, system, base + 1)
        assert (write(base + 1), now()) == (0, base + 1)
        return theirs

    with living(other) as pid:
        assert [event.pid for event in gate.events()] == [pid]
        assert (write(base + 7), now()) == (errno.EPERM, base + 1)


def test_in_a_pid_namespace_the_owner_knows_himself(system: Target, base: int) -> None:
    script = (
        "import sys\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "from guard.test_gate import *\n"
        "assert os.getpid() == 1\n"
        "with Gate.open() as gate:\n"
        f"    gate.guard(PRESSURE, Target.system(), {base})\n"
        f"    assert write({base} + 1) == errno.EPERM\n"
        "    assert gate.events() == []\n"
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
        first.approve(PRESSURE, system, base + 7)
        assert (write(base + 7), now()) == (0, base + 7)
        return first

    with living(owner):
        pass
    # Its owner is dead. The admin is free, and all that he does is kept for the next owner.
    assert admin.write(base + 1) == 0
    assert write(base + 2) == 0
    with Gate.adopt(pins) as second:
        assert [event.text for event in second.events()] == [f"{base + 1}\n", f"{base + 2}\n"]
        assert second.approved(PRESSURE, system) == base + 7
        assert write(base) == errno.EPERM
        second.settle(PRESSURE, system)
        assert (write(base + 9), now()) == (0, base + 7)
        assert (write(base), now()) == (0, base)
    # Closed, not released: it goes on.
    assert (write(base + 2), now()) == (0, base + 7)
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
    monkeypatch.setattr(kmind.guard.gate, "cgroup2_root", lambda: None)
    with Gate.open() as gate, pytest.raises(KnobError, match="cgroup v2 is not mounted"):
        gate.guard(PRESSURE, system, base)
    with Gate.open(mount=True) as gate:
        gate.guard(PRESSURE, system, base)
        assert write(base + 1) == errno.EPERM
        gate.release(PRESSURE, system)
    assert write(base + 1) == 0


# Under the actuator


def test_a_sysctl_is_guarded_while_it_is_held(
    actuator: Actuator, system: Target, base: int
) -> None:
    apply(actuator, base + 1)
    assert (now(), write(base + 2), now()) == (base + 1, 0, base + 1)
    apply(actuator, base + 2)
    assert now() == base + 2
    second = actuator.held[-1]
    assert actuator.undo(second).state == "undone"
    assert now() == base + 1
    actuator.undo_all()
    assert (now(), write(base + 9), now()) == (base, 0, base + 9)


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
        RATIO.file(system).write_text(str(ratio))


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
    with pytest.raises(KnobError, match=r"vm\.vfs_cache_pressure cannot be gated: .*only read"):
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

        with pytest.raises(KnobError, match="is not approved; no agent approved anything"):
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
        assert admin.write(value + 2, INTERVAL.file(system)) == 0
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
    texts = {"same": base + 1, "other": base + 2, "refused": "nonsense"}
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
            assert (write(base + 5), now()) == (0, base + 1)
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
            expected = 0
            if fresh or (wanted not in (base, approved) and approved is None):
                expected = errno.EPERM
            elif wanted == base:
                value = base
            else:
                assert approved is not None
                value = approved
            assert write(wanted) == expected
        elif what == "admin":
            assert admin.write(wanted) == 0
            value, fresh = wanted, True
            noticed += 1
        elif what == "approve":
            gate.approve(PRESSURE, system, wanted)
            approved = wanted
        else:
            gate.settle(PRESSURE, system)
            fresh = False
        assert now() == value
    assert len(gate.events()) == noticed
