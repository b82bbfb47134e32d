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

_RECLAIM = "Applies from the next round of reclaim or the next fault on."
_WRITEBACK = "Applies when writers and flushers next check the limits."
_WATERMARKS = (
    "The watermarks of all zones are recomputed; if they rise, the kernel reclaims memory."
)


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
    _vm("swappiness", "cost of swapping relative to dropping file pages", "", 0, 200),
    _vm(
        "dirty_ratio",
        "share of memory that may be dirty before writers are throttled",
        "%",
        2,
        80,
        rules=(Rule(">", "vm.dirty_background_ratio"),),
        conflicts=("proc/sys/vm/dirty_bytes",),
        note="Without effect, and refused, while vm.dirty_bytes is set.",
        cost="disturbing",
        why="If it falls below the dirty amount, writers wait until the excess is on disk.",
    ),
    _vm(
        "dirty_background_ratio",
        "share of memory that may be dirty before background writeback starts",
        "%",
        1,
        60,
        rules=(Rule("<", "vm.dirty_ratio"),),
        conflicts=("proc/sys/vm/dirty_background_bytes",),
        note="Without effect, and refused, while vm.dirty_background_bytes is set.",
        cost="cheap",
        why="If it falls below the dirty amount, the flushers write the excess out.",
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
    _vm("vfs_cache_pressure", "tendency to reclaim inodes and dentries", "%", 1, 1000),
    _vm(
        "min_free_kbytes",
        "memory kept free for allocations that cannot wait",
        "kB",
        1024,
        1 << 20,
        memory_percent=5,
        cost="disturbing",
        why=_WATERMARKS,
        note="After a write the kernel no longer raises it by itself for huge pages.",
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
    _vm("page_lock_unfairness", "number of times that a page lock may be stolen", "", 0, 1000),
    _vm("page-cluster", "pages read at once from swap, as a power of two", "log2", 0, 8),
    _vm("compaction_proactiveness", "effort of compaction in the background", "%", 0, 100),
    _vm(
        "stat_interval",
        "time between updates of memory statistics",
        "s",
        1,
        120,
        why="Applies after the next update.",
    ),
    _vm(
        "dirtytime_expire_seconds",
        "age at which inodes dirty only by access time are written out",
        "s",
        60,
        604_800,
        cost="cheap",
        why="The flushers check all inodes once.",
    ),
    _vm(
        "extfrag_threshold",
        "fragmentation above which the kernel compacts instead of reclaiming",
        "1/1000",
        0,
        1000,
    ),
)
"""All knobs of this family."""
