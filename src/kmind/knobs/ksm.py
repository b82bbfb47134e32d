# SPDX-License-Identifier: Apache-2.0
"""Knobs of kernel samepage merging, below /sys/kernel/mm/ksm.

``ksm.run`` 2 takes all merged pages apart at once, for which memory may lack: it is left
out. So are max_page_sharing and merge_across_nodes, which the kernel lets nobody change
while pages are merged. Bounds keep ksmd from scanning without a pause.
"""

from __future__ import annotations

from typing import Literal

from kmind.knobs._base import Knob

__all__ = ["KNOBS"]

_DOC = "Documentation/admin-guide/mm/ksm.rst"
_FOLDER = "sys/kernel/mm/ksm/"
_SCAN = "Applies from ksmd's next round on."
_IDLE = "Effective only while advisor_mode is scan-time."


def _number(
    file: str,
    summary: str,
    unit: str,
    minimum: int,
    maximum: int,
    *,
    note: str = "",
    cost: Literal["cheap", "disturbing"] = "cheap",
    why: str = _SCAN,
) -> Knob:
    return Knob(
        name=f"ksm.{file}",
        target="system",
        path=_FOLDER + file,
        summary=summary,
        reference=_DOC,
        unit=unit,
        minimum=minimum,
        maximum=maximum,
        settle="slow",
        note=note,
        cost=cost,
        cost_why=why,
    )


KNOBS = (
    _number(
        "run",
        "merging of equal pages, for programs that asked for it; 0: off",
        "",
        0,
        1,
        note="After a return to 0, merged pages stay merged until they are written to.",
        cost="disturbing",
        why="ksmd takes CPU time, and the first write to a merged page copies it.",
    ),
    _number(
        "pages_to_scan",
        "pages that ksmd scans per round",
        "pages",
        10,
        10_000,
        note="Refused while advisor_mode is scan-time.",
    ),
    _number("sleep_millisecs", "time between two rounds", "ms", 10, 60_000),
    _number("use_zero_pages", "replacement of empty pages by the zero page; 0: off", "", 0, 1),
    _number("smart_scan", "skipping of pages that never merged; 0: off", "", 0, 1),
    _number(
        "stable_node_chains_prune_millisecs",
        "time between two searches for stale merged pages",
        "ms",
        100,
        60_000,
    ),
    Knob(
        name="ksm.advisor_mode",
        target="system",
        path=_FOLDER + "advisor_mode",
        summary="automatic choice of pages_to_scan by the kernel",
        reference=_DOC,
        kind="enum",
        choices=("none", "scan-time"),
        settle="slow",
        disturbs=("ksm.pages_to_scan",),
        note="A change resets ksm.pages_to_scan.",
        cost_why=_SCAN,
    ),
    _number(
        "advisor_max_cpu",
        "upper limit of CPU time that the advisor aims at",
        "%",
        1,
        70,
        note=_IDLE,
    ),
    _number(
        "advisor_target_scan_time",
        "time in which the advisor aims to scan all pages",
        "s",
        10,
        3600,
        note=_IDLE,
    ),
)
"""All knobs of this family."""
