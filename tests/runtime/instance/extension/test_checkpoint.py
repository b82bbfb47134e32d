# SPDX-License-Identifier: Apache-2.0
"""Memory of an extension over restarts, as its owner keeps it."""

import os
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_disk import fill, small_disk

from kmind.abi import layout
from kmind.queue import MEMORY_MOST, Geometry
from kmind.queue.memory import write_memory
from kmind.runtime.budget import OwnerBudget
from kmind.runtime.instance.extension.checkpoint import Checkpoint
from kmind.util.saver import SAVER, Saver

GEOMETRY = Geometry.plan(1, 2)


class Kept:
    """A memory in a folder, beside the arena that a fresh extension writes to."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.clock = 100.0
        self.lines: list[str] = []
        self.budget = OwnerBudget(lambda: self.clock)
        self.arena = np.zeros(GEOMETRY.size, np.uint8)
        self.memory = Checkpoint(
            "x@vda", folder, self.budget, log=self.lines.append, now=lambda: self.clock
        )
        self.memory.watch(self.arena, GEOMETRY)

    def write(self, text: bytes) -> None:
        write_memory(self.arena, GEOMETRY, text)

    @property
    def header(self) -> np.ndarray:
        start = GEOMETRY.status + layout.LIMIT["STATUS_SIZE"]
        return self.arena[start : start + layout.MEMORY.itemsize].view(layout.MEMORY)

    def again(self) -> bytes:
        """Return the text that the next extension of that name gets, once all is written."""
        assert SAVER.settle(30)
        return Kept(self.folder).memory.load()


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "memory")


def test_nothing_is_kept_of_one_that_remembers_nothing(kept: Kept) -> None:
    assert kept.memory.load() == b""
    kept.memory.poll()
    assert kept.folder is not None
    assert not kept.folder.exists()
    assert kept.lines == []


def test_the_last_text_is_found_again(kept: Kept) -> None:
    kept.write(b'{"a":1}')
    kept.memory.poll()
    assert kept.again() == b'{"a":1}'
    kept.write(b'{"a":2}')
    kept.memory.poll()
    assert kept.again() == b'{"a":1}'  # too soon
    kept.clock += 5
    kept.memory.poll()
    assert kept.again() == b'{"a":2}'
    kept.write(b"[]")
    kept.memory.poll(last=True)
    assert kept.again() == b"[]"
    assert kept.folder is not None
    assert [path.name for path in kept.folder.iterdir()] == ["x@vda.json"]
    assert kept.lines == []


def test_without_a_folder_it_lasts_as_long_as_the_instance() -> None:
    kept = Kept(None)
    kept.write(b"1")
    kept.memory.poll()
    assert kept.memory.load() == b"1"
    assert kept.again() == b""


def test_what_is_being_written_is_left_for_later(kept: Kept) -> None:
    kept.write(b'{"a":1}')
    kept.memory.poll()
    kept.write(b'{"a":2}')
    kept.header["seq"][0] |= 1  # killed half-way
    kept.memory.poll(last=True)
    assert kept.again() == b'{"a":1}'
    assert kept.lines == []


@given(st.tuples(*[st.integers(0, (1 << 32) - 1)] * 3), st.binary(max_size=64))
def test_whatever_stands_there_is_kept_whole_or_not_at_all(
    words: tuple[int, int, int], text: bytes
) -> None:
    kept = Kept(None)
    kept.write(text)
    kept.header["seq"][0], kept.header["length"][0], check = words
    kept.header["check"][0] = check if check % 3 else zlib.crc32(text)
    kept.memory.poll()
    if kept.memory.load():
        assert kept.header["length"][0] == len(text)
        assert kept.header["check"][0] == zlib.crc32(text)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"nan", b"\xff", b"[" * 60_000, b'{"a":1}{"b":2}', b"\0" * MEMORY_MOST]
)
def test_what_is_no_json_is_left_out_and_said_once(kept: Kept, text: bytes) -> None:
    for _ in range(3):
        kept.write(text)
        kept.memory.poll(last=True)
    assert kept.again() == b""
    assert len(kept.lines) == 1
    assert "not saved: it is not JSON" in kept.lines[0]


def test_a_text_may_fill_the_region(kept: Kept) -> None:
    text = b'"' + b"x" * (MEMORY_MOST - 2) + b'"'
    kept.write(text)
    kept.memory.poll()
    assert kept.again() == text


def test_a_length_beyond_the_region_is_refused(kept: Kept) -> None:
    kept.write(b"1")
    kept.header["length"][0] = MEMORY_MOST + 1
    kept.memory.poll()
    assert kept.again() == b""
    assert kept.lines == ["the extension's memory does not match its checksum: not saved"]


def test_a_file_that_is_not_what_was_kept_begins_anew(kept: Kept) -> None:
    kept.write(b"1")
    kept.memory.poll()
    assert SAVER.settle(30)
    assert kept.folder is not None
    line = b'{"schema":"kmind.memory/'
    for text in (
        b"{",
        b" " * (MEMORY_MOST + 1),
        line + b'2"}\n' + b" " * MEMORY_MOST + b"1",
        line + b'0"}\n1',
        line + b"\n1",
        line + b"9" * 5000 + b'"}\n1',
        line + b'2"} 1\n1',
        b'{"schema":"other/1"}\n1',
    ):
        (kept.folder / "x@vda.json").write_bytes(text)
        other = Kept(kept.folder)
        assert other.memory.load() == b""
        assert "it starts without memory" in other.lines[0]


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1}',
        b'{"a":\n1}',
        b"1\n",
        b'{"schema":"kmind.memory/99"}',
        b'{"schema":"kmind.memory/99"}\n',
        b'{"schema":"kmind.memory/99",\n"a":1}',
    ],
)
def test_a_file_of_the_first_version_is_upgraded(kept: Kept, text: bytes) -> None:
    assert kept.folder is not None
    kept.folder.mkdir()
    (kept.folder / "x@vda.json").write_bytes(text)
    assert kept.memory.load() == text
    kept.write(b"[1]")
    kept.memory.poll()
    assert kept.again() == b"[1]"
    assert kept.lines == []
    assert (kept.folder / "x@vda.json").read_bytes() == b'{"schema":"kmind.memory/2"}\n[1]'


def test_a_file_of_a_later_version_is_left_as_it_is(kept: Kept) -> None:
    assert kept.folder is not None
    kept.folder.mkdir()
    text = b'{"schema":"kmind.memory/99","who":7}\nwhatever'
    (kept.folder / "x@vda.json").write_bytes(text)
    assert kept.memory.load() == b""
    kept.write(b"[1]")
    kept.memory.poll(last=True)
    assert kept.memory.load() == b"[1]"  # for as long as the instance lives
    assert SAVER.settle(30)
    assert (kept.folder / "x@vda.json").read_bytes() == text
    assert len(kept.lines) == 1
    assert "is of a later kmind (it is kmind.memory/99, and this kmind knows" in kept.lines[0]


@pytest.mark.fault
def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "memory").write_text("a file")
    kept = Kept(tmp_path / "memory")
    for number in range(3):
        kept.write(b"%d" % number)
        kept.memory.poll(last=number == 2)
        kept.clock += 5
        assert SAVER.settle(30)
        kept.memory.poll()
    assert len(kept.lines) == 1
    assert "cannot be kept in" in kept.lines[0]


@pytest.mark.kernel
@pytest.mark.fault
def test_a_full_disk_keeps_what_an_earlier_version_remembers(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small") as folder:
        path = folder / "x@vda.json"
        path.write_bytes(b'{"a":1}')
        fill(folder)
        kept = Kept(folder)
        assert kept.memory.load() == b'{"a":1}'
        kept.write(b'{"a":2}')
        kept.memory.poll(last=True)
        assert SAVER.settle(30)
        kept.memory.poll()
        assert path.read_bytes() == b'{"a":1}'
        assert len(kept.lines) == 1
        assert "No space left" in kept.lines[0]


class SlowDisk:
    """Syncs files only once it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked, self.go = threading.Event(), threading.Event()
        monkeypatch.setattr(os, "fsync", self.fsync)

    def fsync(self, fd: int) -> None:
        self.asked.set()
        assert self.go.wait(30)


def test_owner_does_not_wait_for_a_disk_that_hangs(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch)
    try:
        kept.write(b"1")
        kept.memory.poll()
        assert disk.asked.wait(30)
        kept.write(b"2")
        kept.memory.poll(last=True)  # returns, although nothing is written yet
        assert kept.folder is not None
        assert not (kept.folder / "x@vda.json").exists()
        # Whoever comes next is given it all the same.
        assert Kept(kept.folder).memory.load() == b"2"
    finally:
        disk.go.set()
    assert SAVER.settle(30)
    assert (kept.folder / "x@vda.json").read_bytes() == b'{"schema":"kmind.memory/2"}\n2'
    assert kept.lines == []


def test_many_files_are_written_by_one_thread_which_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, saver = SlowDisk(monkeypatch), Saver()
    for number in range(20):
        saver.put(tmp_path / f"{number}.json", b"%d" % number)
    assert sum(each.name == "kmind-save" for each in threading.enumerate()) == 1
    assert not saver.settle(0)
    disk.go.set()
    assert saver.settle(30)
    assert {path.read_bytes() for path in tmp_path.glob("*.json")} == {b"%d" % n for n in range(20)}
    assert saver.trouble(tmp_path / "7.json") == ""
    assert saver.trouble(tmp_path / "7.json") is None
    while any(each.name == "kmind-save" for each in threading.enumerate()):
        time.sleep(0.001)
    saver.put(tmp_path / "0.json", b"again")
    assert saver.settle(30)
    assert (tmp_path / "0.json").read_bytes() == b"again"
