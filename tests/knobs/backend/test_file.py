# SPDX-License-Identifier: Apache-2.0
"""Knobs that are files: reading, writing, what can be guarded, and what is said of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kmind.errors import KnobError, PrivilegeError
from kmind.knobs import Target, all_knobs, get_knob
from kmind.knobs.backend import FILE, SysctlGuard, SysfsGuard

system = Target.system()
DISK = Target("block", "vda", 254 << 20)


def test_file_is_the_backend_of_every_knob_of_today() -> None:
    assert {knob.backend for knob in all_knobs()} == {FILE}


def test_a_sysctl_is_guarded_with_those_that_reset_it() -> None:
    assert get_knob("vm.swappiness").guard(system) == SysctlGuard("vm/swappiness")
    guard = get_knob("vm.dirty_ratio").guard(system)
    assert guard == SysctlGuard("vm/dirty_ratio", ("vm/dirty_bytes",))


def test_a_file_of_sysfs_is_guarded_by_its_path() -> None:
    guard = get_knob("block.nomerges").guard(DISK)
    assert guard == SysfsGuard(Path("/sys/block/vda/queue/nomerges"))
    assert get_knob("thp.enabled").guard(system) == SysfsGuard(
        Path("/sys/kernel/mm/transparent_hugepage/enabled")
    )


def test_no_guard_for_a_cgroup_or_another_root(tmp_path: Path) -> None:
    assert get_knob("cgroup.cpu_weight").guard(Target("cgroup", "cgroup:a", 1)) is None
    assert get_knob("vm.swappiness").guard(Target.system(root=tmp_path)) is None


def test_messages_name_the_file() -> None:
    knob = get_knob("block.nomerges")
    assert knob.place(DISK) == "/sys/block/vda/queue/nomerges"
    assert knob.show_command(DISK) == "cat /sys/block/vda/queue/nomerges"
    assert knob.set_command(DISK, "2") == "echo 2 > /sys/block/vda/queue/nomerges"


def test_identity_is_that_of_the_target() -> None:
    assert get_knob("block.nomerges").identity(DISK) == DISK.identity()


def test_a_value_is_written_whole(tmp_path: Path) -> None:
    knob, target = get_knob("vm.swappiness"), Target.system(root=tmp_path)
    file = Path(knob.place(target))
    file.parent.mkdir(parents=True)
    file.write_text("100\n")
    assert knob.exists(target)
    knob.check_writable(target)
    assert file.read_text() == "100\n"
    knob.write(target, 7)
    assert (file.read_text(), knob.read(target)) == ("7", 7)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    knob, target = get_knob("vm.swappiness"), Target.system(root=tmp_path)
    assert not knob.exists(target)
    for act in (knob.read, knob.check_writable, lambda each: knob.write(each, 7)):
        with pytest.raises(
            KnobError, match=r"system has no knob vm\.swappiness \(no /.*swappiness"
        ):
            act(target)


def test_only_a_compressor_that_the_kernel_has_can_be_chosen(tmp_path: Path) -> None:
    knob, target = get_knob("zswap.compressor"), Target.system(root=tmp_path)
    file = Path(knob.place(target))
    file.parent.mkdir(parents=True)
    file.write_text("lzo\n")
    assert knob.available(target) == ("lzo",)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/crypto").write_text("name         : zstd\ndriver : lz4\n")
    assert knob.available(target) == ("lzo", "zstd")


@pytest.mark.kernel
def test_without_root_a_write_is_a_matter_of_privilege() -> None:
    before = get_knob("vm.swappiness").read(system)
    pid = os.fork()
    if pid == 0:
        try:
            os.setuid(65534)
            get_knob("vm.swappiness").write(system, 10)
        except PrivilegeError as error:
            os._exit(0 if error.hint == "run as root" else 2)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert get_knob("vm.swappiness").read(system) == before


def test_a_file_that_holds_no_number_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "proc/sys/vm"
    folder.mkdir(parents=True)
    (folder / "swappiness").write_text("sixty\n")
    with pytest.raises(KnobError, match=r"vm\.swappiness of system reads 'sixty'"):
        get_knob("vm.swappiness").read(Target.system(root=tmp_path))
