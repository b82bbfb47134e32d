# SPDX-License-Identifier: Apache-2.0
"""Every experiment that was made on this machine, in a SQLite file beside the journal.

    running -> ended: gain, loss, no change, aborted
    running -> interrupted: its owner was killed, or the machine went down

It only tells: what is in force, and what is to be put back, the journal says. Each commit
survives a kill. An ``EvidenceStore`` belongs to one thread. All methods raise KmindError
where the file cannot be used.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from kmind.errors import KmindError, UsageError
from kmind.evidence import Budget
from kmind.guard import Owner
from kmind.knobs import Knob, Target, Value
from kmind.util.procfs import boot_id
from kmind.util.sqlite import DeferringStore, Schema, is_database_there

__all__ = [
    "BY_MODULE",
    "CONFIRMATION",
    "UNMEASURED",
    "EvidenceStore",
    "ask_store",
    "read_experiments",
]

UNMEASURED: Mapping[str, Any] = {"outcome": "not measured", "interval": None, "detectable": None}
"""The record, but for its reason, of what was applied without an experiment."""

BY_MODULE = "by module"
"""The kind of an experiment that a module made itself."""

CONFIRMATION = "confirmation"
"""The kind of the owner's experiment on all that such a module has set."""

_T = TypeVar("_T")
_WHAT = "record of experiments"
_MOST_ROWS = 5000
_MOST_BY_MODULE = 1000  # beside those: what a module says must not push them out
_MOST_PIECES = 16

_FIRST = """
CREATE TABLE experiment (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    state TEXT NOT NULL,       -- running, ended, interrupted
    kind TEXT NOT NULL,        -- trial, recheck, by hand, by module, confirmation, or unmeasured
    time REAL NOT NULL,        -- seconds since 1970, as ended
    ended REAL,
    boot TEXT NOT NULL,
    pid INTEGER NOT NULL,
    start INTEGER NOT NULL,    -- of the process, in ticks since boot
    instance TEXT NOT NULL,
    module TEXT NOT NULL,
    backend TEXT NOT NULL,
    target TEXT NOT NULL,
    identity TEXT NOT NULL,
    knob TEXT NOT NULL,
    incumbent TEXT NOT NULL,   -- JSON, as are candidate, evidence and record
    candidate TEXT NOT NULL,
    metric TEXT NOT NULL,      -- name of the outcome that it went by, and its unit
    unit TEXT NOT NULL,
    context TEXT NOT NULL,
    reason TEXT NOT NULL,      -- of the recommendation
    evidence TEXT NOT NULL,
    rec_id INTEGER NOT NULL,
    change INTEGER NOT NULL,   -- of the journal
    detectable REAL,
    outcome TEXT NOT NULL DEFAULT '',
    why TEXT NOT NULL DEFAULT '',
    kept INTEGER NOT NULL DEFAULT 0,
    ratio REAL,
    low REAL,
    high REAL,
    pairs INTEGER NOT NULL DEFAULT 0,
    record TEXT NOT NULL DEFAULT 'null'
) STRICT;
CREATE INDEX experiment_same ON experiment (module, identity, knob, context, id);
CREATE INDEX experiment_running ON experiment (instance) WHERE state = 'running';
"""

# One row a knob and day: how many experiments there were, and what those handed on. Files of
# version 1 may have it: it was added without a new number.
_BUDGETS = """
CREATE TABLE IF NOT EXISTS budget (
    identity TEXT NOT NULL,
    knob TEXT NOT NULL,
    day INTEGER NOT NULL,      -- since 1970, UTC
    tests INTEGER NOT NULL,
    carried REAL NOT NULL,
    PRIMARY KEY (identity, knob)
) STRICT;
"""

_DAY_S = 86400

_JSON = ("incumbent", "candidate", "evidence", "record")
_SHORT = (
    "id, state, kind, time, ended, instance, module, backend, target, knob, incumbent, candidate, "
    "metric, unit, context, reason, evidence, rec_id, detectable, outcome, why, kept, ratio, low, "
    "high, pairs"
)

_Row = dict[str, Any]


class EvidenceStore(DeferringStore):
    """All experiments of this machine. ``now`` is in seconds since 1970.

    Without ``path`` it is kept in memory, and ends with the object. With ``read_only`` nothing
    is made or changed.
    """

    schema = Schema(_WHAT, (_FIRST, _BUDGETS))

    def __init__(
        self,
        path: Path | None,
        *,
        now: Callable[[], float] = time.time,
        read_only: bool = False,
    ) -> None:
        super().__init__(path, read_only=read_only)
        self._now = now
        self._boot = boot_id()
        self._budgets: dict[tuple[str, str], tuple[int, Budget]] = {}

    def begin(
        self,
        *,
        kind: str,
        instance: str,
        module: str,
        backend: str,
        knob: Knob | str,
        target: Target,
        incumbent: Value | Mapping[str, Value],
        candidate: Value | Mapping[str, Value],
        metric: str,
        unit: str,
        context: str = "",
        reason: str = "",
        evidence: Mapping[str, Any] | None = None,
        rec_id: int = 0,
        change: int = 0,
    ) -> int:
        """Take down that an experiment begins; its number.

        One that a module made, or that confirms what it has set, may be of several knobs: their
        names in a text, and their values by name.
        """
        me = Owner.me(instance)
        row: _Row = {
            "state": "running",
            "kind": kind,
            "time": self._now(),
            "boot": self._boot,
            "pid": me.pid,
            "start": me.start,
            "instance": instance,
            "module": module,
            "backend": backend,
            "target": target.name,
            "identity": target.identity(),
            "knob": _name(knob),
            "incumbent": json.dumps(incumbent),
            "candidate": json.dumps(candidate),
            "metric": metric,
            "unit": unit,
            "context": context,
            "reason": reason,
            "evidence": json.dumps(dict(evidence or {}), default=str),
            "rec_id": rec_id,
            "change": change,
        }
        by_module = kind == BY_MODULE
        columns, marks = ", ".join(row), ", ".join("?" for _ in row)
        self._write_late()
        with self._errors("write"):
            cursor = self._db.execute(
                f"INSERT INTO experiment ({columns}) VALUES ({marks})", tuple(row.values())
            )
            self._db.execute(
                "DELETE FROM experiment WHERE (kind = ?1) = ?2 AND id <= "
                "(SELECT id FROM experiment WHERE (kind = ?1) = ?2 "
                "ORDER BY id DESC LIMIT 1 OFFSET ?3)",
                (BY_MODULE, by_module, _MOST_BY_MODULE if by_module else _MOST_ROWS),
            )
        return _last(cursor)

    def end(self, number: int, record: Mapping[str, Any], *, kept: bool) -> None:
        """Take down how it ended; ``record`` is the experiment's ``to_dict``."""
        interval = record["interval"] or {}
        with self._errors("write"):
            text = json.dumps(record, allow_nan=False)
        self._soon(
            "UPDATE experiment SET state = 'ended', ended = ?, outcome = ?, why = ?, kept = ?, "
            "ratio = ?, low = ?, high = ?, pairs = ?, detectable = ?, record = ? WHERE id = ?",
            self._now(),
            record["outcome"],
            record["reason"],
            kept,
            interval.get("ratio"),
            interval.get("low"),
            interval.get("high"),
            interval.get("pairs", 0),
            record["detectable"],
            text,
            number,
        )

    def mark_interrupted(self, instance: str | None = None) -> list[_Row]:
        """Close what an owner that has ended left running, of all or one; those experiments.

        The journal puts their knobs back.
        """
        rows = [
            row
            for row in self._select(
                "state = 'running' AND instance = coalesce(?, instance)", instance
            )
            if row["boot"] != self._boot or not _owner(row).alive()
        ]
        for row in rows:
            rebooted = row["boot"] != self._boot
            row["why"] = "the machine went down" if rebooted else "its owner was killed"
            row["state"] = "interrupted"
            self._soon(
                "UPDATE experiment SET state = 'interrupted', outcome = 'aborted', why = ?, "
                "ended = ? WHERE id = ?",
                row["why"],
                self._now(),
                row["id"],
            )
        return rows

    def gains(
        self,
        *,
        module: str,
        knob: Knob,
        target: Target,
        incumbent: Value,
        candidate: Value,
        context: str,
        younger_s: float,
    ) -> list[_Row]:
        """The experiments on record by which the candidate beats the incumbent; [] if none do.

        One, or several in a row where each incumbent is the one before's candidate. Of a
        pair of values the latest verdict counts; one that refutes a kept value counts in every
        context, and one that confirms it in none.
        """
        # Of thousands of rows only few are of the way: their records are read at the end.
        self._write_late()
        with self._errors("read"):
            rows = self._db.execute(
                "SELECT id, kind, incumbent, candidate, kept FROM experiment "
                "WHERE module = ? AND identity = ? AND knob = ? AND ended > ? "
                "AND (kind = 'trial' AND context = ? OR kind = 'recheck' AND NOT kept) "
                "AND (outcome IN ('gain', 'loss', 'no change') OR why LIKE 'guard %' "
                "OR why LIKE 'void:%') ORDER BY id",
                (module, target.identity(), knob.name, self._now() - younger_s, context),
            ).fetchall()
        latest: dict[tuple[str, str], tuple[int, bool]] = {}
        refuted: dict[tuple[str, str], int] = {}
        for number, kind, old, new, kept in rows:
            if kind == "recheck":
                refuted[old, new] = number
                latest.pop((old, new), None)
            else:
                latest[old, new] = number, bool(kept)
        start, goal = json.dumps(incumbent), json.dumps(candidate)
        way = _way(latest, start, goal)
        if any(number < refuted.get((start, goal), 0) for number in way):
            return []
        return [row for number in way for row in self._select("id = ?", number)]

    def cut_short(
        self,
        *,
        module: str,
        knob: Knob,
        target: Target,
        incumbent: Value,
        candidate: Value,
        metric: str,
        context: str,
        younger_s: float,
    ) -> list[_Row]:
        """The trials of a pair of values in a context since the last verdict, newest first."""
        where, values = self._about(module, knob, target, context, younger_s)
        rows = self._select(
            f"{where} AND metric = ? AND incumbent = ? AND candidate = ? "
            "AND kind IN ('trial', 'recheck')",
            *values,
            metric,
            json.dumps(incumbent),
            json.dumps(candidate),
            order=f"id DESC LIMIT {_MOST_PIECES}",
        )
        return list(
            itertools.takewhile(
                lambda row: row["kind"] == "trial" and row["outcome"] == "aborted", rows
            )
        )

    def confirmed(
        self,
        *,
        module: str,
        knob: str,
        target: Target,
        incumbent: Mapping[str, Value],
        candidate: Mapping[str, Value],
        metric: str,
        younger_s: float,
    ) -> int:
        """The number of the latest confirmation of a setting, if it was kept then; else 0.

        One that something else than its verdict ended does not count.
        """
        rows = self._select(
            "module = ? AND identity = ? AND knob = ? AND kind = ? AND metric = ? "
            "AND incumbent = ? AND candidate = ? AND ended > ? "
            "AND (outcome != 'aborted' OR why LIKE 'guard %' OR why LIKE 'void:%')",
            module,
            target.identity(),
            knob,
            CONFIRMATION,
            metric,
            json.dumps(incumbent),
            json.dumps(candidate),
            self._now() - younger_s,
            columns="id, kept",
            order="id DESC LIMIT 1",
        )
        return int(rows[0]["id"]) if rows and rows[0]["kept"] else 0

    # The error that a day's experiments on a knob may make

    def budget(self, knob: Knob | str, target: Target) -> Budget:
        """Return the error budget left today (UTC) for a knob and target, for all instances.

        A text names what several knobs share.
        """
        key, today = (target.identity(), _name(knob)), int(self._now() // _DAY_S)
        known = [self._budgets[key]] if key in self._budgets else []
        try:
            with self._errors("read"):
                row = self._db.execute(
                    "SELECT day, tests, carried FROM budget WHERE identity = ? AND knob = ?", key
                ).fetchone()
            known += [(row["day"], Budget(row["tests"], row["carried"]))] if row else []
        except KmindError:  # then it is what this process knows of it
            pass
        # That of tomorrow counts where the clock was set back a little.
        known = [entry for entry in known if today <= entry[0] <= today + 1]
        return max(
            (budget for _, budget in known), key=lambda budget: budget.tests, default=Budget()
        )

    def set_budget(self, knob: Knob | str, target: Target, budget: Budget) -> None:
        """Take down what is left of it."""
        key, today = (target.identity(), _name(knob)), int(self._now() // _DAY_S)
        self._budgets[key] = today, budget
        self._soon(
            "INSERT INTO budget (identity, knob, day, tests, carried) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (identity, knob) DO UPDATE SET day = excluded.day, "
            "tests = excluded.tests, carried = excluded.carried",
            *key,
            today,
            budget.tests,
            budget.carried,
        )

    def _about(
        self, module: str, knob: Knob, target: Target, context: str, younger_s: float
    ) -> tuple[str, tuple[object, ...]]:
        # Recent ends in the same circumstances: the condition and its values.
        where = "module = ? AND identity = ? AND knob = ? AND context = ? AND ended > ?"
        since = self._now() - younger_s
        return where, (module, target.identity(), knob.name, context, since)

    def kept(self, instance: str, knob: Knob) -> _Row | None:
        """The last experiment of an instance by which a value of a knob was kept, if any."""
        rows = self._select(
            "instance = ? AND knob = ? AND kept AND kind IN ('trial', 'recheck')",
            instance,
            knob.name,
            order="id DESC LIMIT 1",
        )
        return rows[0] if rows else None

    def latest(self, limit: int = 50) -> list[_Row]:
        """The latest experiments, newest first, without their blocks."""
        return self._select("1 = 1", columns=_SHORT, order=f"id DESC LIMIT {limit:d}")

    def get(self, id: str) -> _Row:
        """One experiment with all of its blocks. UsageError if there is none of that number."""
        rows = []
        if id.isascii() and id.isdecimal() and len(id) < 18:
            rows = self._select("id = ?", int(id), columns=f"{_SHORT}, record")
        if not rows:
            raise UsageError(f"there is no experiment {id}", hint="see: kmind why")
        return rows[0]

    def _select(
        self, where: str, *values: object, columns: str = "*", order: str = "id"
    ) -> list[_Row]:
        self._write_late()
        with self._errors("read"):
            rows = self._db.execute(
                f"SELECT {columns} FROM experiment WHERE {where} ORDER BY {order}", values
            )
            return [_decoded(dict(row)) for row in rows]


def read_experiments(path: Path, id: str | None = None) -> list[dict[str, Any]]:
    """The latest experiments in a file, newest first, or the one of that id with its blocks.

    Nothing is made or changed, and no lock of the owner's is taken. Raises UsageError if there is
    none of that id, PrivilegeError if the file is not for this user, KmindError.
    """
    if not is_database_there(path, what=_WHAT):
        if id is not None:
            raise UsageError(f"there is no experiment {id}", hint="there are no experiments yet")
        return []
    with EvidenceStore(path, read_only=True) as store:
        return store.latest() if id is None else [store.get(id)]


def _way(
    latest: Mapping[tuple[str, str], tuple[int, bool]], start: str, goal: str
) -> tuple[int, ...]:
    # The numbers of the kept experiments that lead from one value to another; () if none do.
    ways: dict[str, tuple[int, ...]] = {start: ()}
    todo = [start]
    while todo and goal not in ways:
        here = todo.pop(0)
        for (old, new), (number, kept) in latest.items():
            if old == here and new not in ways and kept:
                ways[new] = *ways[here], number
                todo.append(new)
    return ways.get(goal, ())


def ask_store(ask: Callable[[], _T], otherwise: _T, log: Callable[[str], None]) -> _T:
    """Return the answer of the store; if it cannot be used, ``otherwise``, and say so in a line."""
    try:
        return ask()
    except KmindError as error:
        log(str(error))
        return otherwise


def _name(knob: Knob | str) -> str:
    return knob if isinstance(knob, str) else knob.name


def _last(cursor: sqlite3.Cursor) -> int:
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def _owner(row: _Row) -> Owner:
    return Owner(row["instance"], 0, row["pid"], row["start"])


def _decoded(row: _Row) -> _Row:
    for name in _JSON:
        if name in row:
            row[name] = json.loads(row[name])
    row["kept"] = bool(row["kept"])
    return row
