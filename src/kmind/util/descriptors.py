# SPDX-License-Identifier: Apache-2.0
"""Open files of this process: as many as it may have, and a refusal before there are none left."""

from __future__ import annotations

import ctypes
import os
import resource
from contextlib import suppress
from pathlib import Path

from kmind.errors import KmindError

__all__ = ["raise_soft_limit", "refuse_where_short", "take_descriptor"]

_PIDFD_GETFD = 438  # the same on every architecture (include/uapi/asm-generic/unistd.h)


def raise_soft_limit() -> None:
    """Raise the soft limit of open files (RLIMIT_NOFILE) to the hard one, which takes no privilege.

    The soft one is 1,024 by default for the sake of select(2), which is not used here. Programs
    that are started inherit it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def refuse_where_short(need: int, spare: int, what: str) -> None:
    """Raise KmindError unless ``need`` descriptors more leave ``spare`` ones for other uses.

    ``what`` is what they are for, as the error says it. Linux counts them in /proc (proc(5)).
    """
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        used = len(list(Path("/proc/self/fd").iterdir()))
    except OSError:
        return  # none left to look with, or no /proc: what follows fails by itself
    if most == resource.RLIM_INFINITY or used + need + spare <= most:
        return
    raise KmindError(
        f"too few open files are allowed for {what}: {used} of {most} are in use, it takes "
        f"{need}, and {spare} are kept for clients and files",
        hint="raise LimitNOFILE= of the service, or: ulimit -n",
    )


def take_descriptor(pid: int, number: int) -> int:
    """A copy, here, of a descriptor of another process, closed at exec: pidfd_getfd(2), Linux 5.6.

    Raises OSError: the process has ended, it has no such descriptor, or this one is not root.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    process = os.pidfd_open(pid)
    try:
        words = (_PIDFD_GETFD, process, number, 0)
        copy = int(libc.syscall(*map(ctypes.c_long, words)))
    finally:
        os.close(process)
    if copy < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return copy
