# SPDX-License-Identifier: Apache-2.0
"""Knobs of one cgroup, of either version: shares and soft limits.

Hard limits (memory.max, memory.limit_in_bytes, pids.max) are left out: reached, they kill
or refuse. ``memory_high`` begins at 64 MiB, below which programs hardly run.
"""

from __future__ import annotations

from typing import Literal

from kmind.knobs._base import Knob

__all__ = ["KNOBS"]

_V2 = "Documentation/admin-guide/cgroup-v2.rst"
# What the kernel makes of "max": PAGE_COUNTER_MAX, on 64 bits (include/linux/page_counter.h).
_MAX = (1 << 63) - 4096
_OF_CPU = "share of CPU time among its siblings"
_SHARE = "The scheduler applies it at once."
_RECLAIM = "Applies from the next round of reclaim on."


def _knob(
    name: str,
    file: str,
    summary: str,
    unit: str,
    minimum: int,
    maximum: int,
    why: str,
    *,
    controller: str = "",
    reference: str = _V2,
    grid: int = 1,
    settle: Literal["instant", "slow"] = "instant",
    cost: Literal["none", "cheap", "disturbing"] = "none",
) -> Knob:
    return Knob(
        name=f"cgroup.{name}",
        target="cgroup",
        path=file,
        summary=summary,
        reference=reference,
        unit=unit,
        minimum=minimum,
        maximum=maximum,
        grid=grid,
        settle=settle,
        cost=cost,
        cost_why=why,
        words=(("max", _MAX),),
        controller=controller,
        note=f"cgroup version 1, {controller}." if controller else "cgroup version 2.",
    )


KNOBS = (
    _knob(
        "memory_high",
        "memory.high",
        "memory above which its tasks are throttled and reclaimed from; max: no limit",
        "bytes",
        64 << 20,
        _MAX,
        "If it falls below the memory in use, its tasks wait while the kernel reclaims the excess.",
        grid=4096,
        settle="slow",
        cost="disturbing",
    ),
    _knob(
        "memory_low",
        "memory.low",
        "memory that is reclaimed only if no other memory is left",
        "bytes",
        0,
        _MAX,
        _RECLAIM,
        grid=4096,
        settle="slow",
    ),
    _knob("cpu_weight", "cpu.weight", _OF_CPU, "", 1, 10_000, _SHARE),
    _knob("io_weight", "io.weight", "share of disk time", "", 1, 10_000, _SHARE),
    _knob(
        "cpu_shares",
        "cpu.shares",
        _OF_CPU,
        "",
        2,
        262_144,
        _SHARE,
        controller="cpu",
        reference="Documentation/scheduler/sched-design-CFS.rst",
    ),
    _knob(
        "memory_swappiness",
        "memory.swappiness",
        "cost of swapping relative to dropping file pages",
        "",
        0,
        200,
        _RECLAIM,
        controller="memory",
        reference="Documentation/admin-guide/cgroup-v1/memory.rst",
        settle="slow",
    ),
    _knob(
        "blkio_weight",
        "blkio.bfq.weight",
        "share of disk time under bfq",
        "",
        1,
        1000,
        _SHARE,
        controller="blkio",
        reference="Documentation/admin-guide/cgroup-v1/blkio-controller.rst",
    ),
)
"""All knobs of this family."""
