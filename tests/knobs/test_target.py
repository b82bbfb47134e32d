# SPDX-License-Identifier: Apache-2.0
"""Targets of knobs: disks, cgroups, the system."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest
from knobs.trying import cgroups, system
from sample_module import loop_disk

from kmind.errors import KnobError, UsageError
from kmind.knobs import (
    Target,
    block_devices,
    block_targets,
    get_knob,
    parse_target,
)


def test_a_block_target_is_known_by_the_kernels_number() -> None:
    name = block_devices()[0]
    target = Target.block(f"/dev/{name}")
    device = Path(f"/dev/{name}").stat().st_rdev
    assert (target.id >> 20, target.id & 0xFFFFF) == (os.major(device), os.minor(device))
    assert target == parse_target(name)
    assert target.identity().startswith(f"{os.major(device)}:{os.minor(device)}")


def test_the_system_is_a_target() -> None:
    assert parse_target("system") == Target.system()
    assert (system.id, system.identity()) == (0, "system")


def test_a_cgroup_is_found_in_its_hierarchies(tmp_path: Path) -> None:
    folder = cgroups(tmp_path) / "a/web.service"
    target = parse_target("cgroup:/a/web.service", root=tmp_path)
    assert target.name == "cgroup:a!web.service"
    assert parse_target(target.name, root=tmp_path) == target
    assert target.identity() == str(folder.stat().st_ino)
    assert Target.cgroup("web", root=tmp_path).cgroup_folder("blkio") == tmp_path / "mnt/b k/web"
    assert not get_knob("cgroup.blkio_weight").exists(target)
    for wrong in ("cgroup:", "cgroup:/", "cgroup:/a/../b", "cgroup:/nosuch"):
        with pytest.raises(UsageError, match="cgroup"):
            parse_target(wrong, root=tmp_path)
    with pytest.raises(UsageError, match="name a cgroup, such as"):
        get_knob("cgroup.io_weight").read(Target.system(root=tmp_path))


def test_no_two_cgroups_have_one_number(tmp_path: Path) -> None:
    """Leases and grants go by it. These two names have one CRC-32, as anybody can find."""
    point = cgroups(tmp_path)
    names = ["web-108ddf9.service", "web-3008894.service"]
    for name in names:
        (point / name).mkdir()
    (tmp_path / "mnt/b k/old").mkdir()
    found = [Target.cgroup(name, root=tmp_path) for name in [*names, "web", "old", "a"]]
    assert len({target.id for target in found}) == 5
    assert all(0 < target.id < 1 << 32 for target in found)
    # One that takes the name later is another one.
    assert found[0].is_present()
    (point / "new").mkdir()
    (point / names[0]).rename(point / "gone")
    assert not found[0].is_present()
    (point / "new").rename(point / names[0])
    assert not found[0].is_present()
    assert Target.cgroup(names[0], root=tmp_path).id not in {target.id for target in found}


def test_an_unknown_device_is_refused_with_those_that_are_there() -> None:
    with pytest.raises(UsageError, match="unknown block device 'nosuch'") as caught:
        Target.block("nosuch")
    assert all(name in str(caught.value) for name in block_devices())
    for name in ("", "..", "../block", "."):
        with pytest.raises(UsageError, match="unknown block device"):
            Target.block(name)


def test_a_partition_is_refused_with_its_disk(tmp_path: Path) -> None:
    partition = tmp_path / "sys/block/sda/sda1"
    partition.mkdir(parents=True)
    (partition / "partition").write_text("1\n")
    with pytest.raises(UsageError, match=r"sda1 is a partition.*name its disk: sda"):
        Target.block("sda1", root=tmp_path)


def disk_tree(root: Path) -> Path:
    """A disk and its partition, and the folder that finds them by number."""
    disk = root / "sys/block/sda"
    partition = disk / "sda1"
    partition.mkdir(parents=True)
    (disk / "dev").write_text("8:16\n")
    (partition / "dev").write_text("8:17\n")
    (partition / "partition").write_text("1\n")
    by_number = root / "sys/dev/block"
    by_number.mkdir(parents=True)
    (by_number / "8:16").symlink_to(disk)
    (by_number / "8:17").symlink_to(partition)
    (root / "dev/disk/by-id").mkdir(parents=True)
    return root


def node(path: Path, number: int) -> Path:
    """A device node, which only root can make."""
    try:
        os.mknod(path, 0o600 | stat.S_IFBLK, number)
    except PermissionError:
        pytest.skip("needs root: mknod(2)")
    return path


def test_target_by_path_is_found_by_number_not_by_spelling(tmp_path: Path) -> None:
    root = disk_tree(tmp_path)
    node(root / "dev/anything", os.makedev(8, 16))
    node(root / "dev/part", os.makedev(8, 17))
    (root / "dev/disk/by-id/ata-X").symlink_to("../../anything")
    (root / "dev/disk/by-id/ata-X-part1").symlink_to("../../part")
    for path in ("/dev/anything", "/dev/disk/by-id/ata-X", "dev/disk/by-id/../by-id/ata-X"):
        target = parse_target(path, root=root)
        assert (target.name, target.id) == ("sda", 8 << 20 | 16), path
    assert parse_target("/dev/disk/by-id/ata-X-part1", root=root).name == "sda"


def test_target_by_path_to_something_else_is_refused(tmp_path: Path) -> None:
    root = disk_tree(tmp_path)
    (root / "dev/gone").symlink_to("nowhere")
    (root / "dev/loop").symlink_to("loop")
    node(root / "dev/stranger", os.makedev(8, 99))
    (root / "dev/file").write_text("")
    for name, why in (
        ("/dev/gone", "leads to no device: No such file"),
        ("/dev/loop", "leads to no device: Too many levels"),
        ("/dev/stranger", "block device 8:99, which the kernel does not have"),
        ("/dev/file", "is not a block device"),
        ("/dev/disk/by-id", "is not a block device"),
        ("/dev/disk/by-id/none", "unknown block device"),
        ("/dev/a\0b", "is not a path"),
    ):
        with pytest.raises(UsageError, match=why):
            parse_target(name, root=root)
    assert parse_target("/dev/sda", root=root).name == "sda"  # a container may lack the node
    with pytest.raises(UsageError, match="is a partition"):
        parse_target("/dev/sda1", root=root)


def test_hidden_disk_is_no_target(tmp_path: Path) -> None:
    root = disk_tree(tmp_path)
    path = root / "sys/block/nvme0c0n1"
    path.mkdir()
    (path / "hidden").write_text("1\n")
    (root / "sys/block/torn").mkdir()  # a disk that goes while it is looked at
    assert block_devices(root) == ["sda", "torn"]
    assert [target.name for target in block_targets(root)] == ["sda"]
    with pytest.raises(UsageError, match="nvme0c0n1 is hidden"):
        parse_target("nvme0c0n1", root=root)


def test_a_machine_without_sysfs_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is sysfs mounted"):
        Target.block("sda", root=tmp_path)


def test_a_serial_number_is_part_of_the_identity(tmp_path: Path) -> None:
    device = tmp_path / "sys/block/sda"
    device.mkdir(parents=True)
    (device / "dev").write_text("8:16\n")
    assert Target.block("sda", root=tmp_path).identity() == "8:16"
    (device / "diskseq").write_text("7\n")
    assert Target.block("sda", root=tmp_path).identity() == "8:16 diskseq=7"
    (device / "serial").write_text("X1\n")
    assert Target.block("sda", root=tmp_path).identity() == "8:16 serial=X1"
    (device / "dev").write_text("?\n")
    with pytest.raises(KnobError, match="device number of sda"):
        Target.block("sda", root=tmp_path)


@pytest.mark.kernel
def test_a_loop_device_with_another_file_is_another_disk(tmp_path: Path) -> None:
    """It has the name and the number of the one before, and no serial number."""
    with loop_disk(tmp_path) as name:
        first = Target.block(name)
        before = first.identity()
        subprocess.run(["losetup", "--detach", f"/dev/{name}"], check=True)
        subprocess.run(["losetup", f"/dev/{name}", tmp_path / "disk"], check=True)
        assert first.is_present()
        assert "diskseq=" in before
        assert first.identity() != before
