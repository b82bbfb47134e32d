# SPDX-License-Identifier: Apache-2.0
"""Devices whose knobs tests may turn, and children that end badly."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kmind.knobs import Target, Value, all_knobs, block_devices

__all__ = ["in_child", "main_disk", "spare_disk", "values"]


def spare_disk() -> Target:
    """A loop device that nothing uses: its knobs are real, and nobody minds them."""
    for name in reversed(block_devices()):
        if name.startswith("loop") and Path(f"/sys/block/{name}/size").read_text() == "0\n":
            return Target.block(name)
    pytest.skip("no free loop device")


def main_disk() -> Target:
    """The first real disk, which has a request queue with a scheduler."""
    for name in block_devices():
        if Path(f"/sys/block/{name}/device").exists():
            return Target.block(name)
    pytest.skip("no disk")


def values(*targets: Target) -> dict[tuple[str, str], Value]:
    """The present values of all knobs of the targets."""
    return {
        (knob.name, target.name): knob.read(target)
        for target in targets
        for knob in all_knobs()
        if knob.exists(target)
    }


def in_child(work: Callable[[], None]) -> int:
    """Do something in a forked process that ends without cleaning up; its exit code."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
