# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of cgroup and its neighbours."""

import itertools
import subprocess
import sys
from dataclasses import dataclass

import pytest
from programs import machine_lacks

from kmind.runtime.sandbox.cgroup.cgroup import ExtensionCgroup

root = pytest.mark.kernel()
_numbers = itertools.count()


@dataclass(frozen=True)
class Limits:
    cpu_percent: float = 50
    memory_mib: int = 64
    pids: int = 8


def made(name: str, *, need: str, **limits: float) -> ExtensionCgroup:
    group = ExtensionCgroup(name, Limits(**limits))  # type: ignore[arg-type]
    if need in group.missing:
        group.close()
        machine_lacks(f"no cgroup limits {need} here: {group.missing[need]}")
    return group


def python(code: str) -> "subprocess.Popen[bytes]":
    """Start Python; it waits for a line before it runs ``code``."""
    return subprocess.Popen(
        [sys.executable, "-S", "-c", f"input()\n{code}"],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
