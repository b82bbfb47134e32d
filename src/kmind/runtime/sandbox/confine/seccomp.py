# SPDX-License-Identifier: Apache-2.0
"""The system calls that an extension may make; the kernel refuses all others.

What is left computes, waits, sleeps, takes memory and writes to open descriptors. So
neither a new namespace nor a bug in a rare system call is in reach. A refused call
fails with EPERM: code that can do without goes on. Where the manifest asks for it,
files can be opened to read, and connections over IP be made; nothing can be listened to.

Numbers are those of asm/unistd_64.h (x86-64) and asm-generic/unistd.h (arm64); the
filter is classic BPF over struct seccomp_data (linux/seccomp.h).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import struct
from collections.abc import Mapping

from kmind.errors import NotSupportedError

__all__ = ["CALLS", "FILE_CALLS", "IMPORT_CALLS", "NETWORK_CALLS", "limit_system_calls"]

CALLS: dict[str, tuple[int, int]] = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "readv": (19, 65),
    "writev": (20, 66),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "nanosleep": (35, 101),
    "getpid": (39, 172),
    "exit": (60, 93),
    "uname": (63, 160),
    "getcwd": (79, 17),
    "gettimeofday": (96, 169),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "getuid": (102, 174),
    "getgid": (104, 176),
    "geteuid": (107, 175),
    "getegid": (108, 177),
    "getppid": (110, 173),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "ppoll": (271, 73),
    "getrandom": (318, 278),
    "membarrier": (324, 283),
    "rseq": (334, 293),
}
"""Always allowed: name to number on x86-64 and on arm64."""

FILE_CALLS: dict[str, tuple[int, int]] = {
    "pread64": (17, 67),
    "getdents64": (217, 61),
    "newfstatat": (262, 79),
    "openat": (257, 56),
    "readlinkat": (267, 78),
    "statx": (332, 291),
}
"""Allowed to one that may read files; ``openat`` only to read.

Those that tell sizes and times of any path are among them, for no filter sees the path: so they
are for processes alone that have a file system of their own.
"""

IMPORT_CALLS: dict[str, tuple[int, int]] = FILE_CALLS | {
    "ioctl": (16, 29),
    "fcntl": (72, 25),
    "prctl": (157, 167),
    "faccessat": (269, 48),
    "prlimit64": (302, 261),
    "faccessat2": (439, 439),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
}
"""Allowed while packages are imported, and to shut the sandbox after that: what reads the
interpreter's libraries, and what only takes away. ``prctl`` only installs a filter."""

NETWORK_CALLS: dict[str, tuple[int, int]] = {
    "ioctl": (16, 29),
    "socket": (41, 198),
    "connect": (42, 203),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "shutdown": (48, 210),
    "getsockname": (51, 204),
    "getpeername": (52, 205),
    "setsockopt": (54, 208),
    "getsockopt": (55, 209),
}
"""Allowed to one that may connect; ``socket`` only for IP, ``ioctl`` only FIONBIO."""

_ONLY_X86 = {"poll": 7}
_ONLY_X86_IMPORTS = {"stat": 4, "lstat": 6, "access": 21, "readlink": 89}
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, AUDIT_ARCH_*

_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_RET_KILL_PROCESS = 0x80000000
_RET_ERRNO = 0x00050000
_RET_ALLOW = 0x7FFF0000
# BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JSET|K, BPF_RET|K
_LOAD, _IF_EQUAL, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ARGUMENT = [16 + 8 * place for place in range(6)]  # the low half, in little-endian order

_Line = tuple[int, int, int, int]
_ALLOW: _Line = (_RETURN, 0, 0, _RET_ALLOW)
_REFUSE: _Line = (_RETURN, 0, 0, _RET_ERRNO | errno.EPERM)

_AF_INET, _AF_INET6 = 2, 10  # linux/socket.h
# asm-generic/mman.h and linux/mman.h; MAP_SHARED_VALIDATE has the first bit too.
_MAP_SHARED, _MAP_ANONYMOUS, _MAP_GROWSDOWN, _MAP_HUGETLB = 0x01, 0x20, 0x100, 0x40000
_FIONBIO = 0x5421  # asm-generic/ioctls.h
# What more is asked of a call, as lines that begin with its arguments and end it.
_CONDITIONS: dict[str, list[_Line]] = {
    "openat": [
        (_LOAD, 0, 0, _ARGUMENT[2]),
        (_IF_ANY_BIT, 0, 1, os.O_ACCMODE | os.O_CREAT | os.O_TRUNC),
        _REFUSE,
        _ALLOW,
    ],
    "socket": [
        (_LOAD, 0, 0, _ARGUMENT[0]),
        (_IF_EQUAL, 1, 0, _AF_INET),
        (_IF_EQUAL, 0, 1, _AF_INET6),
        _ALLOW,
        _REFUSE,
    ],
    "ioctl": [(_LOAD, 0, 0, _ARGUMENT[1]), (_IF_EQUAL, 0, 1, _FIONBIO), _ALLOW, _REFUSE],
    "prctl": [(_LOAD, 0, 0, _ARGUMENT[0]), (_IF_EQUAL, 0, 1, _PR_SET_SECCOMP), _ALLOW, _REFUSE],
    "fcntl": [
        (_LOAD, 0, 0, _ARGUMENT[1]),
        (_IF_EQUAL, 2, 0, fcntl.F_GETFD),
        (_IF_EQUAL, 1, 0, fcntl.F_SETFD),
        (_IF_EQUAL, 0, 1, fcntl.F_GETFL),
        _ALLOW,
        _REFUSE,
    ],
    # Memory that no limit counts: shared (of shmem), that which grows downwards (no part of
    # RLIMIT_DATA), huge pages (of a pool of their own). A file that is shared to be read, as numpy
    # and mmap do, takes none.
    "mmap": [
        (_LOAD, 0, 0, _ARGUMENT[3]),
        (_IF_ANY_BIT, 5, 0, _MAP_GROWSDOWN | _MAP_HUGETLB),
        (_IF_ANY_BIT, 0, 3, _MAP_SHARED),
        (_IF_ANY_BIT, 3, 0, _MAP_ANONYMOUS),
        (_LOAD, 0, 0, _ARGUMENT[2]),
        (_IF_ANY_BIT, 1, 0, mmap.PROT_WRITE),
        _ALLOW,
        _REFUSE,
    ],
}

_libc = ctypes.CDLL(None, use_errno=True)


def limit_system_calls(
    *, files: bool = False, network: bool = False, importing: bool = False
) -> None:
    """Install the filter, for good. The caller has set no_new_privs.

    With ``files`` files can be opened to read, with ``network`` connections be made. With
    ``importing`` another filter can be installed on top of it: both hold then.

    Raises NotSupportedError on another machine, OSError where the kernel refuses.
    """
    machine = platform.machine()
    if machine not in _MACHINES:
        raise NotSupportedError(
            f"kmind knows no system calls of {machine}", hint=f"it knows {', '.join(_MACHINES)}"
        )
    calls = CALLS | (FILE_CALLS if files else {}) | (NETWORK_CALLS if network else {})
    program = _program(*_MACHINES[machine], calls | (IMPORT_CALLS if importing else {}), importing)
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: a count, padding, a pointer
    whole = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    if _libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), whole, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _program(
    column: int, architecture: int, calls: Mapping[str, tuple[int, int]], importing: bool
) -> bytes:
    numbers = {name: pair[column] for name, pair in calls.items()}
    if not column:
        numbers |= _ONLY_X86 | (_ONLY_X86_IMPORTS if importing else {})
    lines: list[_Line] = [
        (_LOAD, 0, 0, 4),  # the architecture
        (_IF_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _RET_KILL_PROCESS),
        (_LOAD, 0, 0, 0),  # the number
    ]
    for name, number in numbers.items():
        body = _CONDITIONS.get(name, [_ALLOW])
        lines += [(_IF_EQUAL, 0, len(body), number), *body]
    lines.append(_REFUSE)
    return b"".join(struct.pack("HBBI", *line) for line in lines)
