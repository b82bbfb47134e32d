# SPDX-License-Identifier: Apache-2.0
"""One name in all cgroup hierarchies."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from extension_process import running
from programs import machine_lacks
from runtime.sandbox.limited import Limits, python, root

from kmind.errors import UsageError
from kmind.runtime.sandbox.cgroup import cgroup as cgroups
from kmind.runtime.sandbox.cgroup.cgroup import ExtensionCgroup
from kmind.runtime.sandbox.cgroup.folders import Folders, read_words, write_file
from kmind.runtime.sandbox.cgroup.mounts import Hierarchy, find_hierarchies


@root
def test_a_cgroup_that_is_gone_is_not_made_up(name: str, tmp_path: Path) -> None:
    group = ExtensionCgroup(name, Limits())
    if not group.entry().join:
        machine_lacks("no cgroup hierarchy is mounted")
    entry = group.entry()
    group.close()
    with running(tmp_path, cgroup=entry) as run:
        run.until(lambda: run.said("cannot enter its cgroup"))


@pytest.mark.parametrize("wrong", ["", "a/b", "..", ".", "cgroup.procs", "a\nb"])
def test_names(wrong: str) -> None:
    with pytest.raises(UsageError, match="no cgroup can be called"):
        ExtensionCgroup(wrong, Limits(), hierarchies=[])


V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 / /sys/fs/cgroup/memory rw shared:5 - cgroup cgroup rw,memory\n"
    "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
    "41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw - cgroup2 cgroup2 rw\n"
)
OWN_V1 = "9:name=systemd:/a.service\n4:memory:/a\n1:cpu,cpuacct:/\n0::/a.service\n"


def test_version_2() -> None:
    own = "0::/system.slice/kmind.service\n"
    assert find_hierarchies(V2, own) == [Hierarchy(2, Path("/sys/fs/cgroup"), frozenset())]


def test_version_1_and_both() -> None:
    found = find_hierarchies(V1, OWN_V1)
    folder = Path("/sys/fs/cgroup")
    assert {h.base: (h.version, set(h.controllers)) for h in found if h.controllers} == {
        folder / "cpu,cpuacct": (1, {"cpu", "cpuacct"}),
        folder / "memory": (1, {"memory"}),
        folder / "systemd": (1, {"name=systemd"}),
    }
    assert [h.base for h in found if h.version == 2] == [folder / "uni fied"]


def test_inside_a_container() -> None:
    # Without a cgroup namespace the mount shows one branch, and /proc the whole path.
    mounts = V2.replace(" / /sys", " /docker/abc /sys")
    for own in ("0::/docker/abc\n", "0::/docker/abc/job\n", "0::/elsewhere\n", "0::/../x\n"):
        found = find_hierarchies(mounts, own)
        assert found == [Hierarchy(2, Path("/sys/fs/cgroup"), frozenset())]


def test_no_cgroups_at_all() -> None:
    assert find_hierarchies("31 23 0:28 / / rw - ext4 /dev/vda rw\n", "0::/\n") == []


@pytest.fixture
def version_2() -> Iterator[tuple[Hierarchy, str]]:
    """A hierarchy of our own below the real one, and a controller that it has."""
    top = next((h.base for h in cgroups._mounted() if h.version == 2), None)
    controllers = read_words(top / "cgroup.controllers") if top else []
    if top is None or not controllers:
        machine_lacks("no hierarchy of version 2 with a controller")
    controller = "pids" if "pids" in controllers else controllers[0]
    control = top / "cgroup.subtree_control"
    had = controller in read_words(control)
    own = top / f"kmind-test-{os.getpid()}"
    own.mkdir()
    write_file(control, f"+{controller}")
    yield Hierarchy(2, own, frozenset()), controller
    own.rmdir()
    if not had:
        write_file(control, f"-{controller}")


@root
def test_a_base_with_processes_is_left_alone(version_2: tuple[Hierarchy, str]) -> None:
    hierarchy, controller = version_2
    stranger = python("input()")
    try:
        write_file(hierarchy.base / "cgroup.procs", str(stranger.pid))
        folders = Folders("x@y", [hierarchy])
        folders.make([controller])
        assert folders.missing[controller].startswith("cannot be had below")
        assert read_words(hierarchy.base / "cgroup.type") == ["domain"]
        folders.remove()
        assert not (hierarchy.base / "kmind").exists()
    finally:
        stranger.kill()
        stranger.communicate()
