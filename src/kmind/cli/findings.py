# SPDX-License-Identifier: Apache-2.0
"""``kmind findings``: the findings on record, in a list or one with its evidence."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kmind.cli.client import Client, DaemonError, path_to
from kmind.cli.output import json_line, write
from kmind.errors import PrivilegeError, UsageError
from kmind.paths import findings_path, journal_path
from kmind.runtime.findings.store import read_findings
from kmind.util.table import table

__all__ = ["SCHEMA", "findings_command"]

SCHEMA = "kmind.findings/1"


def findings_command(
    action: str, id: str | None, *, all: bool, json: bool, socket: Path | None
) -> int:
    """List or show findings, or have the daemon acknowledge or close one.

    To list and to show needs no daemon, but for users whom the file is not for. Raises UsageError
    if there is none of that id.
    """
    if action == "list":
        if id is not None:
            raise UsageError(f"list takes no id: {id}", hint=f"try: kmind findings show {id}")
        rows = [row for row in _findings(None, socket) if all or row["state"] != "closed"]
        return _say(rows, _table(rows), json=json)
    if id is None:
        raise UsageError(f"{action} needs an id", hint="see: kmind findings")
    if action == "show":
        rows = _findings(id, socket)
        return _say(rows, _whole(rows[0]), json=json)
    answer = Client(socket).call("POST", f"{path_to('findings', id)}/{action}")
    row = answer["findings"][0]
    return _say([row], f"{row['id'][:8]} is {row['state']}: {row['title']}\n", json=json)


def _findings(id: str | None, socket: Path | None) -> list[dict[str, Any]]:
    try:
        return read_findings(findings_path(journal_path()), id)
    except PrivilegeError as error:
        try:
            place = "/v1/findings" if id is None else path_to("findings", id)
            rows: list[dict[str, Any]] = Client(socket).get(place)["findings"]
        except (DaemonError, PrivilegeError):
            raise error from None
        return rows


def _say(rows: list[dict[str, Any]], text: str, *, json: bool) -> int:
    write(json_line(SCHEMA, {"findings": rows}) + "\n" if json else text)
    return 0


def _table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "No open findings; for closed ones: kmind findings --all\n"
    cells = [
        (row["id"][:8], row["severity"], row["state"], row["subject"], _day(row["since"]),
         row["title"])
        for row in rows
    ]  # fmt: skip
    return table(("id", "severity", "state", "of", "since", "what"), cells)


def _whole(row: Mapping[str, Any]) -> str:
    unit = f" {row['unit']}" if row["unit"] not in ("", "1") else ""
    lines = [
        f"{row['id']}: {row['title']}",
        f"    {row['severity']}, {row['state']} ({row['why']}); {row['kind']} of {row['subject']}, "
        f"found by {row['instance']}",
        f"    since {_day(row['since'])}, last confirmed {_day(row['last'])}"
        + (f", found {row['times']} times" if row["times"] > 1 else ""),
        f"    score {row['score']:g}{unit}: {row['meaning']}",
        *(f"    evidence: {name} = {_word(value)}" for name, value in row["evidence"].items()),
    ]
    for cause in row["causes"]:
        because = ", ".join(f"{name} = {_word(value)}" for name, value in cause["evidence"].items())
        lines.append(f"    possible cause: {cause['hint']}" + (f" ({because})" if because else ""))
    if row["action"]:
        lines.append(f"    to do: {row['action']}")
    if row["state"] != "closed":
        expires = max(0.0, row["expires"] - time.time())
        lines.append(f"    expires in {expires:.0f} s, unless it is confirmed")
    return "\n".join(lines) + "\n"


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _word(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
