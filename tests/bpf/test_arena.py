# SPDX-License-Identifier: Apache-2.0
"""Arenas: the same memory for programs and processes."""

import ctypes
import mmap
import os
import weakref
from pathlib import Path

import numpy as np
import pytest
from bpf.loaded import ADDRESS

from kmind.bpf import (
    BpfObject,
    Link,
    map_arena,
)
from kmind.errors import BpfError, KmindError

PAGE = os.sysconf("SC_PAGE_SIZE")


def attach_and_call(hooks: BpfObject) -> Link:
    link = hooks.programs["count_calls"].attach()
    for _ in range(100):
        os.getppid()
    return link


@pytest.mark.kernel("tp_btf", "arena")
def test_tracepoint_program_and_process_share_the_arena(hooks: BpfObject) -> None:
    arena_map = hooks.maps["arena"]
    assert (arena_map.max_entries, arena_map.extra) == (2, ADDRESS)
    with map_arena(arena_map.fd, ADDRESS, 2) as arena:
        assert (arena.address, arena.size) == (ADDRESS, 2 * PAGE)
        words = arena.buffer.view("u8")
        attach_and_call(hooks).close()
        counted = int(words[0])
        assert counted >= 100
        assert words[PAGE // 8 + 1] > 0
        os.getppid()
        assert words[0] == counted
        words[0] = 0
        assert arena.buffer[0] == 0


@pytest.mark.kernel("tp_btf", "arena")
def test_arrays_survive_the_closing_of_their_arena(hooks: BpfObject) -> None:
    fd = hooks.maps["arena"].fd
    arena = map_arena(fd, ADDRESS, 2)
    words = arena.buffer.view("u8")
    words[0] = 7
    with pytest.raises(BpfError, match="mapped there already"):
        map_arena(fd, ADDRESS, 2)
    arena.close()
    arena.close()
    assert words[0] == 7
    with pytest.raises(BpfError, match="closed"):
        _ = arena.buffer
    del words
    with map_arena(fd, ADDRESS, 2, prefault=False) as again:
        assert again.buffer[0] == 7


@pytest.mark.kernel("tp_btf", "arena")
def test_libbpf_maps_no_arena_and_unmaps_none(objects: Path) -> None:
    """From 1.5 on it would, over whatever lies there; this fails with one that may."""
    taken = mmap_at(ADDRESS, PAGE)
    taken[:4] = list(b"mine")
    with BpfObject(objects / "hooks.bpf.o") as obj:
        obj.set_arena("arena", ADDRESS, 2)
        obj.set_rodata({"arena_base": ADDRESS, "watched_pid": os.getpid()})
        obj.load()
        assert bytes(taken[:4]) == b"mine"
        with pytest.raises(BpfError, match="mapped there already"):
            map_arena(obj.maps["arena"].fd, ADDRESS, 2)
        del taken
        with map_arena(obj.maps["arena"].fd, ADDRESS, 2) as arena:
            words = arena.buffer.view("u8")
            words[0] = 7
            obj.close()
            assert words[0] == 7


def mmap_at(address: int, size: int) -> np.ndarray:
    """New memory at that place, which must be free, until the array is gone."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x100000  # MAP_FIXED_NOREPLACE
    words = (ctypes.c_void_p(address), ctypes.c_size_t(size), 3, flags, -1, ctypes.c_long(0))
    assert libc.mmap(*words) == address
    region = (ctypes.c_uint8 * size).from_address(address)
    weakref.finalize(region, libc.munmap, ctypes.c_void_p(address), ctypes.c_size_t(size))
    return np.frombuffer(memoryview(region).cast("B"), np.uint8)


@pytest.mark.kernel("arena")
@pytest.mark.parametrize(
    ("address", "pages", "complaint"),
    [
        (ADDRESS + 1, 1, "start of a page"),
        (ADDRESS, 0, "at least one page"),
        (ADDRESS + (1 << 32) - PAGE, 2, "4 GiB"),
        (ADDRESS + (1 << 32), 2, "another address"),
    ],
)
def test_an_arena_maps_only_at_its_own_address(
    hooks: BpfObject, address: int, pages: int, complaint: str
) -> None:
    with pytest.raises(KmindError, match=complaint):
        map_arena(hooks.maps["arena"].fd, address, pages)


@pytest.mark.kernel("arena")
def test_set_arena_takes_only_an_arena(objects: Path) -> None:
    with BpfObject(objects / "hooks.bpf.o") as obj:
        for name in ("hooks.rodata", "absent"):
            with pytest.raises(BpfError, match="has no arena"):
                obj.set_arena(name, ADDRESS, 1)
