# SPDX-License-Identifier: Apache-2.0
"""The root of the cgroup v2 hierarchy, to which all processes belong, mounted or not."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kmind.errors import BpfError

__all__ = ["cgroup2_root", "private_cgroup2"]

# The same on every architecture (asm-generic/unistd.h; Linux 5.2), and their flags
# (include/uapi/linux/mount.h).
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_CLOEXEC = 1
_CMD_CREATE = 6


def cgroup2_root() -> Path | None:
    """Return the mount point of cgroup v2's root by /proc/self/mountinfo (proc(5)), or None."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        _, _, _, root, place, *_, kind, _, _ = line.split(" ")
        if kind == "cgroup2" and root == "/":
            return Path(re.sub(r"\\([0-7]{3})", lambda escape: chr(int(escape[1], 8)), place))
    return None


@contextmanager
def private_cgroup2() -> Iterator[Path]:
    """The root of cgroup v2, mounted for the length of the block, at no place at all.

    fsmount(2) gives a descriptor, and nobody else sees the mount. ``BpfError`` where
    the kernel refuses.
    """
    context = _call(_FSOPEN, b"cgroup2", _CLOEXEC)
    try:
        _call(_FSCONFIG, context, _CMD_CREATE, None, None, 0)
        root = _call(_FSMOUNT, context, _CLOEXEC, 0)
    finally:
        os.close(context)
    try:
        yield Path(f"/proc/self/fd/{root}")
    finally:
        os.close(root)


def _call(number: int, *arguments: int | bytes | None) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result = int(libc.syscall(number, *arguments))
    if result < 0:
        raise BpfError(f"cannot mount cgroup v2: {os.strerror(ctypes.get_errno())}")
    return result
