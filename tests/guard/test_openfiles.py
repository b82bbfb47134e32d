# SPDX-License-Identifier: Apache-2.0
"""A new readahead reaches files that are open; on a file system of the test's own."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guard.readers import PAGE_KB, READ_AHEAD, readahead_kb
from guard.support import in_child

from kmind.errors import UsageError
from kmind.guard import Actuator, Journal, Policy, openfiles, restore
from kmind.guard.openfiles import open_files, refresh_open_files
from kmind.knobs import Target

pytestmark = [pytest.mark.kernel, pytest.mark.fault]


@pytest.fixture
def holder(tmp_path: Path, mounted: Target) -> Iterator[Callable[[Callable[[Path], object]], int]]:
    """Starts processes that do something with the file system and then hold on."""
    pids = []

    def start(act: Callable[[Path], object]) -> int:
        ready, done = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                held = act(tmp_path / "mnt")
                os.write(done, b".")
                signal.pause()
                del held
            finally:
                os._exit(1)
        pids.append(pid)
        os.close(done)
        assert os.read(ready, 1) == b"."
        os.close(ready)
        return pid

    yield start
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def opened(name: str, advice: int | None = None) -> Callable[[Path], int]:
    def act(folder: Path) -> int:
        fd = os.open(folder / name, os.O_RDWR | os.O_CREAT)
        if advice is not None:
            os.posix_fadvise(fd, 0, 0, advice)
        return fd

    return act


def mapped(folder: Path) -> mmap.mmap:
    # Python keeps a copy of the descriptor with the mapping, which shares its file.
    fd = os.open(folder / "mapped", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 1 << 20)
    area = mmap.mmap(fd, 1 << 20)
    for each in Path("/proc/self/fd").iterdir():
        if each.is_symlink() and str(each.readlink()) == str(folder / "mapped"):
            os.close(int(each.name))
    return area


def test_open_files_follow_a_change_and_its_undo(
    mounted: Target, holder: Callable[..., int], journal: Journal
) -> None:
    pid = holder(opened("plain"))
    assert readahead_kb(mounted, pid) == [128]
    actuator = Actuator(journal, Policy())
    change = actuator.apply(READ_AHEAD, mounted, 16, who="test@it", why="")
    actuator.finish()
    assert readahead_kb(mounted, pid) == [16]
    assert change.remark in (
        "open files: 1 follow, 0 left as advised, 0 out of reach",
        "open files are being told",  # on a busy machine
    )
    actuator.apply(READ_AHEAD, mounted, 512, who="test@it", why="")
    actuator.finish()
    assert readahead_kb(mounted, pid) == [512]
    actuator.undo(change)
    actuator.finish()
    assert readahead_kb(mounted, pid) == [128]


def test_open_files_follow_a_restore(
    mounted: Target, holder: Callable[..., int], journal: Journal, state: Path
) -> None:
    def die() -> None:
        actuator = Actuator(Journal(state), Policy())
        for value in (16, 64, 32):
            actuator.apply(READ_AHEAD, mounted, value, who="test@it", why="")
            actuator.finish()

    pid = holder(opened("plain"))
    assert in_child(die) == 0
    late = holder(opened("late"))
    assert (readahead_kb(mounted, pid), readahead_kb(mounted, late)) == ([32], [32])
    assert len(restore(journal).restored) == 1
    assert (readahead_kb(mounted, pid), readahead_kb(mounted, late)) == ([128], [128])


def test_killed_in_the_midst_of_a_decrease_it_is_put_back(
    mounted: Target, journal: Journal, state: Path
) -> None:
    def die() -> None:
        own = Journal(state)
        actuator = Actuator(own, Policy())
        actuator.apply(READ_AHEAD, mounted, 16, who="test@it", why="")
        actuator.finish()
        own.begin_drain(READ_AHEAD, mounted, 16)
        READ_AHEAD.write(mounted, 0)

    assert in_child(die) == 0
    assert READ_AHEAD.read(mounted) == 0
    assert len(restore(journal).restored) == 1
    assert READ_AHEAD.read(mounted) == 128
    assert journal.drains() == []


def test_a_zero_that_the_admin_wrote_is_left_by_undo_and_restore(
    mounted: Target, journal: Journal, state: Path
) -> None:
    # 0 is also what a decrease passes through; but of that the journal would know.
    actuator = Actuator(journal, Policy())
    change = actuator.apply(READ_AHEAD, mounted, 16, who="test@it", why="")
    actuator.finish()
    READ_AHEAD.write(mounted, 0)
    assert actuator.undo(change).state == "yielded"
    assert READ_AHEAD.read(mounted) == 0
    READ_AHEAD.write(mounted, 128)

    def die() -> None:
        own = Actuator(Journal(state), Policy())
        own.apply(READ_AHEAD, mounted, 16, who="test@it", why="")
        own.finish()

    assert in_child(die) == 0
    READ_AHEAD.write(mounted, 0)
    assert [each.state for each in restore(journal).skipped] == ["yielded"]
    assert READ_AHEAD.read(mounted) == 0


def test_many_open_files_take_none_of_the_owners_time(
    mounted: Target, tmp_path: Path, holder: Callable[..., int], journal: Journal
) -> None:
    path = tmp_path / "mnt" / "many"
    path.touch()
    count = 900

    def act(_: Path) -> list[int]:
        return [os.open(path, os.O_RDONLY) for _ in range(count)]

    pids = [holder(act) for _ in range(22)]
    actuator = Actuator(journal, Policy())
    took = []
    change = None
    for value in (16, 512, 16, 512):
        spent = time.thread_time()
        change = actuator.apply(READ_AHEAD, mounted, value, who="test@it", why="")
        took.append(time.thread_time() - spent)
        actuator.finish()
    assert change is not None
    # By the clock of its own thread, for the neighbours take theirs; it was 1.13 s.
    assert min(took) < 0.05
    told = sum(kb == 512 for pid in pids for kb in readahead_kb(mounted, pid))
    remarks = actuator.remarks()
    assert told == count * len(pids) or any("were not told" in text for text in remarks), told


@pytest.mark.parametrize(
    ("advice", "before"),
    [
        (os.POSIX_FADV_RANDOM, 128),
        (os.POSIX_FADV_NOREUSE, 128),
        (os.POSIX_FADV_SEQUENTIAL, 256),
    ],
    ids=["random", "noreuse", "sequential"],
)
def test_what_a_program_asked_for_is_left_alone(
    mounted: Target, holder: Callable[..., int], advice: int, before: int
) -> None:
    pid = holder(opened("advised", advice))

    def look() -> list[tuple[int, int, bool]]:
        return [
            (each.mode, each.ra_pages * PAGE_KB, each.advised)
            for each in open_files()[0]
            if each.tgid == pid and each.disk == mounted.id
        ]

    found = look()
    assert [(kb, advised) for _, kb, advised in found] == [(before, before == 128)]
    READ_AHEAD.write(mounted, 16)
    result = refresh_open_files(mounted, 128, 16)
    assert (result.files, result.skipped, result.unreachable) == (0, 1, 0)
    assert look() == found


def test_a_file_that_is_shared_counts_once(
    mounted: Target, holder: Callable[..., int], tmp_path: Path
) -> None:
    fd = opened("shared")(tmp_path / "mnt")
    again = os.dup(fd)
    try:
        pids = [holder(lambda _: fd) for _ in range(2)]  # they inherit both
        assert [readahead_kb(mounted, pid) for pid in pids] == [[128, 128], [128, 128]]
        READ_AHEAD.write(mounted, 16)
        result = refresh_open_files(mounted, 128, 16)
        assert (result.files, result.skipped, result.unreachable) == (1, 0, 0)
        assert [readahead_kb(mounted, pid) for pid in pids] == [[16, 16], [16, 16]]
    finally:
        os.close(fd)
        os.close(again)


def test_a_file_that_is_only_mapped_is_counted(mounted: Target, holder: Callable[..., int]) -> None:
    holder(mapped)
    READ_AHEAD.write(mounted, 16)
    result = refresh_open_files(mounted, 128, 16)
    assert (result.files, result.skipped, result.unreachable) == (0, 0, 1)


def test_files_of_other_disks_and_values_are_left_alone(
    mounted: Target, holder: Callable[..., int], spare: Target
) -> None:
    pid = holder(opened("plain"))
    READ_AHEAD.write(mounted, 16)
    assert refresh_open_files(spare, 128, 16).files == 0
    assert refresh_open_files(mounted, 64, 16).files == 0
    assert refresh_open_files(mounted, 16, 16).files == 0
    assert readahead_kb(mounted, pid) == [128]
    assert refresh_open_files(mounted, {64, 128}, 16).files == 1


def test_without_its_iterators_it_says_what_is_not_done(
    mounted: Target, journal: Journal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(openfiles, "_OBJECT", tmp_path / "nosuch.bpf.o")
    change = Actuator(journal, Policy()).apply(READ_AHEAD, mounted, 16, who="test@it", why="")
    assert READ_AHEAD.read(mounted) == 16
    assert change.remark.startswith("open files keep the old value: cannot read")
    assert restore(journal, force=True).restored[0].why.startswith("open files keep")


def test_a_file_on_a_partition_belongs_to_its_disk(tmp_path: Path) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        # One partition of 16 MiB in a table as old as the PC: type, first sector, sectors.
        file.write(bytes(450) + b"\x83" + bytes(3) + (2048).to_bytes(4, "little"))
        file.write((32768).to_bytes(4, "little") + bytes(48) + b"\x55\xaa")
        file.truncate(32 << 20)
    show = subprocess.run(
        ["losetup", "--find", "--show", image],
        check=True,
        capture_output=True,
        text=True,
    )
    device = show.stdout.strip()
    folder = tmp_path / "mnt"
    folder.mkdir()
    try:
        target = Target.block(device)
        # Told to the kernel, which may itself know no format of partition tables.
        subprocess.run(["partx", "--add", device], check=True)
        with pytest.raises(UsageError, match=f"is a partition.*name its disk: {target.name}"):
            Target.block(f"{device}p1")
        subprocess.run(["mkfs.ext4", "-q", "-F", f"{device}p1"], check=True)
        subprocess.run(["mount", f"{device}p1", folder], check=True)
        with (folder / "file").open("wb") as file:
            (each,) = [
                e for e in open_files()[0] if e.fd == file.fileno() and e.tgid == os.getpid()
            ]
            assert each.disk == target.id != each.dev
    finally:
        subprocess.run(["umount", folder], check=False)
        subprocess.run(["partx", "--delete", device], check=False)
        subprocess.run(["losetup", "-d", device], check=True)
