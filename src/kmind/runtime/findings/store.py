# SPDX-License-Identifier: Apache-2.0
"""Findings and reports in a SQLite file beside the journal.

It only tells: nothing is set or put back by it. A ``FindingStore`` belongs to one thread. All
methods raise KmindError where the file cannot be used.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from kmind.errors import UsageError
from kmind.util.sqlite import DeferringStore, Schema, is_database_there

__all__ = [
    "CLOSED_MOST",
    "REPORTS_MOST",
    "FindingStore",
    "closing_reason",
    "make_id",
    "read_findings",
    "read_reports",
    "shown_state",
]

CLOSED_MOST = 200
"""Closed findings that are kept of one module on one target."""

REPORTS_MOST = 100
"""Reports that are kept of one module on one target."""

_WHAT = "record of findings"
_ALL_MOST = 5000
_CLOSED_S = 90 * 86400.0
_ID_LEAST = 4  # characters of an id that name it, where no other begins so

_FIRST = """
CREATE TABLE finding (
    id TEXT PRIMARY KEY,
    state TEXT NOT NULL,       -- open, acknowledged, closed
    instance TEXT NOT NULL,
    module TEXT NOT NULL,
    target TEXT NOT NULL,
    identity TEXT NOT NULL,    -- of the target, as the journal has it
    kind TEXT NOT NULL,
    part TEXT NOT NULL,        -- of the target; empty: all of it
    subject TEXT NOT NULL,     -- both, as they are shown
    severity TEXT NOT NULL,
    score REAL NOT NULL,
    meaning TEXT NOT NULL,     -- of the score
    unit TEXT NOT NULL,
    title TEXT NOT NULL,
    evidence TEXT NOT NULL,    -- JSON, as are causes
    causes TEXT NOT NULL,
    action TEXT NOT NULL,
    since REAL NOT NULL,       -- seconds since 1970, as are the other times
    last REAL NOT NULL,
    expires REAL NOT NULL,
    cleared REAL,
    closed REAL,
    due REAL NOT NULL,         -- when it closes by itself
    lasts_s REAL NOT NULL,     -- without being confirmed
    calm_s REAL NOT NULL,      -- from cleared to closed
    by_admin INTEGER NOT NULL, -- closed by root, who wants to hear no more of it
    times INTEGER NOT NULL,    -- how often it was opened
    why TEXT NOT NULL          -- of its state
) STRICT;
CREATE INDEX finding_due ON finding (due) WHERE state != 'closed';
CREATE INDEX finding_closed ON finding (module, identity, closed) WHERE state = 'closed';
CREATE TABLE report (
    id TEXT PRIMARY KEY,
    instance TEXT NOT NULL,
    module TEXT NOT NULL,
    target TEXT NOT NULL,
    identity TEXT NOT NULL,
    kind TEXT NOT NULL,
    signature TEXT NOT NULL,
    title TEXT NOT NULL,
    evidence TEXT NOT NULL,
    count INTEGER NOT NULL,
    first REAL NOT NULL,
    last REAL NOT NULL,
    keep_until REAL NOT NULL,
    files TEXT NOT NULL,       -- JSON: name to size
    data TEXT NOT NULL         -- JSON: name to content, in base64
) STRICT;
CREATE INDEX report_same ON report (module, identity, last);
"""

_JSON = ("evidence", "causes", "files")
# By name, so that a file of a later kmind can be read.
_FINDING = (
    "id, state, instance, module, target, identity, kind, part, subject, severity, score, meaning, "
    "unit, title, evidence, causes, action, since, last, expires, cleared, closed, due, lasts_s, "
    "calm_s, by_admin, times, why"
)
_REPORT = (
    "id, instance, module, target, identity, kind, signature, title, evidence, count, first, "
    "last, keep_until, files"
)

_Row = dict[str, Any]


def make_id(*words: str) -> str:
    """The id of what these words name: the same words, the same id, after years too."""
    text = "".join(f"{len(word)}:{word}" for word in words)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class FindingStore(DeferringStore):
    """All findings and reports of this machine. ``now`` is in seconds since 1970.

    Without ``path`` it is kept in memory, and ends with the object. With ``read_only`` nothing
    is made or changed.
    """

    schema = Schema(_WHAT, (_FIRST,))

    def __init__(
        self,
        path: Path | None,
        *,
        now: Callable[[], float] = time.time,
        read_only: bool = False,
    ) -> None:
        super().__init__(path, read_only=read_only)
        self._now = now

    # Findings

    def put_finding(self, row: Mapping[str, Any]) -> None:
        """Write one, in the place of the one with its id."""
        self._put("finding", row)
        if row["state"] == "closed":
            self._soon(
                "DELETE FROM finding WHERE state = 'closed' AND (closed < ? OR id IN "
                "(SELECT id FROM finding WHERE module = ? AND identity = ? AND state = 'closed' "
                "ORDER BY closed DESC LIMIT -1 OFFSET ?) OR id IN "
                "(SELECT id FROM finding WHERE state = 'closed' ORDER BY closed DESC "
                "LIMIT -1 OFFSET ?))",
                self._now() - _CLOSED_S,
                row["module"],
                row["identity"],
                CLOSED_MOST,
                _ALL_MOST,
            )

    def finding(self, id: str) -> _Row | None:
        """The one of that whole id, if there is one."""
        rows = self._select("finding", "id = ?", id)
        return rows[0] if rows else None

    def findings_due(self, now: float) -> list[_Row]:
        """Those that close by themselves by now."""
        # Where the clock was set back, none lasts longer than if it were confirmed now.
        self._soon(
            "UPDATE finding SET due = ?1 + lasts_s, expires = ?1 + lasts_s "
            "WHERE state != 'closed' AND due > ?1 + lasts_s",
            now,
        )
        return self._select("finding", "state != 'closed' AND due <= ?", now)

    def open_findings(self, module: str, identity: str) -> int:
        """Return the number of findings of a module on a target that are not closed."""
        self._write_late()
        with self._errors("read"):
            row = self._db.execute(
                "SELECT count(*) FROM finding WHERE state != 'closed' AND module = ? "
                "AND identity = ?",
                (module, identity),
            ).fetchone()
        return int(row[0])

    def findings(self) -> list[_Row]:
        """All, those that are not closed first, the latest first."""
        return self._select(
            "finding", "1 = 1", order="state = 'closed', coalesce(closed, since) DESC, id"
        )

    def find_finding(self, id: str) -> _Row:
        """One by its id, or by how that begins. UsageError if none, or several, begin so."""
        return self._named("finding", id)

    # Reports

    def put_report(self, row: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        """Write one, in the place of the one with its id; without ``files`` it keeps those."""
        sizes = {name: len(data) for name, data in files.items()}
        values = {**row, "files": sizes, "data": msgspec.json.encode(files).decode()}
        self._put("report", values, keep=() if files else ("files", "data"))
        self._soon(
            "DELETE FROM report WHERE keep_until < ? OR id IN (SELECT id FROM report "
            "WHERE module = ? AND identity = ? ORDER BY last DESC LIMIT -1 OFFSET ?) "
            "OR id IN (SELECT id FROM report ORDER BY last DESC LIMIT -1 OFFSET ?)",
            self._now(),
            row["module"],
            row["identity"],
            REPORTS_MOST,
            _ALL_MOST,
        )

    def report(self, id: str) -> _Row | None:
        """The one of that whole id, if there is one."""
        rows = self._select("report", "id = ?", id, columns=_REPORT)
        return rows[0] if rows else None

    def reports(self) -> list[_Row]:
        """All, the latest first; ``files`` of each is name to size."""
        return self._select(
            "report", "keep_until >= ?", self._now(), columns=_REPORT, order="last DESC, id"
        )

    def find_report(self, id: str) -> tuple[_Row, dict[str, bytes]]:
        """One by its id, or by how that begins, and its files. UsageError as `find_finding`."""
        row = self._named("report", id)
        with self._errors("read"):
            return row, msgspec.json.decode(row.pop("data"), type=dict[str, bytes])

    def remove_report(self, id: str) -> None:
        """Forget the one of that whole id, and its files."""
        self._soon("DELETE FROM report WHERE id = ?", id)

    # Inside

    def _put(self, table: str, row: Mapping[str, Any], *, keep: tuple[str, ...] = ()) -> None:
        # One statement: the disk has room for all of it, or nothing is changed.
        values = {
            name: json.dumps(value) if name in _JSON else value for name, value in row.items()
        }
        columns, marks = ", ".join(values), ", ".join("?" for _ in values)
        sets = ", ".join(f"{name} = excluded.{name}" for name in values if name not in keep)
        self._soon(
            f"INSERT INTO {table} ({columns}) VALUES ({marks}) "
            f"ON CONFLICT (id) DO UPDATE SET {sets}",
            *values.values(),
        )

    def _named(self, table: str, id: str) -> _Row:
        rows = []
        if len(id) >= _ID_LEAST and set(id) <= set("0123456789abcdef"):
            columns = _FINDING if table == "finding" else f"{_REPORT}, data"
            rows = self._select(table, "substr(id, 1, ?) = ?", len(id), id, columns=columns)
        if not rows:
            raise UsageError(f"there is no {table} {id}", hint=f"see: kmind {table}s")
        if len(rows) > 1:
            raise UsageError(
                f"several {table}s have ids that begin with {id}", hint="give the whole id"
            )
        return rows[0]

    def _select(
        self, table: str, where: str, *values: object, columns: str = _FINDING, order: str = "id"
    ) -> list[_Row]:
        self._write_late()
        with self._errors("read"):
            rows = self._db.execute(
                f"SELECT {columns} FROM {table} WHERE {where} ORDER BY {order}", values
            )
            return [_decoded(row) for row in rows]


def shown_state(row: _Row, now: float) -> _Row:
    """A finding as it stands now, where nobody has looked after it since it was due."""
    if row["state"] == "closed" or row["due"] > now:
        return row
    return row | {"state": "closed", "closed": row["due"], "why": closing_reason(row)}


def closing_reason(row: Mapping[str, Any]) -> str:
    """Return the reason for closing a finding that is due."""
    if row["cleared"] is not None:
        return "it was no longer found"
    return f"it was not confirmed for {row['lasts_s']:g} s"


def read_findings(path: Path, id: str | None = None) -> list[_Row]:
    """The findings in a file, or the one of that id. Nothing is made or changed.

    Raises UsageError if there is none of that id, PrivilegeError if the file is not for this
    user, KmindError.
    """
    if not is_database_there(path, what=_WHAT):
        if id is not None:
            raise UsageError(f"there is no finding {id}", hint="there are no findings yet")
        return []
    with FindingStore(path, read_only=True) as store:
        rows = store.findings() if id is None else [store.find_finding(id)]
    return [shown_state(row, time.time()) for row in rows]


def read_reports(path: Path, id: str | None = None) -> tuple[list[_Row], dict[str, bytes]]:
    """The reports in a file, or the one of that id with its files; as `read_findings`."""
    if not is_database_there(path, what=_WHAT):
        if id is not None:
            raise UsageError(f"there is no report {id}", hint="there are no reports yet")
        return [], {}
    with FindingStore(path, read_only=True) as store:
        if id is None:
            return store.reports(), {}
        row, files = store.find_report(id)
        return [row], files


def _decoded(row: sqlite3.Row) -> _Row:
    values = dict(row)
    for name in _JSON:
        if name in values:
            values[name] = json.loads(values[name])
    return values
