# SPDX-License-Identifier: Apache-2.0
"""``kmind inspect``: what a recording holds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from kmind.cli.output import json_line, write
from kmind.learn.recording import open_recordings
from kmind.learn.summary import summarise
from kmind.util.table import table

__all__ = ["SCHEMA", "inspect_command"]

SCHEMA = "kmind.inspect/1"


def inspect_command(path: Path, *, json: bool) -> int:
    """Summarise a file or a folder. Raises RecordingError for what is none."""
    summaries = [summarise(recording) for recording in open_recordings(path)]
    if json:
        write(json_line(SCHEMA, {"path": str(path), "recordings": summaries}) + "\n")
        return 0
    for summary in summaries:
        write("".join(f"{line}\n" for line in _lines(summary)) + _tables(summary))
    return 0


def _lines(summary: dict[str, Any]) -> list[str]:
    counts, host = summary["counts"], summary["host"]
    lines = [
        f"{summary['instance']}: module {summary['module']} {summary['version']}, "
        f"kmind {summary['kmind']}, "
        f"ABI {summary['abi']}" + (", simulated" if summary["backend"] == "sim" else ""),
        f"  of kernel {host['kernel']} ({host['machine']}, {host['cpus']} CPUs)",
        f"  {summary['windows']:,} windows over {summary['span_s']:,.1f} s, "
        f"{summary['records']:,} records; "
        f"{summary['files']} files, {summary['bytes'] / 2**20:,.1f} MiB",
    ]
    if summary["start"]:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(summary["start"]))
        lines.append(f"  begun {when}")
    lines.append(
        f"  lost: {counts['ring_dropped']:,} dropped by the agent, {counts['ring_lost']:,} missing "
        f"in its rings, {counts['queue_dropped']:,} that the disk was too slow for, "
        f"{counts['removed']:,} removed to keep the bound"
    )
    if summary["cut"]:
        lines.append(f"  not closed, read as far as it goes: {', '.join(summary['cut'])}")
    for hook, why in summary["missing"].items():
        lines.append(f"  hook {hook} was missing: {why}")
    if summary["tags"]:
        lines.append("  tags: " + " ".join(f"{k}={v}" for k, v in summary["tags"].items()))
    for name, stood in summary["knobs"].items():
        shown = ", ".join(f"{v or 'changing'} ({n})" for v, n in stood.items())
        lines.append(f"  {name}: {shown} windows")
    for held in summary["tables"]:
        lines.append(
            f"  table {held['name']}: {held['changes']:,} changes of rows; at the end "
            f"{held['used']} of {held['rows']} are in use"
        )
    for gap in summary["gaps"][:10]:
        lines.append(
            f"  gap after {gap['at_s']:,.1f} s: {gap['seconds']:,.3f} s, {gap['windows']} windows"
        )
    if len(summary["gaps"]) > 10:
        lines.append(f"  and {len(summary['gaps']) - 10} more gaps")
    return lines


def _tables(summary: dict[str, Any]) -> str:
    text = _table("feature", summary["features"]) if summary["features"] else ""
    for kind in summary["kinds"]:
        if kind["fields"]:
            text += _table(f"{kind['name']} ({kind['records']:,})", kind["fields"])
    return text


def _table(title: str, rows: list[dict[str, Any]]) -> str:
    keys = ("min", "median", "p99", "max")
    cells = [
        (row["name"], row["unit"] or "-", *(f"{row[key]:,.6g}" for key in keys)) for row in rows
    ]
    return "\n" + table((title, "unit", *keys), cells)
