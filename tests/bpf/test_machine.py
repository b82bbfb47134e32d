# SPDX-License-Identifier: Apache-2.0
"""Facts of the machine, as probes read them."""

import os
from pathlib import Path

import pytest

from kmind.bpf import machine, probe
from kmind.errors import NotSupportedError


def test_lockdown_is_read_from_the_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if os.geteuid():
        assert probe.probe("lockdown").state == "refused"
        return
    (tmp_path / "lockdown").write_text("none [integrity] confidentiality\n")
    monkeypatch.setattr(machine, "LOCKDOWN", tmp_path / "lockdown")
    assert probe.probe("lockdown").cause.startswith("integrity")


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
