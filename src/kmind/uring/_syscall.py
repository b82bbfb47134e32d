# SPDX-License-Identifier: Apache-2.0
"""io_uring's three system calls, and the memory that they share, by ctypes.

`setup` and `enter` return a negative error number as the kernel does, for some are no failures.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kmind.errors import KmindError, NotSupportedError, RingError
from kmind.uring.layout import PARAMS

__all__ = ["Region", "address_of", "enter", "error_from", "refusal", "register", "setup"]

# They have the same numbers on all machines but alpha.
_SETUP, _ENTER, _REGISTER = 425, 426, 427
_DISABLED = Path("/proc/sys/kernel/io_uring_disabled")
_FAILED = ctypes.c_void_p(-1).value
_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
_MAP_FIXED, _MAP_POPULATE = 0x10, 0x8000

_libc = ctypes.CDLL(None, use_errno=True)
_SYSCALL = ctypes.CFUNCTYPE(ctypes.c_long, *[ctypes.c_long] * 7, use_errno=True)
# Types that are declared once save half of the time of a call.
_syscall = _SYSCALL(("syscall", _libc))
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def address_of(array: npt.NDArray[Any]) -> int:
    """The address of an array's first byte. It is the caller's to keep the array alive."""
    return int(array.ctypes.data)


def setup(entries: int, params: npt.NDArray[np.void]) -> int:
    """io_uring_setup(2): the ring's descriptor (close-on-exec), or a negative error number.

    ``params`` is an array of one `PARAMS`, which the kernel completes.
    """
    assert params.dtype == PARAMS
    fd = int(_syscall(_SETUP, entries, address_of(params), 0, 0, 0, 0))
    return fd if fd >= 0 else -ctypes.get_errno()


def enter(fd: int, submit: int, wait: int, flags: int, argument: int, size: int) -> int:
    """io_uring_enter(2): the number of entries taken, or a negative error number."""
    taken = _syscall(_ENTER, fd, submit, wait, flags, argument, size)
    return taken if taken >= 0 else -ctypes.get_errno()


def register(fd: int, operation: int, argument: npt.NDArray[Any] | None, count: int) -> None:
    """io_uring_register(2); raises what `error_from` makes of a refusal."""
    address = 0 if argument is None else address_of(argument)
    if _syscall(_REGISTER, fd, int(operation), address, count, 0, 0) < 0:
        name = getattr(operation, "name", str(operation)).lower().replace("_", " ")
        raise error_from(ctypes.get_errno(), f"io_uring: cannot register {name}")


def error_from(number: int, what: str) -> RingError:
    """The exception for an error number: what was tried, why it failed, what to do."""
    hints = {
        errno.EACCES: "the ring is restricted: register before it is enabled",
        errno.EBADFD: "the ring is disabled, or was enabled already",
        errno.EBUSY: "it is registered already",
        errno.EEXIST: "one thread alone may use a ring: the one that made or enabled it",
        errno.EMFILE: "the process has too many open files",
        errno.ENOMEM: "the limit of locked memory (ulimit -l) may be too low",
    }
    return RingError(f"{what}: {os.strerror(number)}", hint=hints.get(number, ""))


def refusal(number: int) -> KmindError:
    """The exception for an error number of `setup`: who refuses io_uring as a whole, if so."""
    what = "io_uring cannot be used"
    message = f"{what}: {os.strerror(number)}"
    if number == errno.ENOSYS:
        hint = "this kernel has no io_uring, or a filter of system calls hides it"
    elif number not in (errno.EPERM, errno.EACCES):
        return error_from(number, what)
    elif _disabled():
        hint = "sysctl kernel.io_uring_disabled=0 allows it"
    else:
        hint = (
            "a filter of system calls, such as a container's, may be why: let io_uring_setup, "
            "io_uring_enter and io_uring_register pass"
        )
    return NotSupportedError(message, hint=hint)


def _disabled() -> bool:
    # 2: for all; 1: for those who are not of a certain group (admin-guide/sysctl/kernel.rst).
    try:
        return _DISABLED.read_text().strip() in ("1", "2")
    except OSError:
        return False


class Region:
    """Memory that is shared with the ring behind ``fd``.

    `release` gives the ring back at once, and puts plain memory in its place, which goes with the
    last array: one that was forgotten neither crashes the process nor keeps the ring.
    """

    def __init__(self, fd: int, offset: int, size: int) -> None:
        flags = mmap.MAP_SHARED | _MAP_POPULATE
        mapped = _libc.mmap(None, size, _READ_WRITE, flags, fd, offset)
        if mapped in (None, _FAILED):
            raise error_from(ctypes.get_errno(), "io_uring: cannot map a ring")
        self._memory = (ctypes.c_uint8 * size).from_address(mapped)
        self._place = (mapped, size)
        weakref.finalize(self._memory, _libc.munmap, mapped, size)

    @property
    def bytes(self) -> npt.NDArray[np.uint8]:
        """The whole of it."""
        return np.frombuffer(memoryview(self._memory).cast("B"), np.uint8)

    @property
    def words(self) -> memoryview:
        """The same as words of 32 bits."""
        return memoryview(self._memory).cast("B").cast("I")

    def release(self) -> None:
        """Let go of the ring."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
        _libc.mmap(*self._place, _READ_WRITE, flags, -1, 0)
