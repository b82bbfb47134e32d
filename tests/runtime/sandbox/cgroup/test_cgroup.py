# SPDX-License-Identifier: Apache-2.0
"""Limits that are gone beyond for real, and cgroups made, found and removed."""

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from extension_process import QUIET, running
from runtime.sandbox.limited import Limits, made, python, root

from kmind.errors import KmindError
from kmind.runtime.cleanup import remove_dead_runs, run_cgroup
from kmind.runtime.sandbox.cgroup import cgroup as cgroups
from kmind.runtime.sandbox.cgroup.cgroup import ExtensionCgroup, list_cgroups
from kmind.runtime.sandbox.cgroup.mounts import Hierarchy
from kmind.runtime.sandbox.exit_codes import EXIT_SETUP


class Clock:
    """Goes on as it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def let_go(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin
    process.stdin.write(b"\n")
    process.stdin.flush()


@root
def test_eats_memory(name: str) -> None:
    group = made(name, need="memory", memory_mib=64)
    eater = python("eaten = [bytearray(1 << 20) for _ in range(1000)]")
    modest = python("kept = bytearray(1 << 20); input()")
    other = python("input()")
    try:
        group.add(eater.pid)
        let_go(eater)
        assert eater.wait(30) == -signal.SIGKILL
        assert group.usage()["oom_kills"] == 1
        assert group.usage()["memory_peak"] <= 64 << 20
        assert group.exceeded() == "memory: it took more than 64 MiB and was killed for it"
        assert other.poll() is None
        assert modest.poll() is None
    finally:
        group.close()
        for process in (eater, modest, other):
            process.communicate()


@root
def test_keeps_below_its_memory(name: str) -> None:
    group = made(name, need="memory", memory_mib=64)
    eater = python("eaten = bytearray(20 << 20); input()")
    try:
        group.add(eater.pid)
        let_go(eater)
        deadline = time.monotonic() + 10
        while group.usage()["memory_bytes"] < 20 << 20:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert group.exceeded() is None
    finally:
        group.close()
        eater.communicate()


@root
def test_spins(name: str) -> None:
    group = made(name, need="cpu", cpu_percent=20)
    spinner = python("while True: pass")
    try:
        group.add(spinner.pid)
        let_go(spinner)
        began = time.monotonic()
        before = group.usage()["cpu_s"]
        reason = None
        while (reason := group.exceeded()) is None:
            assert time.monotonic() - began < 30
            time.sleep(0.25)
        seconds = time.monotonic() - began
        assert seconds >= cgroups.CPU_WINDOW_S
        assert re.fullmatch(
            r"cpu: for \d+% of the last \d s it wanted more than 20% of a CPU", reason
        )
        # Spun at the limit, and not above it.
        assert (group.usage()["cpu_s"] - before) / seconds == pytest.approx(0.2, abs=0.1)
        assert group.usage()["throttled"] > 20
    finally:
        group.close()
        spinner.communicate()


@root
def test_a_burst_of_work_is_no_spin(name: str) -> None:
    group = made(name, need="cpu", cpu_percent=20)
    worker = python(
        "import time\nend = time.monotonic() + 1.5\nwhile time.monotonic() < end: pass\ninput()"
    )
    try:
        group.add(worker.pid)
        let_go(worker)
        for _ in range(28):
            assert group.exceeded() is None
            time.sleep(0.25)
        assert group.usage()["throttled"] > 3
    finally:
        group.close()
        worker.communicate()


@root
def test_forks_without_end(name: str) -> None:
    group = made(name, need="pids", pids=8)
    bomb = python(
        "import os, time\n"
        "while True:\n"
        "    try:\n"
        "        os.fork()\n"
        "    except OSError:\n"
        "        time.sleep(0.01)\n"
    )
    try:
        group.add(bomb.pid)
        let_go(bomb)
        deadline = time.monotonic() + 30
        while group.exceeded() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert group.usage()["pids"] <= 8
        assert re.fullmatch(
            r"pids: \d+ times it tried to have more than 8 processes and threads",
            group.exceeded() or "",
        )
    finally:
        group.close()  # all of them
        bomb.communicate()
    assert name not in list_cgroups()


@root
def test_other_groups_see_nothing_of_it(name: str) -> None:
    group = made(name, need="cpu", cpu_percent=10)
    other = made(name + "2", need="cpu", cpu_percent=10)
    spinner = python("while True: pass")
    sleeper = python("input()")
    try:
        group.add(spinner.pid)
        other.add(sleeper.pid)
        let_go(spinner)
        time.sleep(1)
        assert group.usage()["throttled"] > 3
        assert other.usage()["throttled"] == 0
        assert other.usage()["cpu_s"] < 0.1
    finally:
        group.close()
        assert sleeper.poll() is None
        other.close()
        for process in (spinner, sleeper):
            process.communicate()


@root
def test_taken_over(name: str) -> None:
    first = ExtensionCgroup(name, Limits(cpu_percent=25, memory_mib=96, pids=5))
    inside = python("input()")
    first.add(inside.pid)
    second = ExtensionCgroup.adopt(name)
    if not first.missing:
        assert second.limits.cpu_percent == pytest.approx(25)
        assert (second.limits.memory_mib, second.limits.pids) == (96, 5)
    assert second.missing.keys() == first.missing.keys()
    assert inside.poll() is None
    assert second.usage()["pids"] == first.usage()["pids"]
    second.close()
    second.close()
    assert inside.wait(10) == -signal.SIGKILL
    inside.communicate()
    first.close()  # gone already
    assert name not in list_cgroups()
    with pytest.raises(KmindError, match="there is no cgroup"):
        ExtensionCgroup.adopt(name)


@root
def test_what_is_left_over_is_ended(name: str) -> None:
    ExtensionCgroup(name, Limits()).add((old := python("input()")).pid)
    fresh = ExtensionCgroup(name, Limits())
    assert old.wait(10) == -signal.SIGKILL
    old.communicate()
    assert fresh.usage()["cpu_s"] == 0
    fresh.close()


FORGETFUL = "from kmind.runtime.cleanup import remove_dead_runs; remove_dead_runs()"


@root
def test_runs_of_other_pid_namespaces_are_left_alone() -> None:
    """A `kmind run` in a container knew nobody under that number, and killed the extension."""
    there = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", FORGETFUL]
    group = ExtensionCgroup(run_cgroup("it"), Limits())
    group.add((extension := python("input()")).pid)
    try:
        subprocess.run(there, check=True, timeout=60)
        assert extension.poll() is None
        remove_dead_runs()  # its own process is here
        assert extension.poll() is None
    finally:
        group.close()
        extension.communicate()


@root
def test_a_run_that_has_ended_is_removed() -> None:
    end = "import os; from kmind.runtime.cleanup import run_cgroup; print(run_cgroup('it'))"
    name = subprocess.run(
        [sys.executable, "-c", end], check=True, timeout=60, capture_output=True, text=True
    ).stdout.strip()
    ExtensionCgroup(name, Limits()).add((extension := python("input()")).pid)
    remove_dead_runs()
    assert extension.wait(10) == -signal.SIGKILL
    extension.communicate()
    assert name not in list_cgroups()


@root
def test_a_real_extension_enters_it_first(name: str, tmp_path: Path) -> None:
    group = made(name, need="memory", memory_mib=128)
    with running(tmp_path, cgroup=group.entry()) as run:
        run.alive()
        used = group.usage()
        # numpy alone takes more than that: it was counted here.
        assert 10 << 20 < used["memory_bytes"] < 128 << 20
        assert used["pids"] in (0, 1)
        assert used["cpu_s"] > 0.02
        assert group.exceeded() is None
        own = Path(f"/proc/{run.process.pid}/cgroup").read_text()
        assert own.count(f"/kmind/{name}\n") >= 1
    group.close()


@root
def test_a_real_extension_spins(name: str, tmp_path: Path) -> None:
    group = made(name, need="cpu", cpu_percent=10)
    source = QUIET.replace(
        "def status(self):", "def start(self):\n        while True: pass\n    def status(self):"
    )
    with running(tmp_path, source, cgroup=group.entry()) as run:
        group.limit_cpu()
        deadline = time.monotonic() + 30
        while group.exceeded() is None:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        assert run.process.ended() is None
    group.close()


@root
def test_a_real_extension_eats_memory(name: str, tmp_path: Path) -> None:
    group = made(name, need="memory", memory_mib=96)
    source = QUIET.replace(
        "def status(self):",
        "def start(self):\n        self.eaten = [bytearray(1 << 20) for _ in range(500)]\n\n"
        "    def status(self):",
    )
    with running(tmp_path, source, cgroup=group.entry()) as run:
        run.until(lambda: run.process.ended() is not None)
        assert run.process.ended() == -signal.SIGKILL
        assert (group.exceeded() or "").startswith("memory: ")
    group.close()


@root
def test_memory_is_limited_without_a_controller_too(tmp_path: Path) -> None:
    group = ExtensionCgroup("none", Limits(memory_mib=128), hierarchies=[])
    assert group.missing.keys() == {"cpu", "memory", "pids"}
    assert group.missing["memory"] == "no mounted cgroup hierarchy has it"
    assert group.entry().data_bytes == 128 << 20
    source = QUIET.replace(
        "def status(self):",
        "def start(self):\n        self.eaten = [bytearray(1 << 20) for _ in range(500)]\n\n"
        "    def status(self):",
    )
    with running(tmp_path, source, cgroup=group.entry()) as run:
        run.until(lambda: run.process.ended() is not None)
        run.until(lambda: run.said("MemoryError"))
    assert group.exceeded() is None
    group.close()


@root
def test_nothing_starts_where_the_kernel_ignores_the_limit(tmp_path: Path) -> None:
    switch = Path("/sys/module/kernel/parameters/ignore_rlimit_data")
    before = switch.read_text()
    group = ExtensionCgroup("none", Limits(memory_mib=128), hierarchies=[])
    try:
        switch.write_text("Y")
        with running(tmp_path, cgroup=group.entry()) as run:
            run.until(lambda: run.process.ended() is not None)
            run.until(lambda: run.said("nothing limits the extension's memory"))
            assert run.process.ended() == EXIT_SETUP
        assert not run.beats
    finally:
        switch.write_text(before)
    group.close()


@root
def test_memory_that_is_no_data_is_limited_too(tmp_path: Path) -> None:
    group = ExtensionCgroup("none", Limits(memory_mib=128), hierarchies=[])
    with running(tmp_path, cgroup=group.entry()) as run:
        run.alive()
        limits = Path(f"/proc/{run.process.pid}/limits").read_text().splitlines()
    found = {line[:26].strip(): line[26:].split()[:2] for line in limits}
    assert found["Max data size"] == [str(128 << 20)] * 2
    assert found["Max stack size"] == [str(8 << 20)] * 2
    assert found["Max address space"] == [str(16 << 30)] * 2


def test_a_limit_of_memory_that_does_not_stand_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain files stand in for a kernel that keeps what it likes."""
    tmp_path.joinpath("cgroup.controllers").write_text("memory\n")
    own = tmp_path / "kmind" / "x@y"
    for folder in (tmp_path, tmp_path / "kmind"):
        folder.mkdir(exist_ok=True)
        folder.joinpath("cgroup.subtree_control").write_text("memory")
    hierarchy = Hierarchy(2, tmp_path, frozenset())
    swapping = [False]
    monkeypatch.setattr(cgroups, "_swaps", lambda: swapping[0])
    real = cgroups.write_file

    def limited(stands: str) -> ExtensionCgroup:
        shutil.rmtree(own, ignore_errors=True)

        def write(path: Path, text: str) -> None:
            if path.name == "memory.max":
                path.write_text(stands)
            else:
                real(path, text)

        monkeypatch.setattr(cgroups, "write_file", write)
        return ExtensionCgroup("x@y", Limits(memory_mib=128), hierarchies=[hierarchy])

    assert "memory" not in limited(str(128 << 20)).missing
    for stands in ("max", "", str(256 << 20)):
        group = limited(stands)
        assert group.missing["memory"].startswith(f"{own}/memory.max says ")
        assert group.entry().data_bytes == 128 << 20
    swapping[0] = True  # and no memory.swap.max: all of the swap space would be its own
    group = limited(str(128 << 20))
    assert group.missing["memory"].startswith(f"{own}/memory.swap.max: ")
    assert group.entry().data_bytes == 128 << 20


def test_cpu_time_is_judged_without_a_controller_too() -> None:
    clock = Clock()
    group = ExtensionCgroup("none", Limits(cpu_percent=50), hierarchies=[], now=clock)
    spent = {"rate": 0.4}
    group._cpu_s = lambda: clock.now * spent["rate"]  # type: ignore[method-assign]
    for _ in range(20):
        assert group.exceeded() is None
        clock.now += 1
    spent["rate"] = 0.9
    assert group.exceeded()


# Finding the hierarchies: no machine has all of these


# Version 2 with whatever controller it has here


# Version 2 where this machine has none of its controllers: plain files in its place say
# what is written, not that the kernel takes it.


def test_what_version_2_is_told(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "kmind"):
        folder.mkdir(exist_ok=True)
        folder.joinpath("cgroup.subtree_control").write_text("")
    tmp_path.joinpath("cgroup.controllers").write_text("cpuset cpu memory pids\n")
    hierarchy = Hierarchy(2, tmp_path, frozenset())
    group = ExtensionCgroup("x@y", Limits(cpu_percent=150), hierarchies=[hierarchy])
    for folder in (tmp_path, tmp_path / "kmind"):
        # Each write begins at the start of the file: the last one is in front.
        assert folder.joinpath("cgroup.subtree_control").read_text().startswith("+pids")
    own = tmp_path / "kmind" / "x@y"
    entry = group.entry()
    assert entry.join == (str(own / "cgroup.procs"),)
    assert group.missing == {
        "memory": f"{own}/memory.max: No such file or directory",
        "pids": f"{own}/pids.max: No such file or directory",
    }
    assert not (own / "cpu.max").exists()
    (own / "cpu.max").touch()
    group.limit_cpu()
    assert (own / "cpu.max").read_text() == "150000 100000"
    own.joinpath("cpu.stat").write_text("usage_usec 1500000\nnr_periods 9\nnr_throttled 7\n")
    own.joinpath("memory.current").write_text("4096\n")
    own.joinpath("memory.peak").write_text("8192\n")
    own.joinpath("memory.events").write_text("low 0\noom 2\noom_kill 1\noom_group_kill 0\n")
    own.joinpath("pids.current").write_text("3\n")
    own.joinpath("pids.events").write_text("max 2\n")
    assert group.usage() == {
        "cpu_s": 1.5, "memory_bytes": 4096, "memory_peak": 8192, "throttled": 7,
        "oom_kills": 1, "pids": 3, "pids_refused": 2,
    }  # fmt: skip
