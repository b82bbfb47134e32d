# SPDX-License-Identifier: Apache-2.0
"""``kmind why``: the experiments on record, in a list, or one with its chart and numbers."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

from kmind.cli.client import Client, DaemonError
from kmind.cli.output import json_line, write
from kmind.errors import PrivilegeError, UsageError
from kmind.evidence.chart import render_experiment
from kmind.paths import evidence_path, journal_path
from kmind.runtime.evidence_store import BY_MODULE, CONFIRMATION, read_experiments
from kmind.util.table import table

__all__ = ["SCHEMA", "why_command"]

SCHEMA = "kmind.why/2"

_FEW_COLUMNS, _MOST_COLUMNS = 40, 120


def why_command(id: str | None, *, json: bool) -> int:
    """Show one experiment, or list the latest. It needs no daemon, but for whom the file is not.

    Raises UsageError if there is none of that number, PrivilegeError if neither the file is
    for this user nor a daemon answers.
    """
    rows = _experiments(id)
    if id is not None:
        return _say({"experiments": rows}, _whole(rows[0]), json=json)
    text = _table(rows) if rows else "There are no experiments yet.\n"
    return _say({"experiments": rows}, text, json=json)


def _experiments(id: str | None) -> list[dict[str, Any]]:
    try:
        return read_experiments(evidence_path(journal_path()), id)
    except PrivilegeError as error:
        place = "/v1/experiments" + (f"/{_number(id)}" if id is not None else "")
        try:
            rows: list[dict[str, Any]] = Client().get(place)["experiments"]
        except (DaemonError, PrivilegeError):
            raise error from None
        return rows


def _number(id: str) -> str:
    if not (id.isascii() and id.isdecimal()):
        raise UsageError(f"there is no experiment {id}", hint="see: kmind why")
    return id


def _say(report: Mapping[str, Any], text: str, *, json: bool) -> int:
    write(json_line(SCHEMA, report) + "\n" if json else text)
    return 0


def _table(rows: list[dict[str, Any]]) -> str:
    cells = [
        (row["id"], _when(row["time"]), row["instance"], _change(row), _outcome(row), _effect(row))
        for row in rows
    ]
    return table(("id", "when", "instance", "change", "outcome", "effect"), cells)


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _change(row: Mapping[str, Any]) -> str:
    if not isinstance(row["candidate"], Mapping):
        return f"{row['knob']} {row['incumbent']} -> {row['candidate']}"
    pairs = [(knob, row["incumbent"][knob], value) for knob, value in row["candidate"].items()]
    return ", ".join(f"{knob} {old} -> {new}" for knob, old, new in pairs)


def _outcome(row: Mapping[str, Any]) -> str:
    if row["state"] == "interrupted":
        return "interrupted"
    if row["state"] == "running":
        return "running"
    if row["kind"] == BY_MODULE:
        return f"{row['outcome']}, by module"
    kept = ", kept" if row["kept"] and row["kind"] != "unmeasured" else ""
    return f"{row['outcome']}{kept}"


def _effect(row: Mapping[str, Any]) -> str:
    if row["ratio"] is None:
        return row["why"] if row["kind"] == "unmeasured" else "-"
    high = "infinity" if row["high"] is None else f"{row['high']:.3g}"
    return f"{row['metric']} x{row['ratio']:.3g} (CI {row['low']:.3g} to {high})"


def _whole(row: Mapping[str, Any]) -> str:
    simulated = "" if row["backend"] == "bpf" else ", simulated"
    lines = [
        f"experiment {row['id']}, {row['kind']}{simulated}: {_change(row)} of {row['target']}, "
        f"by {row['instance']}, {_when(row['time'])}: {_outcome(row)}"
    ]
    if row["reason"]:
        lines.append(f"    proposed: {row['reason']}")
    for name, value in row["evidence"].items():
        lines.append(f"    evidence: {name} = {value}")
    if not row["record"] or not row["record"].get("blocks"):
        lines += [f"    {row['why']}"] if row["why"] else []
        return "\n".join(lines) + "\n"
    if row["kind"] == BY_MODULE:
        lines.append(
            "    measured by the module itself, and not by kmind: only its sums were checked"
        )
    word = row["unit"] or ("" if row["kind"] in (BY_MODULE, CONFIRMATION) else "counts")
    unit = f", in {word}" if word else ""
    if row["context"]:
        lines.append(f"    context: {row['context']}")
    lines.append(f"    measured by: {row['metric']}{unit}")
    width = min(max(shutil.get_terminal_size().columns, _FEW_COLUMNS), _MOST_COLUMNS)
    plain = "utf" not in (sys.stdout.encoding or "").lower()
    chart = render_experiment(row["record"], width=width, ascii=plain, unit=row["unit"])
    return "\n".join(lines) + "\n\n" + chart
