# SPDX-License-Identifier: Apache-2.0
"""Notices that somebody wrote to a file, by inotify(7).

Works for files of sysfs too: write(2) tells it of every file (fsnotify_modify in
fs/read_write.c). A write through another mount of sysfs is not seen.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import Struct

__all__ = ["Writes", "watch_writes"]

_IN_MODIFY, _IN_CLOSE_WRITE, _IN_OPEN = 0x2, 0x8, 0x20
_IN_NONBLOCK, _IN_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
_HEAD = Struct("=iIII")  # struct inotify_event of include/uapi/linux/inotify.h

_libc = ctypes.CDLL(None, use_errno=True)


class Writes:
    """Counts writes to one file. ``fd`` is an inotify descriptor, or -1: nothing is noticed."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._count = 0

    def count(self) -> int:
        """Return the number of writes so far, by anybody.

        Equal events that follow each other are one to the kernel; opening and closing, which
        are watched too, come between the writes of different callers.
        """
        while self._fd >= 0:
            try:
                data = os.read(self._fd, 4096)
            except BlockingIOError:
                break
            at = 0
            while at < len(data):
                _, mask, _, length = _HEAD.unpack_from(data, at)
                self._count += bool(mask & _IN_MODIFY)
                at += _HEAD.size + length
        return self._count


@contextmanager
def watch_writes(file: Path) -> Iterator[Writes]:
    """Count the writes to a file inside the block."""
    fd = _libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
    try:
        mask = _IN_MODIFY | _IN_CLOSE_WRITE | _IN_OPEN
        if fd >= 0 and _libc.inotify_add_watch(fd, os.fsencode(file), mask) < 0:
            os.close(fd)
            fd = -1
        yield Writes(fd)
    finally:
        if fd >= 0:
            os.close(fd)
