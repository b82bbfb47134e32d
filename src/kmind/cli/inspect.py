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
    found = [summarise(recording) for recording in open_recordings(path)]
    if json:
        write(json_line(SCHEMA, {"path": str(path), "recordings": found}) + "\n")
        return 0
    for each in found:
        write("".join(f"{line}\n" for line in _lines(each)) + _tables(each))
    return 0


def _lines(each: dict[str, Any]) -> list[str]:
    counts, host = each["counts"], each["host"]
    lines = [
        f"{each['instance']}: module {each['module']} {each['version']}, kmind {each['kmind']}, "
        f"ABI {each['abi']}" + (", simulated" if each["backend"] == "sim" else ""),
        f"  of kernel {host['kernel']} ({host['machine']}, {host['cpus']} CPUs)",
        f"  {each['windows']:,} windows over {each['span_s']:,.1f} s, {each['records']:,} records; "
        f"{each['files']} files, {each['bytes'] / 2**20:,.1f} MiB",
    ]
    if each["start"]:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each["start"]))
        lines.append(f"  begun {when}")
    lines.append(
        f"  lost: {counts['ring_dropped']:,} dropped by the agent, {counts['ring_lost']:,} missing "
        f"in its rings, {counts['queue_dropped']:,} that the disk was too slow for, "
        f"{counts['removed']:,} removed to keep the bound"
    )
    if each["cut"]:
        lines.append(f"  not closed, read as far as it goes: {', '.join(each['cut'])}")
    for hook, why in each["missing"].items():
        lines.append(f"  hook {hook} was missing: {why}")
    if each["tags"]:
        lines.append("  tags: " + " ".join(f"{k}={v}" for k, v in each["tags"].items()))
    for name, stood in each["knobs"].items():
        shown = ", ".join(f"{v or 'changing'} ({n})" for v, n in stood.items())
        lines.append(f"  {name}: {shown} windows")
    for held in each["tables"]:
        lines.append(
            f"  table {held['name']}: {held['changes']:,} changes of rows; at the end "
            f"{held['used']} of {held['rows']} are in use"
        )
    for gap in each["gaps"][:10]:
        lines.append(
            f"  gap after {gap['at_s']:,.1f} s: {gap['seconds']:,.3f} s, {gap['windows']} windows"
        )
    if len(each["gaps"]) > 10:
        lines.append(f"  and {len(each['gaps']) - 10} more gaps")
    return lines


def _tables(each: dict[str, Any]) -> str:
    text = _table("feature", each["features"]) if each["features"] else ""
    for kind in each["kinds"]:
        if kind["fields"]:
            text += _table(f"{kind['name']} ({kind['records']:,})", kind["fields"])
    return text


def _table(title: str, rows: list[dict[str, Any]]) -> str:
    keys = ("min", "median", "p99", "max")
    cells = [
        (row["name"], row["unit"] or "-", *(f"{row[key]:,.6g}" for key in keys)) for row in rows
    ]
    return "\n" + table((title, "unit", *keys), cells)
