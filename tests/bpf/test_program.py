# SPDX-License-Identifier: Apache-2.0
"""Programs: run, attached, pinned."""

import os
import subprocess
import uuid
from pathlib import Path

import pytest
from bpf.loaded import ADDRESS

from kmind.bpf import (
    BpfObject,
    map_arena,
    open_link,
    open_map,
    read_iter,
)
from kmind.bpf.probe import probe
from kmind.errors import BpfError, KmindError, LoadError


@pytest.mark.kernel("syscall")
def test_test_run_of_a_program_that_repeats(calls: BpfObject) -> None:
    calls.load()
    with pytest.raises(BpfError, match="cannot run program multiply: Invalid argument"):
        calls.programs["multiply"].test_run(bytes(24), repeat=2)


@pytest.mark.kernel("tp_btf", "arena", "bpffs")
def test_a_pinned_link_keeps_the_program_running(objects: Path, pins: Path) -> None:
    with BpfObject(objects / "hooks.bpf.o") as obj:
        obj.set_arena("arena", ADDRESS, 2)
        obj.set_rodata({"arena_base": ADDRESS, "watched_pid": os.getpid()})
        obj.load()
        obj.maps["arena"].pin(pins / "arena")
        obj.programs["count_calls"].attach().pin(pins / "link")
    with open_map(pins / "arena") as pinned, map_arena(pinned.fd, pinned.extra, 2) as arena:
        words = arena.buffer.view("u8")
        before = int(words[0])
        os.getppid()
        assert words[0] > before
        open_link(pins / "link").detach()
        assert not (pins / "link").exists()
        after = int(words[0])
        os.getppid()
        assert words[0] == after


@pytest.mark.kernel("iter_task", "arena", "bpffs")
def test_task_iterator_and_its_pin(hooks: BpfObject, pins: Path) -> None:
    link = hooks.programs["list_tasks"].attach_iter()
    assert str(os.getpid()) in read_iter(link).decode().split()
    link.pin(pins / "tasks")
    link.close()
    assert str(os.getpid()) in (pins / "tasks").read_text().split()
    with pytest.raises(BpfError, match="closed"):
        read_iter(link)


@pytest.mark.kernel("tp_btf")
def test_a_hook_that_the_kernel_has_not_is_named(objects: Path) -> None:
    with BpfObject(objects / "refused.bpf.o") as obj:
        obj.programs["careless"].set_autoload(False)
        assert not obj.programs["nowhere"].autoload
        obj.programs["nowhere"].set_autoload(True)
        with pytest.raises(LoadError, match=r"cannot load nowhere.*no_such_tracepoint"):
            obj.load()


@pytest.mark.kernel("cgroup_sysctl", "cgroup2")
def test_a_program_of_a_cgroup_acts_on_its_processes_only(calls: BpfObject) -> None:
    calls.load()
    group = Path(probe("cgroup2").cause) / f"kmind-test-{uuid.uuid4().hex}"
    command = f"echo $$ > {group}/cgroup.procs && cat /proc/sys/vm/swappiness"
    group.mkdir()
    try:
        link = calls.programs["refuse"].attach_cgroup(group)
        refused = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
        assert "Operation not permitted" in refused.stderr
        assert Path("/proc/sys/vm/swappiness").read_text()
        link.close()
        assert subprocess.run(["sh", "-c", command], capture_output=True).returncode == 0
    finally:
        group.rmdir()


def test_attach_that_cannot_be(objects: Path) -> None:
    with BpfObject(objects / "calls.bpf.o") as obj:
        with pytest.raises(KmindError, match="cannot attach program multiply"):
            obj.programs["multiply"].attach()
        with pytest.raises(BpfError, match="cannot open cgroup"):
            obj.programs["multiply"].attach_cgroup("/absent")
