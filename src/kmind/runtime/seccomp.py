# SPDX-License-Identifier: Apache-2.0
"""The system calls that an extension may make; the kernel refuses all others.

What is left computes, waits, sleeps, takes memory and writes to open descriptors. So
neither a new namespace nor a bug in a rare system call is in reach. A refused call
fails with EPERM: code that can do without goes on.

Numbers are those of asm/unistd_64.h (x86-64) and asm-generic/unistd.h (arm64); the
filter is classic BPF over struct seccomp_data (linux/seccomp.h).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

from kmind.errors import NotSupportedError

__all__ = ["CALLS", "limit_system_calls"]

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
    "newfstatat": (262, 79),
    "ppoll": (271, 73),
    "getrandom": (318, 278),
    "membarrier": (324, 283),
    "rseq": (334, 293),
}
"""Name to number on x86-64 and on arm64."""

_ONLY_X86 = {"poll": 7}
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, AUDIT_ARCH_*

_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_RET_KILL_PROCESS = 0x80000000
_RET_ERRNO = 0x00050000
_RET_ALLOW = 0x7FFF0000
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K

_libc = ctypes.CDLL(None, use_errno=True)


def limit_system_calls() -> None:
    """Install the filter, for good. The caller has set no_new_privs.

    Raises NotSupportedError on another machine, OSError where the kernel refuses.
    """
    machine = platform.machine()
    if machine not in _MACHINES:
        raise NotSupportedError(
            f"kmind knows no system calls of {machine}", hint=f"it knows {', '.join(_MACHINES)}"
        )
    program = _program(*_MACHINES[machine])
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: a count, padding, a pointer
    whole = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    if _libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), whole, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _program(column: int, architecture: int) -> bytes:
    numbers = [pair[column] for pair in CALLS.values()]
    numbers += [] if column else _ONLY_X86.values()
    lines = [
        (_LOAD, 0, 0, 4),  # the architecture
        (_JUMP_IF_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _RET_KILL_PROCESS),
        (_LOAD, 0, 0, 0),  # the number
    ]
    for place, number in enumerate(numbers):
        lines.append((_JUMP_IF_EQUAL, len(numbers) - place, 0, number))
    lines.append((_RETURN, 0, 0, _RET_ERRNO | errno.EPERM))
    lines.append((_RETURN, 0, 0, _RET_ALLOW))
    return b"".join(struct.pack("HBBI", *line) for line in lines)
