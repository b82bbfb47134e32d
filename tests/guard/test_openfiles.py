# SPDX-License-Identifier: Apache-2.0
"""A new readahead reaches files that are open; on a file system of the test's own."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guard.support import in_child

from kmind.errors import UsageError
from kmind.guard import Actuator, Journal, Policy, _carry, openfiles, restore
from kmind.guard.openfiles import open_files, refresh_open_files
from kmind.knobs import Target, get_knob

pytestmark = [pytest.mark.kernel, pytest.mark.fault]

READ_AHEAD = get_knob("block.read_ahead_kb")
PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Target]:
    """A loop device with a file system, mounted at tmp_path/mnt."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    show = subprocess.run(
        ["losetup", "--find", "--show", image], check=True, capture_output=True, text=True
    )
    device = show.stdout.strip()
    target = Target.block(device)
    before = READ_AHEAD.read(target)
    READ_AHEAD.write(target, 128)
    (tmp_path / "mnt").mkdir()
    subprocess.run(["mount", device, tmp_path / "mnt"], check=True)
    yield target
    subprocess.run(["umount", tmp_path / "mnt"], check=True)
    READ_AHEAD.write(target, before)
    subprocess.run(["losetup", "-d", device], check=True)


@pytest.fixture
def holder(tmp_path: Path, disk: Target) -> Iterator[Callable[[Callable[[Path], object]], int]]:
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


def readahead_kb(target: Target, pid: int) -> list[int]:
    """The readahead of the files on a disk that a process has open."""
    return [
        each.ra_pages * PAGE_KB
        for each in open_files()[0]
        if each.disk == target.id and each.tgid == pid
    ]


def test_open_files_follow_a_change_and_its_undo(
    disk: Target, holder: Callable[..., int], journal: Journal
) -> None:
    pid = holder(opened("plain"))
    assert readahead_kb(disk, pid) == [128]
    actuator = Actuator(journal, Policy())
    change = actuator.apply(READ_AHEAD, disk, 16, who="test@it", why="")
    actuator.finish()
    assert readahead_kb(disk, pid) == [16]
    assert change.remark in (
        "open files: 1 follow, 0 left as advised, 0 out of reach",
        "open files are being told",  # on a busy machine
    )
    actuator.apply(READ_AHEAD, disk, 512, who="test@it", why="")
    actuator.finish()
    assert readahead_kb(disk, pid) == [512]
    actuator.undo(change)
    actuator.finish()
    assert readahead_kb(disk, pid) == [128]


def test_open_files_follow_a_restore(
    disk: Target, holder: Callable[..., int], journal: Journal, state: Path
) -> None:
    def die() -> None:
        actuator = Actuator(Journal(state), Policy())
        for value in (16, 64, 32):
            actuator.apply(READ_AHEAD, disk, value, who="test@it", why="")
            actuator.finish()

    pid = holder(opened("plain"))
    assert in_child(die) == 0
    late = holder(opened("late"))
    assert (readahead_kb(disk, pid), readahead_kb(disk, late)) == ([32], [32])
    assert len(restore(journal).restored) == 1
    assert (readahead_kb(disk, pid), readahead_kb(disk, late)) == ([128], [128])


def test_a_reader_in_order_is_read_ahead_less_when_that_is_lowered(
    disk: Target, tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In windows of 1 MiB at first, then of 16 KiB.
    monkeypatch.setattr(openfiles, "_ahead", {})  # of a file at the same address, in another test
    path = tmp_path / "mnt" / "stream"
    path.write_bytes(os.urandom(12 << 20))
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

        def requests(mib: int) -> int:
            before = _reads(disk)
            for _ in range(mib << 8):
                os.read(fd, 4096)
            return _reads(disk) - before

        actuator = Actuator(journal, Policy())
        actuator.apply(READ_AHEAD, disk, 1024, who="test@it", why="")
        actuator.finish()
        few = requests(4)
        # It reads on while the value is lowered, by what was read ahead.
        monkeypatch.setattr(_carry, "_pause", lambda _: requests(3))
        actuator.apply(READ_AHEAD, disk, 16, who="test@it", why="")
        actuator.finish()
        assert journal.drains() == []
        many = requests(4)
        assert READ_AHEAD.read(disk) == 16
        assert readahead_kb(disk, os.getpid()) == [16]
        assert many >= 200 > 2 * few
    finally:
        os.close(fd)


def test_readahead_stops_only_for_files_that_are_being_read_in_order(
    disk: Target, tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mnt" / "stream"
    path.write_bytes(os.urandom(12 << 20))
    fd = os.open(path, os.O_RDONLY)
    stops: list[object] = []
    monkeypatch.setattr(openfiles, "_ahead", {})
    monkeypatch.setattr(_carry, "_pause", stops.append)
    actuator = Actuator(journal, Policy())

    def lowered_from_1024() -> int:
        stops.clear()
        actuator.apply(READ_AHEAD, disk, 1024, who="test@it", why="")
        actuator.finish()
        for at in places:
            os.pread(fd, 4096, at << 12)
        actuator.apply(READ_AHEAD, disk, 16, who="test@it", why="")
        actuator.finish()
        assert readahead_kb(disk, os.getpid()) == [16]
        return len(stops)

    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        places = list(range(1024))
        assert lowered_from_1024() == 1
        places = [2999, 2400, 2700, 2200, 2550]  # its window stays where it was
        assert lowered_from_1024() == 0
        places = list(range(1024, 1900))
        assert lowered_from_1024() == 1
    finally:
        os.close(fd)


@pytest.fixture
def stream(disk: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A file of 4 MiB that is on the disk, and open."""
    monkeypatch.setattr(openfiles, "_ahead", {})
    path = tmp_path / "mnt" / "stream"
    path.write_bytes(os.urandom(4 << 20))
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    yield fd
    os.close(fd)


def _read_in_order(fd: int) -> None:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    for at in range(700):
        os.pread(fd, 4096, at << 12)


def _reads(disk: Target) -> int:
    return int((disk.root / f"sys/block/{disk.name}/stat").read_text().split()[0])


def test_killed_in_the_midst_of_a_decrease_it_is_put_back(
    disk: Target, journal: Journal, state: Path
) -> None:
    def die() -> None:
        own = Journal(state)
        actuator = Actuator(own, Policy())
        actuator.apply(READ_AHEAD, disk, 16, who="test@it", why="")
        actuator.finish()
        own.begin_drain(READ_AHEAD, disk, 16)
        READ_AHEAD.write(disk, 0)

    assert in_child(die) == 0
    assert READ_AHEAD.read(disk) == 0
    assert len(restore(journal).restored) == 1
    assert READ_AHEAD.read(disk) == 128
    assert journal.drains() == []


def test_a_zero_that_the_admin_wrote_is_left_by_undo_and_restore(
    disk: Target, journal: Journal, state: Path
) -> None:
    # 0 is also what a decrease passes through; but of that the journal would know.
    actuator = Actuator(journal, Policy())
    change = actuator.apply(READ_AHEAD, disk, 16, who="test@it", why="")
    actuator.finish()
    READ_AHEAD.write(disk, 0)
    assert actuator.undo(change).state == "yielded"
    assert READ_AHEAD.read(disk) == 0
    READ_AHEAD.write(disk, 128)

    def die() -> None:
        own = Actuator(Journal(state), Policy())
        own.apply(READ_AHEAD, disk, 16, who="test@it", why="")
        own.finish()

    assert in_child(die) == 0
    READ_AHEAD.write(disk, 0)
    assert [each.state for each in restore(journal).skipped] == ["yielded"]
    assert READ_AHEAD.read(disk) == 0


@pytest.mark.parametrize("theirs", ["0", "64"])  # be it the very value that stands just then
def test_what_somebody_writes_while_readahead_is_off_wins(
    disk: Target, stream: int, journal: Journal, monkeypatch: pytest.MonkeyPatch, theirs: str
) -> None:
    file = READ_AHEAD.file(disk)
    monkeypatch.setattr(_carry, "_pause", lambda _: file.write_text(theirs))
    actuator = Actuator(journal, Policy())
    actuator.apply(READ_AHEAD, disk, 1024, who="test@it", why="")
    actuator.finish()
    _read_in_order(stream)
    actuator.apply(READ_AHEAD, disk, 16, who="test@it", why="")
    actuator.finish()
    assert READ_AHEAD.read(disk) == int(theirs)
    (gone,) = actuator.check()
    assert gone.found == int(theirs)


def test_the_owner_sees_its_own_value_while_readahead_is_off(
    disk: Target, stream: int, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    off, go_on = threading.Event(), threading.Event()

    def pause(cancelled: threading.Event) -> None:
        off.set()
        until = time.monotonic() + 20
        while not (go_on.is_set() or cancelled.is_set()) and time.monotonic() < until:
            time.sleep(0.001)

    monkeypatch.setattr(_carry, "_pause", pause)
    actuator = Actuator(journal, Policy())
    first = actuator.apply(READ_AHEAD, disk, 1024, who="test@it", why="")
    actuator.finish()
    _read_in_order(stream)
    actuator.apply(READ_AHEAD, disk, 16, who="test@it", why="")
    try:
        assert off.wait(20)
        assert READ_AHEAD.read(disk) == 0
        assert [drain.value for drain in journal.drains()] == [16]
        assert actuator.read(READ_AHEAD, disk) == 16
        assert actuator.check() == []
        actuator.undo(first)  # stops it, and does not wait for it
        assert READ_AHEAD.read(disk) == 128
        actuator.finish()
        assert (READ_AHEAD.read(disk), journal.drains()) == (128, [])
        assert readahead_kb(disk, os.getpid()) == [128]
    finally:
        go_on.set()


def test_an_undo_does_not_depend_on_a_thread_that_hangs(
    disk: Target, stream: int, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readahead was off for longer than an undo waits: its 0 was taken for the admin's."""
    off, go_on = threading.Event(), threading.Event()

    def pause(cancelled: threading.Event) -> None:
        off.set()
        assert go_on.wait(60)

    monkeypatch.setattr(_carry, "_pause", pause)
    monkeypatch.setattr(_carry, "_STILL_S", 0.05)
    actuator = Actuator(journal, Policy())
    first = actuator.apply(READ_AHEAD, disk, 1024, who="test@it", why="")
    actuator.finish()
    _read_in_order(stream)
    actuator.apply(READ_AHEAD, disk, 16, who="test@it", why="")
    try:
        assert off.wait(20)
        assert actuator.undo(first).state == "undone"
        assert READ_AHEAD.read(disk) == 128
    finally:
        go_on.set()
    monkeypatch.setattr(_carry, "_STILL_S", 20)
    actuator.finish()
    assert (READ_AHEAD.read(disk), journal.open_changes()) == (128, [])


def test_many_open_files_take_none_of_the_owners_time(
    disk: Target, tmp_path: Path, holder: Callable[..., int], journal: Journal
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
        change = actuator.apply(READ_AHEAD, disk, value, who="test@it", why="")
        took.append(time.thread_time() - spent)
        actuator.finish()
    assert change is not None
    # By the clock of its own thread, for the neighbours take theirs; it was 1.13 s.
    assert min(took) < 0.05
    told = sum(kb == 512 for pid in pids for kb in readahead_kb(disk, pid))
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
    disk: Target, holder: Callable[..., int], advice: int, before: int
) -> None:
    pid = holder(opened("advised", advice))

    def look() -> list[tuple[int, int, bool]]:
        return [
            (each.mode, each.ra_pages * PAGE_KB, each.advised)
            for each in open_files()[0]
            if each.tgid == pid and each.disk == disk.id
        ]

    found = look()
    assert [(kb, advised) for _, kb, advised in found] == [(before, before == 128)]
    READ_AHEAD.write(disk, 16)
    result = refresh_open_files(disk, 128, 16)
    assert (result.files, result.skipped, result.unreachable) == (0, 1, 0)
    assert look() == found


def test_a_file_that_is_shared_counts_once(
    disk: Target, holder: Callable[..., int], tmp_path: Path
) -> None:
    fd = opened("shared")(tmp_path / "mnt")
    again = os.dup(fd)
    try:
        pids = [holder(lambda _: fd) for _ in range(2)]  # they inherit both
        assert [readahead_kb(disk, pid) for pid in pids] == [[128, 128], [128, 128]]
        READ_AHEAD.write(disk, 16)
        result = refresh_open_files(disk, 128, 16)
        assert (result.files, result.skipped, result.unreachable) == (1, 0, 0)
        assert [readahead_kb(disk, pid) for pid in pids] == [[16, 16], [16, 16]]
    finally:
        os.close(fd)
        os.close(again)


def test_a_file_that_is_only_mapped_is_counted(disk: Target, holder: Callable[..., int]) -> None:
    holder(mapped)
    READ_AHEAD.write(disk, 16)
    result = refresh_open_files(disk, 128, 16)
    assert (result.files, result.skipped, result.unreachable) == (0, 0, 1)


def test_files_of_other_disks_and_values_are_left_alone(
    disk: Target, holder: Callable[..., int], spare: Target
) -> None:
    pid = holder(opened("plain"))
    READ_AHEAD.write(disk, 16)
    assert refresh_open_files(spare, 128, 16).files == 0
    assert refresh_open_files(disk, 64, 16).files == 0
    assert refresh_open_files(disk, 16, 16).files == 0
    assert readahead_kb(disk, pid) == [128]
    assert refresh_open_files(disk, {64, 128}, 16).files == 1


def test_without_its_iterators_it_says_what_is_not_done(
    disk: Target, journal: Journal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(openfiles, "_OBJECT", tmp_path / "nosuch.bpf.o")
    change = Actuator(journal, Policy()).apply(READ_AHEAD, disk, 16, who="test@it", why="")
    assert READ_AHEAD.read(disk) == 16
    assert change.remark.startswith("files already open keep the old value: cannot read")
    assert restore(journal, force=True).restored[0].why.startswith("files already open keep")


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
