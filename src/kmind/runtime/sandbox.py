# SPDX-License-Identifier: Apache-2.0
"""Giving up all privileges, for good, before any code of a module runs.

What stays: memory that is mapped, descriptors that are open, a user id of its own.
What goes: root, every capability, new descriptors, files and processes, and all system
calls but a few. Numbers are those of linux/prctl.h and linux/capability.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
import resource
import signal
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from kmind.abi import layout
from kmind.errors import NotSupportedError, PrivilegeError
from kmind.runtime import landlock
from kmind.runtime.seccomp import limit_system_calls

__all__ = ["close_other_fds", "drop_privileges", "free_uid"]

# By these the agents know extensions, whose doings are not to be counted as the load's. Not those
# that systemd hands out (DynamicUser=): a service's must be counted.
_FIRST_UID = layout.LIMIT["FIRST_UID"]
_LAST_UID = _FIRST_UID + layout.LIMIT["UIDS"] - 1

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_TIMERSLACK = 29
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522

# Where no cgroup limits memory, and no manifest names a limit.
_MOST_DATA = 1 << 30
_MOST_FILES = 32

# Lets the kernel end sleeps of several extensions by one interrupt: some 50 ms late at
# most, far below the time in which a heartbeat is due. The doorbell is not delayed.
_TIMER_SLACK_NS = 50_000_000

_libc = ctypes.CDLL(None, use_errno=True)


def free_uid(seed: str) -> int:
    """A user id that no account and no process has, stable for ``seed`` while it is free.

    Raises PrivilegeError where all are taken.
    """
    taken = _uids_in_use()
    count = _LAST_UID - _FIRST_UID + 1
    start = zlib.crc32(seed.encode())
    for step in range(count):
        uid = _FIRST_UID + (start + step) % count
        if uid not in taken and not _has_account(uid):
            return uid
    raise PrivilegeError(f"no user id from {_FIRST_UID} to {_LAST_UID} is free")


def close_other_fds(keep: Iterable[int]) -> None:
    """Close every descriptor but those."""
    first = 0
    for fd in [*sorted(set(keep)), 1 << 20]:
        if first < fd:  # closerange(0, 0) closes everything
            os.closerange(first, fd)
        first = fd + 1


def drop_privileges(
    uid: int | None,
    parent: int | None,
    *,
    files: Sequence[str] = (),
    network: bool = False,
    data_bytes: int = 0,
) -> list[str]:
    """Give up everything and become ``uid``; no change of user where it is None.

    ``parent`` is the process without which this one shall not live, if any: it exits at
    once if that one died already. What stays in reach are ``files``, to read, and the
    ``network``, if true. ``data_bytes`` limits memory of its own (0: to 1 GiB).

    Returns what this kernel lacks for it, in words; the rest holds all the same. Raises
    PrivilegeError if anything is refused: the caller must not go on then.
    """
    try:
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        lacking = _fence_off(files, network)
        if uid is not None:
            _become(uid)
        # A change of the user id clears the signal: so it is asked for after that.
        if parent is not None:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _prctl(_PR_SET_DUMPABLE, 0)
        _prctl(_PR_SET_TIMERSLACK, _TIMER_SLACK_NS)
        os.umask(0o777)
        os.chdir("/")
        # Without landlock no file may be opened, whatever the manifest asks for.
        readable = bool(files) and not lacking
        _limit_resources(data_bytes or _MOST_DATA, opens=readable or network)
        gone = parent is not None and os.getppid() != parent
        limit_system_calls(files=readable, network=network)
    except OSError as error:
        raise PrivilegeError(
            f"privileges cannot be dropped: {error.strerror}", hint="run as root, or not as root"
        ) from None
    if gone:
        os._exit(0)
    return lacking


def _fence_off(files: Sequence[str], network: bool) -> list[str]:
    try:
        landlock.restrict(files, network=network)
    except NotSupportedError as error:
        lost = f"; {', '.join(files)} cannot be read" if files else ""
        return [f"{error}; files are refused by the filter on system calls alone{lost}"]
    return []


def _become(uid: int) -> None:
    _empty_bounding_set()
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    _empty_capabilities()
    if os.getresuid() != (uid, uid, uid) or os.getgroups():
        raise PrivilegeError("the user id did not change")


def _limit_resources(data_bytes: int, *, opens: bool) -> None:
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_DATA: data_bytes,
        # No new descriptor fits below 3, and poll(2) still takes three.
        resource.RLIMIT_NOFILE: _MOST_FILES if opens else 3,
    }
    for kind, most in limits.items():
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def _empty_bounding_set() -> None:
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    capability = 0
    while True:
        try:
            _prctl(_PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == errno.EINVAL and capability:  # past the last that there is
                return
            raise
        capability += 1


def _empty_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()
    if _libc.capset(header, sets):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _prctl(option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    if _libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _uids_in_use() -> set[int]:
    uids: set[int] = set()
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text(errors="replace")  # a name may be any bytes
        except OSError:
            continue  # it ended meanwhile
        line = next(line for line in text.splitlines() if line.startswith("Uid:"))
        uids.update(int(word) for word in line.split()[1:])
    return uids


def _has_account(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
