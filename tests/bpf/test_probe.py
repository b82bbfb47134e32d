# SPDX-License-Identifier: Apache-2.0
"""The probes: they tell what is there from what is not, and leave nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kmind.abi import btf
from kmind.bpf import _libbpf, _tries, machine, probe
from kmind.errors import NotSupportedError


def test_probes_answer_in_order_and_never_raise() -> None:
    found = probe.probe_all()
    assert [p.name for p in found] == list(probe.names())
    for result in found:
        assert result.state in ("ok", "missing", "refused")
        assert result.costs
        assert result.state == "ok" or result.cause
        assert "\n" not in result.cause
    with pytest.raises(KeyError):
        probe.probe("no such probe")


def open_files() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


@pytest.mark.kernel
def test_probes_leave_nothing_open() -> None:
    probe.probe_all()  # what is loaded once stays
    before = open_files()
    probe.probe_all()
    assert open_files() == before


@pytest.mark.kernel("btf", "bpffs")
def test_probes_see_what_is_not_there() -> None:
    with pytest.raises(NotSupportedError, match="this kernel has no no_such_tracepoint"):
        machine.tracepoints(("sched_switch", "no_such_tracepoint"))
    with pytest.raises(NotSupportedError, match="no bpf_iter_absent"):
        _tries.iterator("absent")
    with pytest.raises(NotSupportedError, match="not mounted; mount -t absentfs"):
        machine.mounted("absentfs", "/mnt")
    assert machine.mounted("bpf", "/sys/fs/bpf").startswith("/")


def test_a_kernel_without_btf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(btf, "KERNEL_BTF", tmp_path / "vmlinux")
    for name in ("btf", "tp_btf", "tp_readahead"):
        result = probe.probe(name)
        assert result.state == "missing"
        assert "shows no BTF" in result.cause
        assert "CONFIG_DEBUG_INFO_BTF" in result.cause


def test_a_machine_without_libbpf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_libbpf, "LIBRARY", "libbpf-absent.so.1")
    _libbpf.lib.cache_clear()
    try:
        result = probe.probe("libbpf")
        assert (result.state, result.required) == ("missing", True)
        assert result.cause == "libbpf-absent.so.1 is not installed; apt install libbpf1"
    finally:
        monkeypatch.undo()
        _libbpf.lib.cache_clear()


@pytest.mark.parametrize(
    ("compilers", "state", "cause"),
    [
        ({"clang": 3, "clang-99": 19, "clangd": 50}, "ok", "19"),
        ({"clang": 14}, "missing", "version 14 is older than 19; apt install clang-19"),
        ({}, "missing", "not installed; apt install clang-19"),
    ],
)
def test_the_newest_clang_counts(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    compilers: dict[str, int],
    state: str,
    cause: str,
) -> None:
    for name, version in compilers.items():
        (tmp_path / name).write_text(f"#!/bin/sh\necho 'Debian clang version {version}.1.7 (3)'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    result = probe.probe("clang")
    assert (result.state, result.cause) == (state, cause)


def test_lockdown_is_read_from_the_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if os.geteuid():
        assert probe.probe("lockdown").state == "refused"
        return
    (tmp_path / "lockdown").write_text("none [integrity] confidentiality\n")
    monkeypatch.setattr(machine, "LOCKDOWN", tmp_path / "lockdown")
    assert probe.probe("lockdown").cause.startswith("integrity")


def test_facts() -> None:
    facts = probe.facts()
    assert facts["kernel"] == os.uname().release
    assert isinstance(facts["memlock_bytes"], int)


def test_cgroups_of_either_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("memory io pids\n")
    mounts = tmp_path / "mountinfo"
    monkeypatch.setattr(machine, "MOUNTS", mounts)
    unified = f"30 24 0:26 / {tmp_path} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
    mounts.write_text(unified)
    with pytest.raises(NotSupportedError, match="no mounted cgroup hierarchy has cpu"):
        machine.cgroup_controllers()
    mounts.write_text(unified + "31 24 0:27 / /c rw - cgroup cgroup rw,cpu,cpuacct\n")
    assert machine.cgroup_controllers() == "cpu v1, memory v2, pids v2"


def test_a_security_module_that_is_not_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A program for it may load all the same, and would guard nothing."""
    monkeypatch.setattr(machine, "LSMS", tmp_path / "lsm")
    with pytest.raises(NotSupportedError, match="cannot read"):
        machine.active_lsm("bpf")
    machine.LSMS.write_text("lockdown,capability,landlock\n")
    with pytest.raises(NotSupportedError, match="add bpf to lsm= on the kernel's command line"):
        machine.active_lsm("bpf")
    machine.LSMS.write_text("capability,bpf\n")
    assert machine.active_lsm("bpf") == "capability,bpf"


# What a module's struct_ops would be loaded by: libbpf, and nothing else of kmind's.
LOADS = """
import ctypes, sys

libbpf = ctypes.CDLL(sys.argv[1])
libbpf.bpf_object__open_file.restype = ctypes.c_void_p
libbpf.bpf_object__load.argtypes = [ctypes.c_void_p]
opened = libbpf.bpf_object__open_file(sys.argv[2].encode(), None)
sys.exit(0 if opened and libbpf.bpf_object__load(opened) == 0 else 1)
"""


@pytest.mark.kernel("libbpf", "btf")
def test_struct_ops_are_said_to_work_where_libbpf_loads_one() -> None:
    there = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
    before = there.read_text()
    found = probe.probe("struct_ops")
    path = Path(probe.__file__).with_name("struct_ops.bpf.o")
    argv = [sys.executable, "-c", LOADS, _libbpf.LIBRARY, str(path)]
    loads = subprocess.run(argv, capture_output=True, check=False).returncode == 0
    assert (found.state == "ok") is loads
    assert "libbpf" in found.cause or loads
    assert there.read_text() == before  # nothing was registered


def test_struct_ops_that_libbpf_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object) -> None:
        raise NotSupportedError("cannot load ssthresh of struct_ops.bpf.o: no")

    monkeypatch.setattr(_tries, "_kernel_struct_ops", lambda: None)
    monkeypatch.setattr(_tries.BpfObject, "load", refuse)
    found = probe.probe("struct_ops")
    assert found.state == "missing"
    assert "this kernel takes one, but libbpf" in found.cause
    assert "install libbpf 1.2 or later" in found.cause
