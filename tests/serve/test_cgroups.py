# SPDX-License-Identifier: Apache-2.0
"""Instances of the daemon on cgroups as systemd and container engines name them."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from serve.real import Host, host

from kmind.errors import KmindError
from kmind.knobs._cgroup import cgroup_mounts
from kmind.runtime.sandbox.cgroup.cgroup import list_cgroups

pytestmark = pytest.mark.kernel("libbpf", "btf", "bpf_timer")

UNIT = "kmind-test-{pid}.slice/cron.service"
CONTAINER = (
    "kmind-test-{pid}.slice/kubepods-burstable.slice/"
    "kubepods-burstable-pod2fc932ce_fdcc_454b_97bd_aadfdeb4c340.slice/"
    "cri-containerd-aaefb9d8feed2d453b543f6d928cede7a4dbefa6a0ae7c9b990dd234c56e93b9.scope"
)
# Of the same container runtime: alike in all that 47 bytes hold.
NEIGHBOUR = CONTAINER.replace("93b9.scope", "93ba.scope")
TUNE = ("objective=psi.cpu.some", "knobs=cgroup.cpu_shares")


@contextlib.contextmanager
def cgroups(*paths: str) -> Iterator[list[str]]:
    """Cgroups of these paths below the hierarchy of the cpu controller."""
    mounts = cgroup_mounts(Path("/"))
    point = mounts.get("cpu", mounts.get(""))
    assert point is not None
    names = [path.format(pid=os.getpid()) for path in paths]
    for name in names:
        (point / name).mkdir(parents=True, exist_ok=True)
    try:
        yield names
    finally:
        top = point / names[0].partition("/")[0]
        for folder in sorted(top.rglob("*"), reverse=True):
            if folder.is_dir():
                folder.rmdir()
        top.rmdir()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Host]:
    with host(tmp_path) as it:
        yield it


@pytest.mark.parametrize("paths", [(UNIT,), (CONTAINER, NEIGHBOUR)], ids=["unit", "containers"])
def test_instance_on_a_cgroup_of_any_name(machine: Host, paths: tuple[str, ...]) -> None:
    machine.start()
    with cgroups(*paths) as made:
        targets = [f"cgroup:/{path}" for path in made]
        names = [f"autotune@cgroup:{path.replace('/', '!')}" for path in made]
        for target in targets:
            machine.kmind("load", "autotune", target, *TUNE, "--mode=advise")
        shown = sorted(each["name"] for each in machine.client.get("/v1/instances")["instances"])
        assert shown == sorted(names)
        pins = machine.listed("/sys/fs/bpf/kmind/instances")
        assert len(pins) == len(names)
        for pin in pins:
            account = machine.cat(f"/sys/fs/bpf/kmind/instances/{pin}")
            assert "hook_runs" in account
            assert pin in machine.cat("/sys/fs/bpf/kmind/stats")
        before = {each: machine.instance(each)["extension"]["pid"] for each in names}
        machine.kmind("daemon", "--replace")
        assert {each: machine.instance(each)["extension"]["pid"] for each in names} == before
        for target, name in zip(targets, names, strict=True):
            assert name in machine.kmind("status", f"autotune@{target}")
            machine.kmind("unload", f"autotune@{target}")
        assert machine.client.get("/v1/instances")["instances"] == []
        assert machine.listed("/sys/fs/bpf/kmind/instances") == []
        assert machine.listed("/sys/fs/bpf/kmind/agents") == []
    machine.end()


def test_run_takes_a_container_too(machine: Host) -> None:
    with cgroups(CONTAINER) as (path,):
        words = (f"cgroup:/{path}", *TUNE, "--mode=advise", "--duration=2", "--json")
        events = [
            json.loads(line) for line in machine.kmind("run", "autotune", *words).splitlines()
        ]
    started = next(each for each in events if each["event"] == "start")
    assert started["instance"] == f"autotune@cgroup:{path.replace('/', '!')}"
    assert events[-1]["restored"]


def test_what_a_killed_daemon_left_of_it_is_removed(machine: Host) -> None:
    machine.start()
    with cgroups(UNIT, CONTAINER) as made:
        for path in made:
            machine.kmind("load", "autotune", f"cgroup:/{path}", *TUNE, "--mode=advise")
        machine.end(9)
        machine.start("--at-start=restore")
        assert machine.client.get("/v1/instances")["instances"] == []
        assert machine.listed("/sys/fs/bpf/kmind/agents") == []
        assert not [each for each in list_cgroups() if f"kmind-test-{os.getpid()}" in each]
    machine.end()


def test_cgroup_that_cannot_be_printed_is_no_target(machine: Host) -> None:
    machine.start()
    with (
        cgroups("kmind-test-{pid}\x1b[2Jx") as made,
        pytest.raises(KmindError, match=r"cannot be printed|the body is wrong"),
    ):
        machine.kmind("load", "autotune", f"cgroup:/{made[0]}", *TUNE)
    machine.end()
