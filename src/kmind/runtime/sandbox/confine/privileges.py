# SPDX-License-Identifier: Apache-2.0
"""Giving up all privileges, for good, before any code of a module, or that it names, runs.

What stays: memory that is mapped, descriptors that are open, a user id of its own.
What goes: root, every capability, new descriptors, files and processes, and all system
calls but a few. It goes in two steps: after ``drop_privileges`` packages can be imported,
and after ``shut`` the module's code may run. Numbers are those of linux/prctl.h and
linux/capability.h.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kmind.errors import NotSupportedError, PrivilegeError
from kmind.runtime.sandbox.confine import landlock
from kmind.runtime.sandbox.confine.own_root import enter_own_root, library_folders
from kmind.runtime.sandbox.confine.seccomp import limit_system_calls

__all__ = ["Fences", "close_other_fds", "drop_privileges", "shut"]

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_TIMERSLACK = 29
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522

# Beside a cgroup's limit: the most that a manifest can ask for.
_MOST_DATA = 4 << 30
# Memory that RLIMIT_DATA does not count: the stack, and page tables, 1/512 of what they map.
_MOST_STACK = 8 << 20
_MOST_ADDRESSES = 16 << 30
_MOST_FILES = 32
_MAP_NORESERVE = 0x4000  # asm-generic/mman.h

# Lets the kernel end sleeps of several extensions by one interrupt: some 50 ms late at
# most, far below the time in which a heartbeat is due. The doorbell is not delayed.
_TIMER_SLACK_NS = 50_000_000
# Drivers delay requests, so theirs end when they are due (prctl(2); 0 would be the default).
_PRECISE_NS = 1

_libc = ctypes.CDLL(None, use_errno=True)


def close_other_fds(keep: Iterable[int]) -> None:
    """Close every descriptor but those."""
    first = 0
    for fd in [*sorted(set(keep)), 1 << 20]:
        if first < fd:  # closerange(0, 0) closes everything
            os.closerange(first, fd)
        first = fd + 1


@dataclass(frozen=True)
class Fences:
    """Restrictions around a process that has dropped its privileges.

    ``lacking`` names, in words, the ones that this machine lacks; the rest are in force all the
    same. Once it is shut, ``files`` can be read, and the ``network`` be used if true.
    """

    files: tuple[str, ...]
    network: bool
    landlock: bool
    lacking: tuple[str, ...]


def drop_privileges(
    uid: int | None,
    parent: int | None,
    *,
    files: Sequence[str] = (),
    network: bool = False,
    data_bytes: int = 0,
    precise: bool = False,
) -> Fences:
    """Give up everything and become ``uid``; no change of user where it is None.

    ``parent`` is the process without which this one shall not live, if any: it exits at
    once if that one died already. What stays in reach are ``files``, to read, and the
    ``network``, if true; and, until ``shut``, the interpreter's libraries, so that packages
    can be imported that are not trusted with privileges. ``data_bytes`` limits memory of its
    own, where no cgroup does (0: one does). With ``precise`` sleeps end when they are due.

    Raises PrivilegeError if anything is refused: the caller must not go on then.
    """
    lacking: list[str] = []
    libraries = library_folders()
    try:
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        if uid is not None:
            if missing := _own_root(libraries, files, uid):
                lacking += missing
                files = ()
            _become(uid)
            libraries = _in_reach(libraries, lacking)
        fenced = _fence_off(libraries, files, network)
        lacking += fenced
        # A change of the user id clears the signal: so it is asked for after that.
        if parent is not None:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _prctl(_PR_SET_DUMPABLE, 0)
        _prctl(_PR_SET_TIMERSLACK, _PRECISE_NS if precise else _TIMER_SLACK_NS)
        os.umask(0o777)
        os.chdir("/")
        _limit_resources(data_bytes or _MOST_DATA)
        if data_bytes:
            _try_limit(data_bytes)
        gone = parent is not None and os.getppid() != parent
        limit_system_calls(files=True, network=network, importing=True)
    except OSError as error:
        raise PrivilegeError(
            f"privileges cannot be dropped: {error.strerror}",
            hint="run as root, or as a plain user",
        ) from None
    if gone:
        os._exit(0)
    # Without landlock, or a file system of its own, no file may be opened, whatever is asked for.
    return Fences(() if fenced else tuple(files), network, not fenced, tuple(lacking))


def shut(fences: Fences) -> None:
    """Close what was open for imports only, for good: the interpreter's libraries.

    Raises PrivilegeError if that is refused.
    """
    try:
        if fences.landlock:
            landlock.restrict(fences.files, network=fences.network)
        # No new descriptor fits below 3, and poll(2) still takes three.
        most = _MOST_FILES if fences.files or fences.network else 3
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        limit_system_calls(files=bool(fences.files), network=fences.network)
    except OSError as error:
        raise PrivilegeError(f"the sandbox cannot be shut: {error.strerror}") from None


def _own_root(libraries: Sequence[str], files: Sequence[str], uid: int) -> list[str]:
    try:
        enter_own_root(libraries, files, uid)
    except NotSupportedError as error:
        # To read some it needs calls that tell sizes and times of all: no filter sees a path.
        lost = f"; {', '.join(files)} cannot be read" if files else ""
        return [f"{error}; files are refused altogether{lost}"]
    return []


def _in_reach(libraries: Sequence[str], lacking: Sequence[str]) -> list[str]:
    # Without a file system of its own the interpreter's may be out of reach.
    standard = Path(os.__file__).parent
    if not os.access(standard, os.R_OK | os.X_OK, effective_ids=True):
        raise PrivilegeError(
            ": ".join((f"the extension's user cannot read {standard}", *lacking)),
            hint="or use a python3 that every user can read, as /usr/bin/python3",
        )
    return [path for path in libraries if os.access(path, os.R_OK, effective_ids=True)]


def _fence_off(libraries: Sequence[str], files: Sequence[str], network: bool) -> list[str]:
    try:
        landlock.restrict([*libraries, *files], network=network)
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


def _limit_resources(data_bytes: int) -> None:
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_DATA: data_bytes,
        resource.RLIMIT_STACK: _MOST_STACK,
        resource.RLIMIT_AS: max(_MOST_ADDRESSES, data_bytes),
        resource.RLIMIT_NOFILE: _MOST_FILES,
    }
    for kind, most in limits.items():
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def _try_limit(data_bytes: int) -> None:
    # The kernel can be told to look past it (ignore_rlimit_data= on its command line).
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    try:
        mmap.mmap(-1, data_bytes, flags=flags).close()
    except OSError:
        return
    raise PrivilegeError(
        "nothing limits the extension's memory: no cgroup does, and the kernel ignores RLIMIT_DATA",
        hint="mount a cgroup hierarchy with the memory controller, or write N to "
        "/sys/module/kernel/parameters/ignore_rlimit_data",
    )


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
