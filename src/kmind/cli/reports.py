# SPDX-License-Identifier: Apache-2.0
"""``kmind reports``: the reports on record, in a list or one with its evidence and files."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kmind.cli.client import Client, DaemonError, path_to
from kmind.cli.output import json_line, write
from kmind.errors import KmindError, PrivilegeError, UsageError
from kmind.paths import findings_path, journal_path
from kmind.runtime.findings.store import read_reports
from kmind.util.table import table

__all__ = ["SCHEMA", "reports_command"]

SCHEMA = "kmind.reports/1"


def reports_command(
    action: str, id: str | None, *, save: Path | None, json: bool, socket: Path | None
) -> int:
    """List or show reports, or have the daemon remove one; ``save`` writes the files of one.

    To list and to show needs no daemon, but for users whom the file is not for. Raises UsageError
    if there is none of that id, KmindError if a file cannot be written.
    """
    if save is not None and action != "show":
        raise UsageError(
            "--save goes with: kmind reports show", hint="try: kmind reports show ID --save FOLDER"
        )
    if action == "list":
        if id is not None:
            raise UsageError(f"list takes no id: {id}", hint=f"try: kmind reports show {id}")
        rows = _reports(None, socket)
        return _say(rows, _table(rows), json=json)
    if id is None:
        raise UsageError(f"{action} needs an id", hint="see: kmind reports")
    if action == "remove":
        answer = Client(socket).call("DELETE", path_to("reports", id))
        row = answer["reports"][0]
        return _say([row], f"{row['id'][:8]} is removed: {row['title']}\n", json=json)
    rows = _reports(id, socket)
    text = _whole(rows[0])
    if save is not None:
        text += _save(save, rows[0]["data"])
    return _say(rows, text, json=json)


def _reports(id: str | None, socket: Path | None) -> list[dict[str, Any]]:
    try:
        rows, files = read_reports(findings_path(journal_path()), id)
    except PrivilegeError as error:
        try:
            place = "/v1/reports" if id is None else path_to("reports", id)
            found: list[dict[str, Any]] = Client(socket).get(place)["reports"]
        except (DaemonError, PrivilegeError):
            raise error from None
        return found
    if id is None:
        return rows
    data = {name: base64.b64encode(text).decode() for name, text in files.items()}
    return [rows[0] | {"data": data}]


def _save(folder: Path, data: Mapping[str, str]) -> str:
    # The names are bounded by the owner; this is for a file that another one wrote.
    lines = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in data.items():
            path = folder / Path(name).name
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
                file.write(base64.b64decode(text))
            lines.append(f"    saved: {path}\n")
    except OSError as error:
        raise KmindError(
            f"cannot write {error.filename or folder}: {error.strerror}",
            hint="name a folder without files of these names",
        ) from None
    return "".join(lines)


def _say(rows: list[dict[str, Any]], text: str, *, json: bool) -> int:
    write(json_line(SCHEMA, {"reports": rows}) + "\n" if json else text)
    return 0


def _table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "There are no reports yet.\n"
    cells = [
        (row["id"][:8], row["kind"], row["target"], row["count"], _day(row["last"]), row["title"])
        for row in rows
    ]
    return table(("id", "kind", "of", "count", "last", "what"), cells)


def _whole(row: Mapping[str, Any]) -> str:
    lines = [
        f"{row['id']}: {row['title']}",
        f"    {row['kind']} of {row['target']}, filed by {row['instance']}: {row['signature']}",
        f"    {row['count']} times, from {_day(row['first'])} to {_day(row['last'])}; "
        f"kept until {_day(row['keep_until'])}",
        *(f"    evidence: {name} = {value}" for name, value in row["evidence"].items()),
        *(f"    file: {name}, {size} bytes" for name, size in row["files"].items()),
    ]
    return "\n".join(lines) + "\n"


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
