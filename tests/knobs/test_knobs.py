# SPDX-License-Identifier: Apache-2.0
"""The records of all knobs, and what the real kernel makes of them."""

from __future__ import annotations

import math
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from programs import machine_lacks
from sample_module import loop_disk

from kmind.errors import KnobError, PrivilegeError, UsageError
from kmind.knobs import (
    Knob,
    Rule,
    Target,
    Value,
    all_knobs,
    block_devices,
    block_targets,
    get_knob,
    knob_by_id,
    parse_target,
)
from kmind.knobs.__main__ import table
from kmind.knobs._cgroup import cgroup_mounts

DOCS = Path(__file__).parents[2] / "docs"

BLOCK = [knob for knob in all_knobs() if knob.target == "block"]
CGROUP = [knob for knob in all_knobs() if knob.target == "cgroup"]

system = Target.system()
SYSTEM = [knob for knob in all_knobs() if knob.exists(system)]


def name_of(knob: Knob) -> str:
    return knob.name


def spare() -> Target:
    for name in reversed(block_devices()):
        if Path(f"/sys/block/{name}/size").read_text() == "0\n" and name.startswith("loop"):
            return Target.block(name)
    return machine_lacks("no free loop device")


def unused_zram() -> Target:
    for name in block_devices():
        state = Path(f"/sys/block/{name}/initstate")
        if state.exists() and state.read_text() == "0\n":
            return Target.block(name)
    return machine_lacks("no zram device that is not set up: modprobe zram")


def another(knob: Knob, target: Target) -> Value:
    """A value that the knob does not hold, and that is safe there."""
    before = knob.read(target)
    if knob.kind == "enum":
        return next(choice for choice in knob.available(target) if choice != before)
    assert isinstance(before, int)
    low, high = knob.limits(target)
    return before - knob.grid if low <= before - knob.grid <= high else low + knob.grid


def takes_and_returns(knob: Knob, target: Target) -> None:
    before, value = knob.read(target), another(knob, target)
    try:
        knob.write(target, value)
        assert knob.read(target) == value
    finally:
        knob.write(target, before)
    assert knob.read(target) == before


def test_ids_are_unique_and_survive_releases() -> None:
    ids = [knob.id for knob in all_knobs()]
    assert len(set(ids)) == len(ids)
    assert all(0 < number < 1 << 32 for number in ids)
    assert get_knob("block.read_ahead_kb").id == 0x215F1FE3
    assert get_knob("vm.swappiness").id == 0xC91C57D0
    assert all(knob_by_id(knob.id) is knob for knob in all_knobs())


@pytest.mark.parametrize("knob", all_knobs(), ids=name_of)
def test_a_record_makes_sense(knob: Knob) -> None:
    assert knob.summary
    assert knob.reference.startswith("Documentation/")
    assert knob.cost_why.endswith(".")
    assert bool(knob.controller) <= (knob.target == "cgroup")
    if knob.kind == "enum":
        assert 1 < len(knob.choices) <= 64
    else:
        assert knob.minimum < knob.maximum
        assert knob.minimum % knob.grid == 0 == knob.maximum % knob.grid
    for rule in knob.rules:
        other = get_knob(rule.other)
        assert (other.kind, other.target) == ("int", knob.target)
        mirrored = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}[rule.op]
        assert Rule(mirrored, knob.name, -rule.offset) in other.rules
    for name in knob.disturbs:
        assert get_knob(name).target == knob.target


def test_the_documentation_holds_the_table() -> None:
    assert table() in (DOCS / "knobs.md").read_text(), "run: python -m kmind.knobs"


@pytest.mark.parametrize("knob", SYSTEM, ids=name_of)
def test_what_stands_can_be_written_down(knob: Knob) -> None:
    assert knob.decode(knob.encode(knob.read(system))) == knob.read(system)
    if knob.kind == "enum":
        assert knob.read(system) in knob.available(system)


def test_the_kernel_has_the_knobs_of_memory_management() -> None:
    assert {k.name for k in all_knobs() if k.sysctl} <= {k.name for k in SYSTEM}


@pytest.mark.kernel
@pytest.mark.parametrize("knob", SYSTEM, ids=name_of)
def test_a_system_knob_takes_and_returns_values(knob: Knob) -> None:
    takes_and_returns(knob, system)


@pytest.mark.kernel
@pytest.mark.parametrize("knob", BLOCK, ids=name_of)
def test_a_block_knob_takes_and_returns_values(knob: Knob) -> None:
    takes_and_returns(knob, unused_zram() if knob.name.startswith("zram.") else spare())


@pytest.fixture
def cgroup() -> Iterator[Target]:
    """A cgroup of the test's own, in each hierarchy that lets it be made."""
    name = f"kmind-test-{os.getpid()}"
    made = []
    for point in set(cgroup_mounts(Path("/")).values()):
        try:
            (point / name).mkdir()
        except OSError:
            continue
        made.append(point / name)
    try:
        yield Target.cgroup(f"/{name}")
    finally:
        for folder in made:
            folder.rmdir()


@pytest.mark.kernel
def test_a_cgroups_knobs_take_and_return_values(cgroup: Target) -> None:
    here = [knob for knob in CGROUP if knob.exists(cgroup)]
    assert here, "neither version of cgroups has a controller here"
    for knob in here:
        takes_and_returns(knob, cgroup)
    assert parse_target(cgroup.name) == cgroup
    assert all(word.isdigit() for word in cgroup.identity().split())


@given(st.integers(-(1 << 62), 1 << 62))
def test_an_integer_encodes_as_itself(value: int) -> None:
    knob = get_knob("vm.swappiness")
    assert knob.encode(value) == value
    assert knob.decode(value) == value
    assert knob.parse(knob.format(value)) == value


def test_a_choice_encodes_as_its_index() -> None:
    knob = get_knob("block.scheduler")
    for index, choice in enumerate(knob.choices):
        assert knob.encode(choice) == index
        assert knob.decode(index) == choice
        assert knob.parse(knob.format(choice)) == choice
    for wrong in (-1, len(knob.choices)):
        with pytest.raises(UsageError, match="no choice number"):
            knob.decode(wrong)


@pytest.mark.parametrize("value", [1.5, math.nan, math.inf, True, None, "60", b"60"])
def test_what_is_no_integer_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match=r"vm\.swappiness takes an integer"):
        get_knob("vm.swappiness").encode(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "x", "1.5", "0x10", "1 2"])
def test_what_cannot_be_parsed_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"block\.read_ahead_kb takes an integer \(kB\)"):
        get_knob("block.read_ahead_kb").parse(text)


def test_an_unknown_choice_is_refused_with_a_guess() -> None:
    with pytest.raises(UsageError, match="did you mean mq-deadline"):
        get_knob("block.scheduler").encode("deadline")


def test_an_unknown_knob_is_refused_with_a_guess() -> None:
    with pytest.raises(UsageError, match=r"did you mean block\.read_ahead_kb\?"):
        get_knob("block.readahead_kb")
    with pytest.raises(UsageError, match="known are block"):
        get_knob("?")
    with pytest.raises(UsageError, match="0x00000001"):
        knob_by_id(1)


def test_hyphens_and_underscores_are_equal() -> None:
    assert get_knob("vm.page-cluster") is get_knob("vm.page_cluster")


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


def cgroups(root: Path) -> Path:
    """A machine that has cgroup v2, and blkio of version 1; its v2 mount."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mounts").write_text(
        "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\ncgroup /mnt/b\\040k cgroup rw,blkio 0 0\n"
    )
    (root / "mnt/b k/web").mkdir(parents=True)
    (root / "sys/fs/cgroup/a/web.service").mkdir(parents=True)
    return root / "sys/fs/cgroup"


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


def test_a_cgroups_own_way_of_writing_numbers_is_read(tmp_path: Path) -> None:
    folder = cgroups(tmp_path) / "a/web.service"
    target = Target.cgroup("/a/web.service", root=tmp_path)
    high, weight = get_knob("cgroup.memory_high"), get_knob("cgroup.io_weight")
    (folder / "memory.high").write_text("max\n")
    (folder / "io.weight").write_text("default 100\n254:0 300\n")
    assert high.read(target) == high.parse("max") == high.maximum
    assert high.maximum % high.grid == 0
    high.write(target, 64 << 20)
    assert high.read(target) == 64 << 20
    assert weight.read(target) == 100
    with pytest.raises(UsageError, match="takes an integer"):
        weight.parse("default")


def test_only_a_compressor_that_the_kernel_has_can_be_chosen(tmp_path: Path) -> None:
    knob, target = get_knob("zswap.compressor"), Target.system(root=tmp_path)
    file = knob.file(target)
    file.parent.mkdir(parents=True)
    file.write_text("lzo\n")
    assert knob.available(target) == ("lzo",)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/crypto").write_text("name         : zstd\ndriver : lz4\n")
    assert knob.available(target) == ("lzo", "zstd")


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
        ("/dev/file", "is no block device"),
        ("/dev/disk/by-id", "is no block device"),
        ("/dev/disk/by-id/none", "unknown block device"),
        ("/dev/a\0b", "is no path"),
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


def test_a_device_that_lacks_a_knob_is_named() -> None:
    name = next(
        (n for n in block_devices() if not Path(f"/sys/block/{n}/queue/scheduler").exists()), None
    )
    if name is None:
        machine_lacks("every block device here has a scheduler")
    target, knob = Target.block(name), get_knob("block.scheduler")
    assert not knob.exists(target)
    for act in (knob.read, knob.available, lambda t: knob.write(t, "none")):
        with pytest.raises(KnobError, match=rf"{name} has no knob block\.scheduler"):
            act(target)


def test_a_knob_of_another_kind_of_target_is_refused() -> None:
    with pytest.raises(UsageError, match=r"knob of a block target.*name a block device"):
        get_knob("block.nomerges").read(system)
    assert not get_knob("block.nomerges").exists(system)


@pytest.mark.kernel
def test_what_the_kernel_refuses_is_said_in_its_words() -> None:
    target = spare()
    assert get_knob("block.scheduler").read(target) == "none"
    with pytest.raises(KnobError, match=r"cannot set block\.nr_requests of .*: Invalid argument"):
        get_knob("block.nr_requests").write(target, 60_000)


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


def test_a_choice_is_read_out_of_its_brackets() -> None:
    knob = get_knob("block.scheduler")
    target = spare()
    assert knob.read(target) in knob.available(target)
    assert set(knob.available(target)) <= set(knob.choices)
    assert get_knob("vm.swappiness").available(system) == ()


def test_a_ratio_is_not_written_while_bytes_are_in_force(tmp_path: Path) -> None:
    folder = tmp_path / "proc/sys/vm"
    folder.mkdir(parents=True)
    (folder / "dirty_ratio").write_text("0\n")
    (folder / "dirty_bytes").write_text("4096\n")
    target = Target.system(root=tmp_path)
    with pytest.raises(KnobError, match="not in force: /proc/sys/vm/dirty_bytes is set"):
        get_knob("vm.dirty_ratio").write(target, 20)
    assert (folder / "dirty_ratio").read_text() == "0\n"
    (folder / "dirty_bytes").write_text("0\n")
    get_knob("vm.dirty_ratio").write(target, 20)
    assert get_knob("vm.dirty_ratio").read(target) == 20


def test_a_file_that_holds_no_number_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "proc/sys/vm"
    folder.mkdir(parents=True)
    (folder / "swappiness").write_text("sixty\n")
    with pytest.raises(KnobError, match=r"vm\.swappiness of system reads 'sixty'"):
        get_knob("vm.swappiness").read(Target.system(root=tmp_path))


def test_a_share_of_memory_lowers_the_maximum(tmp_path: Path) -> None:
    knob = get_knob("vm.min_free_kbytes")
    target = Target.system(root=tmp_path)
    assert knob.limits(target) == (1024, 1024)  # it cannot be told: the safe minimum
    (tmp_path / "proc").mkdir()
    for total, maximum in ((1 << 20, 52428), (1 << 40, 1 << 20), (100, 1024)):
        (tmp_path / "proc/meminfo").write_text(f"MemTotal:  {total} kB\n")
        assert knob.limits(target) == (1024, maximum)


@given(st.sampled_from(["<", "<=", ">", ">="]), st.integers(), st.integers(), st.integers())
def test_a_rule_is_plain_arithmetic(op: str, value: int, other: int, offset: int) -> None:
    expected = eval(f"{value} {op} {other} + {offset}")
    assert Rule(op, "vm.swappiness", offset).holds(value, other) is expected  # type: ignore[arg-type]
