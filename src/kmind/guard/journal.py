# SPDX-License-Identifier: Apache-2.0
"""The durable record of every change, written ahead of it.

One SQLite file in WAL mode with ``synchronous=FULL``: a transaction that returned
is on disk. Several processes may use it at once; SQLite locks it, and each waits
up to ten seconds for its turn, but for the owner of agents, which waits for
milliseconds (``hurry``).

A change is a row that moves through these states:

    intended -> applied -> undone | kept | yielded
    intended -> failed; any open row of an earlier boot -> expired

``intended`` and ``applied`` rows are open: the knob is held. While a value is on
``trial``, its row covers the value that stood before as well, and it is put back
whatever the policy keeps when its owner dies. The knobs are the
kernel's and start afresh with it, so rows of an earlier boot restore nothing.

Knobs are put back by a journal of any version: the columns that this takes (``_RESTORE``) keep
their names and their meaning in all versions to come.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kmind.errors import BusyError, JournalError, KmindError, PrivilegeError
from kmind.guard._owner import Owner
from kmind.knobs import Knob, Target, Value
from kmind.paths import journal_path
from kmind.util.procfs import boot_id
from kmind.util.sqlite import Schema, Store, is_busy, sqlite_hint

__all__ = ["Change", "Drain", "Journal", "State"]

State = Literal["intended", "applied", "undone", "kept", "yielded", "failed", "expired"]

_PATIENCE_S = 10.0
_KEPT_ROWS = 100_000
_TRIMMED_ROWS = 16  # with each new one, so that no transaction takes long

_FIRST = """
CREATE TABLE change (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,        -- seconds since 1970
    boot TEXT NOT NULL,
    knob TEXT NOT NULL,
    target TEXT NOT NULL,
    identity TEXT NOT NULL,    -- of the target: number and serial
    old TEXT NOT NULL,         -- JSON, as are new and evidence
    new TEXT NOT NULL,         -- null: whatever the kernel makes of it
    cause INTEGER,             -- the change that made the kernel reset this knob
    instance TEXT NOT NULL,
    uid INTEGER NOT NULL,
    pid INTEGER NOT NULL,
    start INTEGER NOT NULL,    -- of the process, in ticks since boot
    rec_id INTEGER NOT NULL,
    why TEXT NOT NULL,
    evidence TEXT NOT NULL,
    undo TEXT NOT NULL,        -- what an admin could type
    state TEXT NOT NULL,
    closed REAL,
    remark TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX change_open ON change (knob, target, id) WHERE state IN ('intended', 'applied');
"""


def _trials_and_drains(db: sqlite3.Connection) -> None:
    # Files of version 1 may have one or both: they were added without a new number.
    if not any(row[1] == "trial" for row in db.execute("PRAGMA table_info(change)")):
        # Being measured, or standing for a moment only.
        db.execute("ALTER TABLE change ADD COLUMN trial INTEGER NOT NULL DEFAULT 0")
    db.execute(
        """
CREATE TABLE IF NOT EXISTS drain (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    boot TEXT NOT NULL,
    knob TEXT NOT NULL,
    target TEXT NOT NULL,
    identity TEXT NOT NULL,
    value INTEGER NOT NULL,    -- set again after it
    pid INTEGER NOT NULL,
    start INTEGER NOT NULL
) STRICT
"""
    )


_SCHEMA = Schema(
    "journal",
    (_FIRST, _trials_and_drains),
    durable=True,
    way_out="use the kmind that wrote it; or have kmind restore put back what is held, and move "
    "the file away",
)

# Without these nothing can be put back. Of the others a later version may have none.
_RESTORE = frozenset(
    {"id", "boot", "knob", "target", "identity", "old", "new", "instance", "uid", "pid", "start"}
    | {"state"}
)
_DEFAULTS: Mapping[str, Any] = {
    "time": 0.0, "cause": None, "rec_id": 0, "why": "", "evidence": "{}", "undo": "",
    "remark": "", "trial": 0,
}  # fmt: skip

_OPEN = "state IN ('intended', 'applied')"


@dataclass(frozen=True)
class Change:
    """One row of the journal.

    ``new`` is None where the kernel reset the knob as a side effect of the change
    ``cause``. ``time`` is in seconds since 1970. ``trial``: the value is being measured, or
    stands for a moment only.
    """

    id: int
    time: float
    knob: str
    target: str
    identity: str
    old: Value
    new: Value | None
    cause: int | None
    owner: Owner
    rec_id: int
    why: str
    evidence: Mapping[str, Any]
    undo: str
    state: State
    remark: str
    trial: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """(knob, target)."""
        return self.knob, self.target


@dataclass(frozen=True)
class Drain:
    """A knob that may hold its ``drain`` for moments, by the hand of process ``pid``.

    ``value`` is set again after it. ``start`` is the process's start, as an ``Owner``'s.
    """

    id: int
    knob: str
    target: str
    identity: str
    value: int
    pid: int
    start: int


class Journal(Store):
    """The journal in one file, a ``Store``.

    Every method raises ``JournalError`` where the file cannot be used, PrivilegeError where it
    is not for this user, and ``BusyError`` where another process is writing to it.
    ``unwritable`` is why one that ``rescue`` has opened can only be read, or None; ``unread`` are
    the numbers of changes that this kmind does not understand, in a journal of a later one.
    """

    unwritable: JournalError | BusyError | None = None
    schema = _SCHEMA
    _refusal = JournalError

    def __init__(
        self, path: Path | None = None, *, read_only: bool = False, ours: bool = False
    ) -> None:
        self.path = path or journal_path()
        self.unread: set[int] = set()
        self._boot = boot_id()
        super().__init__(self.path, read_only=read_only, ours=ours, patience_s=_PATIENCE_S)

    @classmethod
    def rescue(cls, path: Path | None = None) -> Journal:
        """Open it to put knobs back; for reading only, where it cannot be written.

        So a full disk, a later version or a long lock stops no undo. Who could have forged what
        it says does: another user's file, or one that others may write to, is refused.
        """
        try:
            return cls(path)
        except (JournalError, BusyError) as error:
            try:
                journal = cls(path, read_only=True, ours=True)
            except KmindError:
                raise error from None
            journal.unwritable = error
            return journal

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """A transaction that no other process can write beside; durable at its end."""
        with self._errors("write"):
            self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            # SQLite itself has rolled back where the disk is full.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        with self._errors("write"):
            try:
                self._db.execute("COMMIT")
            except sqlite3.Error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def intend(
        self,
        knob: Knob,
        target: Target,
        old: Value,
        new: Value | None,
        owner: Owner,
        *,
        why: str,
        evidence: Mapping[str, Any] | None = None,
        rec_id: int = 0,
        cause: int | None = None,
        trial: bool = False,
    ) -> Change:
        """Add a row in state ``intended``; inside ``exclusive`` or by itself.

        Closed rows beyond the latest 100,000 are deleted, some with each new one.
        """
        row = {
            "time": time.time(),
            "boot": self._boot,
            "knob": knob.name,
            "target": target.name,
            "identity": knob.identity(target),
            "old": json.dumps(old),
            "new": json.dumps(new),
            "cause": cause,
            "instance": owner.instance,
            "uid": owner.uid,
            "pid": owner.pid,
            "start": owner.start,
            "rec_id": rec_id,
            "why": why,
            "evidence": json.dumps(dict(evidence or {}), default=str),
            "undo": knob.set_command(target, knob.format(old)),
            "state": "intended",
            "trial": int(trial),
        }
        columns = ", ".join(row)
        marks = ", ".join("?" for _ in row)
        with self._errors("write"):
            cursor = self._db.execute(
                f"INSERT INTO change ({columns}) VALUES ({marks})", tuple(row.values())
            )
            self._trim(_TRIMMED_ROWS)
        return self._select("id = ?", cursor.lastrowid)[0]

    def applied(self, change: Change, value: Value, remark: str = "") -> None:
        """Say that the change is in force, and what the knob reads."""
        with self._errors("write"):
            self._db.execute(
                "UPDATE change SET state = 'applied', new = ?, remark = ? "
                "WHERE id = ? AND state = 'intended'",
                (json.dumps(value), remark, change.id),
            )

    def set_trial(self, change: Change, trial: bool) -> None:
        """Say that a value that is held is on trial, or that it has passed."""
        with self._errors("write"):
            self._db.execute(
                f"UPDATE change SET trial = ? WHERE id = ? AND {_OPEN}", (int(trial), change.id)
            )

    def begin_drain(self, knob: Knob, target: Target, value: int) -> int:
        """Say, before it is so, that a knob holds its ``drain`` by our hand; its number.

        ``value`` is set after it. The record survives a kill, but not a power cut, and neither
        does the knob.
        """
        me = Owner.me("")
        row = (self._boot, knob.name, target.name, knob.identity(target), value, me.pid, me.start)
        with self._errors("write"):
            self._db.execute("PRAGMA synchronous = NORMAL")
            cursor = self._db.execute(
                "INSERT INTO drain (boot, knob, target, identity, value, pid, start) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                row,
            )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def end_drain(self, number: int) -> None:
        """Say that it is over."""
        with self._errors("write"):
            self._db.execute("DELETE FROM drain WHERE id = ?", (number,))

    def drains(self) -> list[Drain]:
        """Those of this boot that are not over, oldest first."""
        with self._errors("read"):
            if not self._has_drains():
                return []
            rows = self._db.execute(
                "SELECT id, knob, target, identity, value, pid, start FROM drain "
                "WHERE boot = ? ORDER BY id",
                (self._boot,),
            )
            return [Drain(*row) for row in rows]

    def unsettle(self, changes: list[Change]) -> None:
        """Forget what the knobs read: the kernel is about to reset them."""
        with self._errors("write"):
            self._db.executemany(
                f"UPDATE change SET new = 'null' WHERE id = ? AND {_OPEN}",
                [(change.id,) for change in changes],
            )

    def finish(self, changes: list[Change], state: State, remark: str = "") -> None:
        """Move rows that are still open to a final state."""
        with self._errors("write"):
            self._db.executemany(
                f"UPDATE change SET state = ?, remark = ?, closed = ? WHERE id = ? AND {_OPEN}",
                [(state, remark, time.time(), change.id) for change in changes],
            )

    def join(self, between: list[Change], last: Change) -> None:
        """Let an open row take the place of those ``between``, with the ``old`` that it has now."""
        with self.exclusive(), self._errors("write"):
            self.finish(between, "undone", f"change {last.id} took its place")
            self._db.execute(
                f"UPDATE change SET old = ?, undo = ? WHERE id = ? AND {_OPEN}",
                (json.dumps(last.old), last.undo, last.id),
            )

    def open_changes(self, knob: str | None = None, target: str | None = None) -> list[Change]:
        """Open rows of this boot, oldest first; of one knob and target if given."""
        return self._select(
            f"{_OPEN} AND boot = ? AND knob = coalesce(?, knob) AND target = coalesce(?, target)",
            self._boot,
            knob,
            target,
        )

    def take_over(self, instance: str) -> list[Change]:
        """Become the owner of the open rows of an instance whose owner has ended; all its rows.

        One transaction: another process sees none of them change hands, or all. Rows
        whose owner is alive stay that owner's.
        """
        me = Owner.me(instance)
        with self.exclusive():
            mine = [c for c in self.open_changes() if c.owner.instance == instance]
            free = [c for c in mine if not c.owner.alive()]
            with self._errors("write"):
                self._db.executemany(
                    f"UPDATE change SET uid = ?, pid = ?, start = ? WHERE id = ? AND {_OPEN}",
                    [(me.uid, me.pid, me.start, change.id) for change in free],
                )
            rows = self.open_changes()
        return [c for c in rows if c.owner.instance == instance and c.owner.same_process(me)]

    def baseline(self, knob: str, target: str) -> Value | None:
        """Return the knob's value before the first open change; None if it is not held."""
        changes = self.open_changes(knob, target)
        return changes[0].old if changes else None

    def history(self, limit: int = 100) -> list[Change]:
        """The latest rows in any state, of all boots, newest first."""
        return self._select("1 = 1", order=f"id DESC LIMIT {limit:d}")

    def standing(self) -> list[Change]:
        """The latest row of this boot for each knob that stands at what we set.

        Open rows and kept ones, oldest first; none for a knob that somebody else has set
        since, as far as that was noticed.
        """
        return self._select(
            "id IN (SELECT max(id) FROM change WHERE boot = ? "
            "AND state IN ('intended', 'applied', 'kept', 'yielded') GROUP BY knob, target) "
            "AND state <> 'yielded' AND new <> 'null'",
            self._boot,
        )

    def expire(self) -> int:
        """Close open rows of earlier boots, and return how many there were.

        Of closed rows only the latest 100,000 are kept.
        """
        with self.exclusive(), self._errors("write"):
            count = self._db.execute(
                f"UPDATE change SET state = 'expired', closed = ? WHERE {_OPEN} AND boot <> ?",
                (time.time(), self._boot),
            ).rowcount
            self._db.execute("DELETE FROM drain WHERE boot <> ?", (self._boot,))
            self._trim(-1)
        return count

    def get(self, change_id: int) -> Change:
        """The row of that number."""
        rows = self._select("id = ?", change_id)
        if not rows:
            raise JournalError(f"the journal {self.path} has no change {change_id}")
        return rows[0]

    def _trim(self, most: int) -> None:
        self._db.execute(
            "DELETE FROM change WHERE id IN (SELECT id FROM change WHERE id <= "
            f"(SELECT max(id) - ? FROM change) AND NOT ({_OPEN}) ORDER BY id LIMIT ?)",
            (_KEPT_ROWS, most),
        )

    def _has_drains(self) -> bool:
        # A look at a journal of a later kmind may find none.
        row = self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'drain'").fetchone()
        return row is not None

    def _select(self, where: str, *values: object, order: str = "id") -> list[Change]:
        with self._errors("read"):
            rows = self._db.execute(f"SELECT * FROM change WHERE {where} ORDER BY {order}", values)
            return [change for row in rows if (change := self._read(row))]

    def _read(self, row: sqlite3.Row) -> Change | None:
        if missing := _RESTORE.difference(row.keys()):
            raise ValueError(f"its changes have no {', '.join(sorted(missing))}")
        try:
            return _change({**_DEFAULTS, **dict(zip(row.keys(), row, strict=True))})
        except (ValueError, TypeError, RecursionError):
            # One row of a later kmind must not keep the others from being put back.
            if not self.is_later:
                raise
            self.unread.add(row["id"])
            return None

    @contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        try:
            with super()._errors(verb):
                yield
        except (JournalError, BusyError, PrivilegeError):
            raise
        except KmindError as error:  # the folder, or the file, is not ours
            raise JournalError(
                f"cannot {verb} the journal: {error.args[0]}", hint=error.hint
            ) from None

    def _error(self, verb: str, error: Exception) -> KmindError:
        hint = sqlite_hint(error)
        if is_busy(error):
            return BusyError(f"cannot {verb} the journal {self.path}: it is locked", hint=hint)
        if verb != "read" and not hint.startswith("it is left as it is"):
            hint = f"no knob is changed without it; {hint}".removesuffix("; ")
        return JournalError(f"cannot {verb} the journal {self.path}: {error}", hint=hint)


def _change(row: Mapping[str, Any]) -> Change:
    old, new, evidence = (json.loads(row[name]) for name in ("old", "new", "evidence"))
    if type(old) not in (int, str) or type(new) not in (int, str, type(None)):
        raise ValueError(f"change {row['id']} is from {row['old']:.40} to {row['new']:.40}")
    if not isinstance(evidence, dict):
        raise ValueError(f"the evidence of change {row['id']} is no object")
    return Change(
        id=row["id"],
        time=row["time"],
        knob=row["knob"],
        target=row["target"],
        identity=row["identity"],
        old=old,
        new=new,
        cause=row["cause"],
        owner=Owner(row["instance"], row["uid"], row["pid"], row["start"]),
        rec_id=row["rec_id"],
        why=row["why"],
        evidence=evidence,
        undo=row["undo"],
        state=row["state"],
        remark=row["remark"],
        trial=bool(row["trial"]),
    )
