# SPDX-License-Identifier: Apache-2.0
"""Open files are told of a new value, or not in time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from guard.readers import READ_AHEAD, readahead_kb

from kmind.guard import Actuator, Journal, Policy, _carry, openfiles
from kmind.knobs import Target

pytestmark = [pytest.mark.kernel, pytest.mark.fault]


def test_a_reader_in_order_is_read_ahead_less_when_that_is_lowered(
    mounted: Target, tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
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
            before = _reads(mounted)
            for _ in range(mib << 8):
                os.read(fd, 4096)
            return _reads(mounted) - before

        actuator = Actuator(journal, Policy())
        actuator.apply(READ_AHEAD, mounted, 1024, who="test@it", why="")
        actuator.finish()
        few = requests(4)
        # It reads on while the value is lowered, by what was read ahead.
        monkeypatch.setattr(_carry, "_pause", lambda _: requests(3))
        actuator.apply(READ_AHEAD, mounted, 16, who="test@it", why="")
        actuator.finish()
        assert journal.drains() == []
        many = requests(4)
        assert READ_AHEAD.read(mounted) == 16
        assert readahead_kb(mounted, os.getpid()) == [16]
        assert many >= 200 > 2 * few
    finally:
        os.close(fd)


def test_readahead_stops_only_for_files_that_are_being_read_in_order(
    mounted: Target, tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
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
        actuator.apply(READ_AHEAD, mounted, 1024, who="test@it", why="")
        actuator.finish()
        for at in places:
            os.pread(fd, 4096, at << 12)
        actuator.apply(READ_AHEAD, mounted, 16, who="test@it", why="")
        actuator.finish()
        assert readahead_kb(mounted, os.getpid()) == [16]
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
def stream(mounted: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
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


def _reads(mounted: Target) -> int:
    return int((mounted.root / f"sys/block/{mounted.name}/stat").read_text().split()[0])


@pytest.mark.parametrize("theirs", ["0", "64"])  # be it the very value that stands just then
def test_what_somebody_writes_while_readahead_is_off_wins(
    mounted: Target, stream: int, journal: Journal, monkeypatch: pytest.MonkeyPatch, theirs: str
) -> None:
    file = Path(READ_AHEAD.place(mounted))
    monkeypatch.setattr(_carry, "_pause", lambda _: file.write_text(theirs))
    actuator = Actuator(journal, Policy())
    actuator.apply(READ_AHEAD, mounted, 1024, who="test@it", why="")
    actuator.finish()
    _read_in_order(stream)
    actuator.apply(READ_AHEAD, mounted, 16, who="test@it", why="")
    actuator.finish()
    assert READ_AHEAD.read(mounted) == int(theirs)
    (gone,) = actuator.check()
    assert gone.found == int(theirs)


def test_the_owner_sees_its_own_value_while_readahead_is_off(
    mounted: Target, stream: int, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    off, go_on = threading.Event(), threading.Event()

    def pause(cancelled: threading.Event) -> None:
        off.set()
        until = time.monotonic() + 20
        while not (go_on.is_set() or cancelled.is_set()) and time.monotonic() < until:
            time.sleep(0.001)

    monkeypatch.setattr(_carry, "_pause", pause)
    actuator = Actuator(journal, Policy())
    first = actuator.apply(READ_AHEAD, mounted, 1024, who="test@it", why="")
    actuator.finish()
    _read_in_order(stream)
    actuator.apply(READ_AHEAD, mounted, 16, who="test@it", why="")
    try:
        assert off.wait(20)
        assert READ_AHEAD.read(mounted) == 0
        assert [drain.value for drain in journal.drains()] == [16]
        assert actuator.read(READ_AHEAD, mounted) == 16
        assert actuator.check() == []
        actuator.undo(first)  # stops it, and does not wait for it
        assert READ_AHEAD.read(mounted) == 128
        actuator.finish()
        assert (READ_AHEAD.read(mounted), journal.drains()) == (128, [])
        assert readahead_kb(mounted, os.getpid()) == [128]
    finally:
        go_on.set()


def test_an_undo_does_not_depend_on_a_thread_that_hangs(
    mounted: Target, stream: int, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readahead was off for longer than an undo waits: its 0 was taken for the admin's."""
    off, go_on = threading.Event(), threading.Event()

    def pause(cancelled: threading.Event) -> None:
        off.set()
        assert go_on.wait(60)

    monkeypatch.setattr(_carry, "_pause", pause)
    monkeypatch.setattr(_carry, "_STILL_S", 0.05)
    actuator = Actuator(journal, Policy())
    first = actuator.apply(READ_AHEAD, mounted, 1024, who="test@it", why="")
    actuator.finish()
    _read_in_order(stream)
    actuator.apply(READ_AHEAD, mounted, 16, who="test@it", why="")
    try:
        assert off.wait(20)
        assert actuator.undo(first).state == "undone"
        assert READ_AHEAD.read(mounted) == 128
    finally:
        go_on.set()
    monkeypatch.setattr(_carry, "_STILL_S", 20)
    actuator.finish()
    assert (READ_AHEAD.read(mounted), journal.open_changes()) == (128, [])
