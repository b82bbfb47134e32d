# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of knobs and its neighbours."""

from __future__ import annotations

from pathlib import Path

from programs import machine_lacks

from kmind.knobs import (
    Knob,
    Target,
    Value,
    all_knobs,
    block_devices,
)


def name_of(knob: Knob) -> str:
    return knob.name


def spare() -> Target:
    for name in reversed(block_devices()):
        if Path(f"/sys/block/{name}/size").read_text() == "0\n" and name.startswith("loop"):
            return Target.block(name)
    return machine_lacks("no free loop device")


def another(knob: Knob, target: Target) -> Value:
    """A value that the knob does not hold, and that is safe there."""
    before = knob.read(target)
    if knob.kind == "enum":
        return next(choice for choice in knob.available(target) if choice != before)
    assert isinstance(before, int)
    low, high = knob.limits(target)
    return before - knob.grid if low <= before - knob.grid <= high else low + knob.grid


def takes_and_returns(knob: Knob, target: Target) -> None:
    before, value = knob.read(target), another(knob, target)
    try:
        knob.write(target, value)
        assert knob.read(target) == value
    finally:
        knob.write(target, before)
    assert knob.read(target) == before


def cgroups(root: Path) -> Path:
    """A machine that has cgroup v2, and blkio of version 1; its v2 mount."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mounts").write_text(
        "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\ncgroup /mnt/b\\040k cgroup rw,blkio 0 0\n"
    )
    (root / "mnt/b k/web").mkdir(parents=True)
    (root / "sys/fs/cgroup/a/web.service").mkdir(parents=True)
    return root / "sys/fs/cgroup"


system = Target.system()
SYSTEM = [knob for knob in all_knobs() if knob.exists(system)]
