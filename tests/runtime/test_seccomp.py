# SPDX-License-Identifier: Apache-2.0
"""The numbers of the allowed system calls are the kernel's."""

import re
from pathlib import Path

import pytest

from kmind.runtime.seccomp import CALLS

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
    for name, pair in CALLS.items():
        assert known[also.get(name, name)] == pair[column], name


def test_nothing_that_reaches_out_is_allowed() -> None:
    reaching = {
        "open", "openat", "openat2", "socket", "connect", "fork", "clone", "clone3", "execve",
        "unshare", "setns", "bpf", "io_uring_setup", "ptrace", "process_vm_writev", "kill",
        "mount", "pidfd_getfd", "perf_event_open", "userfaultfd", "ioctl", "prctl", "seccomp",
    }  # fmt: skip
    assert not reaching & set(CALLS)
