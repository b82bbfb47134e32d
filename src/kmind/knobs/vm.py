# SPDX-License-Identifier: Apache-2.0
"""Knobs of the memory management, below /proc/sys/vm.

Bounds keep clear of values that the kernel takes but that can hang or starve a
machine: vfs_cache_pressure 0 (never reclaims inodes), dirty_writeback_centisecs
0 (no periodic writeback), page-cluster above 8 (megabytes a swap-in).
"""

from __future__ import annotations

from typing import Literal

from kmind.knobs._base import Knob
from kmind.knobs._record import Rule

__all__ = ["KNOBS"]

_RECLAIM = "The next round of reclaim or the next fault goes by it."
_WRITEBACK = "Writers and flushers go by it at their next look at the limits."
_WATERMARKS = "The watermarks of all zones are set anew; raised, the kernel reclaims up to them."


def _vm(
    file: str,
    summary: str,
    unit: str,
    minimum: int,
    maximum: int,
    *,
    settle: Literal["instant", "slow"] = "slow",
    rules: tuple[Rule, ...] = (),
    conflicts: tuple[str, ...] = (),
    memory_percent: int = 0,
    note: str = "",
    cost: Literal["none", "cheap", "disturbing"] = "none",
    why: str = _RECLAIM,
) -> Knob:
    return Knob(
        name="vm." + file.replace("-", "_"),
        target="system",
        path=f"proc/sys/vm/{file}",
        summary=summary,
        reference="Documentation/admin-guide/sysctl/vm.rst",
        unit=unit,
        minimum=minimum,
        maximum=maximum,
        memory_percent=memory_percent,
        rules=rules,
        settle=settle,
        conflicts=conflicts,
        note=note,
        cost=cost,
        cost_why=why,
    )


KNOBS = (
    _vm("swappiness", "cost of swapping against dropping file pages", "", 0, 200),
    _vm(
        "dirty_ratio",
        "share of memory that may be dirty before writers must write",
        "%",
        2,
        80,
        rules=(Rule(">", "vm.dirty_background_ratio"),),
        conflicts=("proc/sys/vm/dirty_bytes",),
        note="Not in force, and refused, while vm.dirty_bytes is set.",
        cost="disturbing",
        why="Lowered below what is dirty, writers wait until the difference is on disk.",
    ),
    _vm(
        "dirty_background_ratio",
        "share of memory that may be dirty before the kernel starts to write",
        "%",
        1,
        60,
        rules=(Rule("<", "vm.dirty_ratio"),),
        conflicts=("proc/sys/vm/dirty_background_bytes",),
        note="Not in force, and refused, while vm.dirty_background_bytes is set.",
        cost="cheap",
        why="Lowered below what is dirty, the flushers write the difference out.",
    ),
    _vm(
        "dirty_expire_centisecs",
        "age at which dirty data is written out",
        "cs",
        100,
        360_000,
        rules=(Rule(">=", "vm.dirty_writeback_centisecs"),),
        why=_WRITEBACK,
    ),
    _vm(
        "dirty_writeback_centisecs",
        "time between two rounds of writeback",
        "cs",
        50,
        30_000,
        rules=(Rule("<=", "vm.dirty_expire_centisecs"),),
        cost="cheap",
        why="The flushers are woken once.",
    ),
    _vm("vfs_cache_pressure", "how readily inodes and dentries are reclaimed", "%", 1, 1000),
    _vm(
        "min_free_kbytes",
        "memory kept free for allocations that cannot wait",
        "kB",
        1024,
        1 << 20,
        memory_percent=5,
        cost="disturbing",
        why=_WATERMARKS,
        note="Once written, the kernel no longer raises it by itself for huge pages.",
    ),
    _vm(
        "watermark_scale_factor",
        "room between the reclaim watermarks",
        "1/10000",
        1,
        1000,
        cost="disturbing",
        why=_WATERMARKS,
    ),
    _vm("watermark_boost_factor", "reclaim after fragmentation; 0: off", "1/10000", 0, 30_000),
    _vm("page_lock_unfairness", "times that a page lock may be stolen", "", 0, 1000),
    _vm("page-cluster", "pages read at once from swap, as a power of two", "log2", 0, 8),
    _vm("compaction_proactiveness", "effort of compaction in the background", "%", 0, 100),
    _vm(
        "stat_interval",
        "time between updates of memory statistics",
        "s",
        1,
        120,
        why="The next update comes after the new time.",
    ),
    _vm(
        "dirtytime_expire_seconds",
        "age at which times of access alone are written out",
        "s",
        60,
        604_800,
        cost="cheap",
        why="The flushers look at all inodes once.",
    ),
    _vm(
        "extfrag_threshold",
        "fragmentation from which the kernel compacts rather than reclaims",
        "1/1000",
        0,
        1000,
    ),
)
"""All knobs of this family."""
