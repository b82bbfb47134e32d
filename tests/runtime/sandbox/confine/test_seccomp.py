# SPDX-License-Identifier: Apache-2.0
"""The numbers of the allowed system calls are the kernel's, and the filter does as it says."""

import errno
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kmind.runtime.sandbox.confine.seccomp import CALLS, FILE_CALLS, NETWORK_CALLS

X86 = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
GENERIC = Path("/usr/include/asm-generic/unistd.h")


def numbers(header: Path) -> dict[str, int]:
    if not header.exists():
        pytest.skip(f"{header} is not installed")
    found = re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)", header.read_text())
    return {name: int(number) for name, number in found}


@pytest.mark.parametrize(("header", "column"), [(X86, 0), (GENERIC, 1)])
def test_numbers(header: Path, column: int) -> None:
    known = numbers(header)
    # There the one with 64-bit offsets has the old name's number.
    also = {"newfstatat": "fstatat"} if column else {}
    for name, pair in (CALLS | FILE_CALLS | NETWORK_CALLS).items():
        assert known[also.get(name, name)] == pair[column], name


def test_nothing_that_reaches_out_is_allowed() -> None:
    reaching = {
        "open", "openat", "openat2", "socket", "connect", "fork", "clone", "clone3", "execve",
        "unshare", "setns", "bpf", "io_uring_setup", "ptrace", "process_vm_writev", "kill",
        "mount", "pidfd_getfd", "perf_event_open", "userfaultfd", "ioctl", "prctl", "seccomp",
    }  # fmt: skip
    assert not reaching & set(CALLS)
    never = {"bind", "listen", "accept", "accept4", "bpf", "execve", "clone", "kill", "open"}
    assert not never & {*FILE_CALLS, *NETWORK_CALLS}


TRY = """\
import ctypes, sys
sys.path[:0] = {path!r}
from kmind.runtime.sandbox.confine.seccomp import limit_system_calls
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)  # no_new_privs
limit_system_calls(files={files}, network={network})
for call in {calls!r}:
    ctypes.set_errno(0)
    result = libc.syscall(*(ctypes.c_long(word) for word in call))
    print(0 if result >= 0 else ctypes.get_errno())
"""


@pytest.mark.parametrize("files", [False, True])
@pytest.mark.parametrize("network", [False, True])
def test_conditions(files: bool, network: bool) -> None:
    column = {"x86_64": 0, "aarch64": 1}[platform.machine()]
    known = {name: pair[column] for name, pair in (CALLS | FILE_CALLS | NETWORK_CALLS).items()}
    bad = 1 << 32  # an address that is not mapped: past the filter that is EFAULT
    calls = {
        "read only": (known["openat"], -100, bad, 0, 0),
        "for writing": (known["openat"], -100, bad, 1, 0),
        "for both": (known["openat"], -100, bad, 2, 0),
        "making": (known["openat"], -100, bad, 0o100, 0o600),
        "emptying": (known["openat"], -100, bad, 0o1000, 0),
        "inet": (known["socket"], 2, 1, 0),
        "inet6": (known["socket"], 10, 99, 0),
        "unix": (known["socket"], 1, 1, 0),
        "netlink": (known["socket"], 16, 3, 0),
        "packet": (known["socket"], 17, 3, 0),
        "not blocking": (known["ioctl"], 99, 0x5421, bad),
        "typing ahead": (known["ioctl"], 99, 0x5412, bad),
    }
    text = TRY.format(path=sys.path, files=files, network=network, calls=list(calls.values()))
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    found = dict(zip(calls, map(int, done.stdout.split()), strict=True))
    open_to = {"read only"} if files else set()
    open_to |= {"inet", "inet6", "not blocking"} if network else set()
    assert {name for name, number in found.items() if number != errno.EPERM} == open_to
