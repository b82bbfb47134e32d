# SPDX-License-Identifier: Apache-2.0
"""Mounts that no folder shows: a descriptor alone holds them (fsopen(2), fsmount(2); Linux 5.2).

So there is nothing to unmount, and nothing is left behind by a process that is killed.
"""

from __future__ import annotations

import ctypes
import os

from kmind.errors import NotSupportedError, PrivilegeError

__all__ = ["detached_mount", "device_minor"]

# The numbers are the same on every architecture since 5.1 (include/uapi/asm-generic/unistd.h).
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_CLOEXEC = 1
_SET_STRING, _CREATE = 1, 6
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8

_AT_EMPTY_PATH, _AT_STATX_DONT_SYNC = 0x1000, 0x4000
_STATX_BYTES, _DEVICE_MINOR = 256, 140  # struct statx, include/uapi/linux/stat.h

_libc = ctypes.CDLL(None, use_errno=True)


def detached_mount(kind: str, **options: str) -> int:
    """A descriptor of a new mount of a file system, for openat(2); closing it ends the mount.

    Raises PrivilegeError without root, NotSupportedError if the kernel has no such file system.
    """
    context = _call(kind, _FSOPEN, kind.encode(), _CLOEXEC)
    try:
        for name, value in options.items():
            _call(kind, _FSCONFIG, context, _SET_STRING, name.encode(), value.encode(), 0)
        _call(kind, _FSCONFIG, context, _CREATE, None, None, 0)
        return _call(kind, _FSMOUNT, context, _CLOEXEC, _NOSUID | _NODEV | _NOEXEC)
    finally:
        os.close(context)


def device_minor(mount: int) -> int:
    """The minor number of a mount's device, asked of the kernel alone, not of a FUSE server."""
    found = ctypes.create_string_buffer(_STATX_BYTES)
    if _libc.statx(mount, b"", _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC, 0, found):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int.from_bytes(found.raw[_DEVICE_MINOR : _DEVICE_MINOR + 4], "little")


def _call(kind: str, number: int, *arguments: int | bytes | None) -> int:
    # A variadic function: small integers have to be widened, for a register's upper half
    # may hold anything.
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *wide))
    if result >= 0:
        return result
    error = ctypes.get_errno()
    if os.geteuid() != 0:
        raise PrivilegeError(f"cannot mount {kind}: {os.strerror(error)}", hint="run it as root")
    raise NotSupportedError(
        f"cannot mount {kind}: {os.strerror(error)}", hint=f"see whether {kind} is in this kernel"
    )
