# SPDX-License-Identifier: Apache-2.0
"""Knobs of transparent huge pages, below /sys/kernel/mm/transparent_hugepage.

khugepaged's bounds keep it from scanning without a pause: at most 64 MiB (16,384 pages
of 4 KiB) a round, and 100 ms between two. ``force`` of shmem_enabled is the kernel's own
aid for tests (transhuge.rst), and is left out.
"""

from __future__ import annotations

import os
from typing import Literal

from kmind.knobs._base import Knob

__all__ = ["KNOBS"]

_DOC = "Documentation/admin-guide/mm/transhuge.rst"
_FOLDER = "sys/kernel/mm/transparent_hugepage/"
_NEXT_FAULT = "Mapped memory stays as it is; the new value applies from the next page fault on."
_SCAN = "Applies from khugepaged's next round on."

# Pages in a huge one: a page table's worth of 8-byte entries.
_MOST_PTES = os.sysconf("SC_PAGE_SIZE") // 8 - 1


def _choice(file: str, summary: str, *choices: str, disturbs: tuple[str, ...] = ()) -> Knob:
    return Knob(
        name=f"thp.{file}",
        target="system",
        path=_FOLDER + file,
        summary=summary,
        reference=_DOC,
        kind="enum",
        choices=choices,
        settle="slow",
        disturbs=disturbs,
        note="A change may reset vm.min_free_kbytes." if disturbs else "",
        cost="disturbing" if disturbs else "none",
        cost_why="khugepaged starts or stops, and the reclaim watermarks are recomputed."
        if disturbs
        else _NEXT_FAULT,
    )


def _number(
    file: str,
    summary: str,
    unit: str,
    minimum: int,
    maximum: int,
    *,
    cost: Literal["none", "cheap"] = "cheap",
    why: str = _SCAN,
) -> Knob:
    return Knob(
        name="thp." + file.replace("/", "_"),
        target="system",
        path=_FOLDER + file,
        summary=summary,
        reference=_DOC,
        unit=unit,
        minimum=minimum,
        maximum=maximum,
        settle="slow",
        cost=cost,
        cost_why=why,
    )


KNOBS = (
    _choice(
        "enabled",
        "programs that get huge pages for anonymous memory",
        "always",
        "madvise",
        "never",
        disturbs=("vm.min_free_kbytes",),
    ),
    _choice(
        "defrag",
        "programs that wait for compaction when no huge page is free",
        "always",
        "defer",
        "defer+madvise",
        "madvise",
        "never",
    ),
    _choice(
        "shmem_enabled",
        "programs that get huge pages for shared memory",
        "always",
        "within_size",
        "advise",
        "never",
        "deny",
    ),
    _number(
        "use_zero_page",
        "huge zero page for read faults; 0: off",
        "",
        0,
        1,
        cost="none",
        why=_NEXT_FAULT,
    ),
    _number(
        "shrink_underused",
        "splitting of mostly empty huge pages under memory pressure; 0: off",
        "",
        0,
        1,
        cost="none",
        why="Applies from the next round of reclaim on.",
    ),
    _number("khugepaged/defrag", "compaction by khugepaged; 0: off", "", 0, 1),
    _number(
        "khugepaged/pages_to_scan", "pages that khugepaged scans per round", "pages", 64, 16384
    ),
    _number("khugepaged/scan_sleep_millisecs", "time between two rounds", "ms", 100, 600_000),
    _number(
        "khugepaged/alloc_sleep_millisecs",
        "wait after a failed allocation of a huge page",
        "ms",
        1000,
        600_000,
    ),
    _number(
        "khugepaged/max_ptes_none",
        "limit of absent pages filled up for one huge page; higher values cost memory",
        "pages",
        0,
        _MOST_PTES,
    ),
    _number(
        "khugepaged/max_ptes_swap",
        "limit of pages read back from swap for one huge page",
        "pages",
        0,
        _MOST_PTES,
    ),
    _number(
        "khugepaged/max_ptes_shared",
        "limit of shared pages copied for one huge page",
        "pages",
        0,
        _MOST_PTES,
    ),
)
"""All knobs of this family."""
