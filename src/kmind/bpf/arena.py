# SPDX-License-Identifier: Apache-2.0
"""Mapping a BPF arena into this process.

An arena is memory that BPF programs and processes share. Each process must map it at
the address that was set before load (`kmind.bpf.BpfObject.set_arena`). Needs Linux 6.9.
"""

import ctypes
import errno
import mmap
import weakref

import numpy as np
import numpy.typing as npt

from kmind.bpf._errors import error_from
from kmind.errors import BpfError

__all__ = ["Arena", "check_place", "map_arena"]

_MAP_FIXED_NOREPLACE = 0x100000
_MADV_DONTFORK = 10
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Arena:
    """An arena in this process's memory, at ``address``, of ``size`` bytes.

    After `close` the memory is unmapped as soon as no array made from `buffer` is left,
    so that a forgotten array never crashes the process.
    """

    def __init__(self, address: int, size: int, region: "ctypes.Array[ctypes.c_uint8]") -> None:
        self.address = address
        self.size = size
        self._region: ctypes.Array[ctypes.c_uint8] | None = region

    @property
    def buffer(self) -> npt.NDArray[np.uint8]:
        """The whole of it as writable bytes, without a copy; BpfError once closed."""
        if self._region is None:
            raise BpfError(f"the arena at {self.address:#x} is closed")
        return np.frombuffer(memoryview(self._region).cast("B"), np.uint8)

    def close(self) -> None:
        """Let go of it; safe to repeat."""
        self._region = None

    def __enter__(self) -> "Arena":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def map_arena(fd: int, address: int, pages: int, prefault: bool = True) -> Arena:
    """Map the arena behind ``fd`` at ``address``, ``pages`` pages long.

    With ``prefault`` each page is touched, so that the kernel has it before a program
    writes to it: what a program writes to a page that is not there is lost. A process that is
    forked does not have it, be it an arena (kernel/bpf/arena.c) or an array. Raises
    BpfError if something else is mapped there, or the address is not the arena's own.
    """
    check_place(address, pages)
    size = pages * mmap.PAGESIZE
    mapped = _libc.mmap(
        address,
        size,
        mmap.PROT_READ | mmap.PROT_WRITE,
        mmap.MAP_SHARED | _MAP_FIXED_NOREPLACE,
        fd,
        0,
    )
    if mapped == _FAILED:
        number = ctypes.get_errno()
        hints = {
            errno.EEXIST: "something is mapped there already: choose another address",
            errno.EBUSY: "the arena has another address",
            errno.EINVAL: "the arena has another address, or fewer pages",
        }
        what = f"cannot map {pages} pages of an arena at {address:#x}"
        raise error_from(number, what, hints.get(number, ""))
    region = (ctypes.c_uint8 * size).from_address(mapped)
    weakref.finalize(region, _libc.munmap, mapped, size)
    arena = Arena(mapped, size, region)
    if _libc.madvise(mapped, size, _MADV_DONTFORK):
        raise error_from(ctypes.get_errno(), f"cannot keep forks from an arena at {address:#x}")
    if prefault:
        # A read is enough, and disturbs no one who writes meanwhile.
        arena.buffer[:: mmap.PAGESIZE].max()
    return arena


def check_place(address: int, pages: int) -> None:
    """Raise BpfError if no arena of ``pages`` pages can lie at ``address``."""
    if pages < 1 or address <= 0 or address % mmap.PAGESIZE:
        raise BpfError(
            f"an arena cannot have {pages} pages at {address:#x}",
            hint="give at least one page, and an address at the start of a page",
        )
    if (address + pages * mmap.PAGESIZE - 1) >> 32 != address >> 32:
        raise BpfError(
            f"an arena of {pages} pages at {address:#x} would cross a boundary of 4 GiB",
            hint="choose a multiple of 4 GiB as its address",
        )
