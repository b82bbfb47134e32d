# SPDX-License-Identifier: Apache-2.0
"""Recommendations that wait for the admin, each under a number that stays its own.

They live in a SQLite file beside the journal, so that numbers and decisions survive
the daemon and the machine. What an instance recommends again and again is one row. Each
commit survives a kill, but not a power cut: what counts is in the journal.

    open -> applied -> undone
    open -> rejected | expired;   refused: the agent said no, and it is kept as a record

An ``AdviceStore`` belongs to one thread. All methods raise KmindError where the file
cannot be used.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from kmind.errors import KmindError, UsageError
from kmind.knobs import Value
from kmind.util.ratelimit import Bucket
from kmind.util.sqlite import DeferringStore, Schema

__all__ = ["ADVICE_S", "PREDICTED", "AdviceStore", "Doer"]

ADVICE_S = 3600.0
"""Advice stays open for that long after it was last given, in seconds."""

PREDICTED = ("predicted", "predicted_gain", "expected_gain", "gain")
"""Names in a recommendation's evidence that hold its predicted effect; the first counts."""

_REFRESH_S = 5.0
_REJECTED_S = 86400.0
_MOST_CLOSED = 2000

_FIRST = """
CREATE TABLE advice (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    state TEXT NOT NULL,
    instance TEXT NOT NULL,
    knob TEXT NOT NULL,
    target TEXT NOT NULL,
    value TEXT NOT NULL,       -- JSON, as are current, evidence and predicted
    current TEXT NOT NULL,
    verdict TEXT NOT NULL,
    reason TEXT NOT NULL,
    evidence TEXT NOT NULL,
    predicted TEXT NOT NULL,
    command TEXT NOT NULL,
    rec_id INTEGER NOT NULL,   -- of the latest recommendation, by the extension's count
    count INTEGER NOT NULL,
    first REAL NOT NULL,       -- seconds since 1970, as are the other times
    last REAL NOT NULL,
    expires REAL NOT NULL,
    decided REAL,
    change INTEGER,            -- of the journal
    remark TEXT NOT NULL
) STRICT;
CREATE INDEX advice_same ON advice (instance, knob, target, value, verdict);
"""

_JSON = ("value", "current", "evidence", "predicted")

_Advice = dict[str, Any]
_Rows = list[_Advice]


class Doer(Protocol):
    """Executor of advice for the admin, through policy and journal."""

    def apply_advice(self, advice: Mapping[str, Any]) -> int:
        """Set the knob; the journal's number of the change. Raises KmindError."""

    def undo_advice(self, change: int) -> str:
        """Put back what that change did; a word on it if there is one to say."""


class AdviceStore(DeferringStore):
    """All advice of this machine. ``now`` is in seconds since 1970."""

    schema = Schema("advice", (_FIRST,))

    def __init__(self, path: Path, doer: Doer, *, now: Callable[[], float] = time.time) -> None:
        self._doer = doer
        self._now = now
        # Latest writes: key to (row, time). Saves writes of known rows.
        self._lately: dict[tuple[str, ...], tuple[int, float]] = {}
        self._buckets: dict[str, Bucket] = {}
        super().__init__(path)

    def note(
        self,
        *,
        instance: str,
        knob: str,
        target: str,
        value: Value,
        current: Value,
        verdict: str,
        reason: str,
        evidence: Mapping[str, Any],
        command: str,
        rec_id: int,
    ) -> int | None:
        """Take down what an instance recommended; its number.

        None where it is not written: the admin has rejected the same within a day, or
        the instance recommends too much at once.
        """
        key = (instance, knob, target, json.dumps(value), verdict)
        now = self._now()
        known = self._lately.get(key)
        if known and known[1] <= now < known[1] + _REFRESH_S:
            return known[0]
        state = "open" if verdict == "advised" else "refused"
        same = self._same(key)
        if same is not None and same["state"] == "rejected":
            return None
        words: dict[str, Any] = {
            "current": json.dumps(current),
            "reason": reason,
            "evidence": json.dumps(dict(evidence), default=str),
            "predicted": json.dumps(next((evidence[n] for n in PREDICTED if n in evidence), None)),
            "rec_id": rec_id,
            "last": now,
            "expires": now + ADVICE_S,
        }
        if same is None:
            bucket = self._buckets.setdefault(instance, Bucket(self._now, rate=0.2, burst=20))
            if not bucket.allow():
                return None
            named = dict(zip(("instance", "knob", "target", "value", "verdict"), key, strict=True))
            words |= named | {"state": state, "first": now, "count": 1, "command": command}
            row = self._insert(words | {"remark": ""})
        else:
            row = int(same["id"])
            sets = ", ".join(f"{name} = ?" for name in words)
            self._write(
                f"UPDATE advice SET {sets}, count = count + 1 WHERE id = ?", *words.values(), row
            )
        if len(self._lately) > _MOST_CLOSED:
            self._lately.clear()
        self._lately[key] = row, now
        return row

    def list(self) -> _Rows:
        """All advice, newest first; refused ones too, in state ``refused``."""
        self._expire()
        return self._select("1 = 1")

    def get(self, id: str) -> _Advice:
        """One piece of advice. UsageError for a number that there is not."""
        self._expire()
        rows = self._select("id = ?", int(id)) if _is_number(id) else []
        if not rows:
            raise UsageError(f"there is no advice {id!r}", hint="see: kmind advice list")
        return rows[0]

    def apply(self, id: str) -> _Advice:
        """Do what it says, and say so in the journal.

        KmindError where it is refused, or cannot be written down: it is not done then.
        """
        advice = self._in_state(id, "open", "applied")
        change = self._doer.apply_advice(advice)
        try:
            return self._decide(advice, "applied", change=change)
        except KmindError:
            self._doer.undo_advice(change)
            raise

    def reject(self, id: str) -> _Advice:
        """Close it; the same of the same instance is not taken down for a day."""
        return self._decide(self._in_state(id, "open", "rejected"), "rejected")

    def undo(self, id: str) -> _Advice:
        """Put back what ``apply`` changed."""
        advice = self._in_state(id, "applied", "undone")
        remark = self._doer.undo_advice(int(advice["change"]))
        return self._decide(advice, "undone", remark=remark)

    def undone(self, change: int, remark: str) -> None:
        """Say that a change of the journal, made for advice, stands no longer."""
        for advice in self._select("state = 'applied' AND change = ?", change):
            self._decide(advice, "undone", remark=remark)

    def applied(self) -> dict[int, str]:
        """Changes of the journal that stand because advice was applied: to its id."""
        return {int(a["change"]): str(a["id"]) for a in self._select("state = 'applied'")}

    def _in_state(self, id: str, state: str, wanted: str) -> _Advice:
        advice = self.get(id)
        if advice["state"] != state:
            raise KmindError(
                f"advice {id} is {advice['state']}, so it cannot be {wanted}",
                hint="see: kmind advice list",
            )
        return advice

    def _decide(self, advice: Mapping[str, Any], state: str, **words: Any) -> _Advice:
        words |= {"state": state, "decided": self._now()}
        sets = ", ".join(f"{name} = ?" for name in words)
        self._write(f"UPDATE advice SET {sets} WHERE id = ?", *words.values(), int(advice["id"]))
        self._lately.clear()
        return self.get(str(advice["id"]))

    def _expire(self) -> None:
        now = self._now()
        # Where the clock was set back, what was given before that stands no longer than new advice.
        self._write(
            "UPDATE advice SET expires = ? WHERE state IN ('open', 'refused') AND expires > ?",
            now + ADVICE_S,
            now + ADVICE_S,
        )
        self._write(
            "UPDATE advice SET state = 'expired', decided = ? WHERE state = 'open' AND expires < ?",
            now,
            now,
        )

    def _same(self, key: tuple[str, ...]) -> _Advice | None:
        now = self._now()
        rows = self._select(
            "instance = ? AND knob = ? AND target = ? AND value = ? AND verdict = ? AND ("
            "(state IN ('open', 'refused') AND expires >= ?)"
            " OR (state = 'rejected' AND decided >= ?))",
            *key,
            now,
            now - _REJECTED_S,
        )
        return rows[0] if rows else None

    def _insert(self, words: Mapping[str, Any]) -> int:
        columns, marks = ", ".join(words), ", ".join("?" for _ in words)
        self._write_late()
        with self._errors("write"):
            cursor = self._db.execute(
                f"INSERT INTO advice ({columns}) VALUES ({marks})", tuple(words.values())
            )
            self._db.execute(
                "DELETE FROM advice WHERE state NOT IN ('open', 'applied') AND id <= "
                "(SELECT max(id) - ? FROM advice)",
                (_MOST_CLOSED,),
            )
        return int(cursor.lastrowid or 0)

    def _write(self, statement: str, *values: object) -> None:
        self._soon(statement, *values)

    def _select(self, where: str, *values: object) -> _Rows:
        self._write_late()
        with self._errors("read"):
            rows = self._db.execute(f"SELECT * FROM advice WHERE {where} ORDER BY id DESC", values)
            return [
                dict(row) | {"id": str(row["id"])} | {n: json.loads(row[n]) for n in _JSON}
                for row in rows
            ]


def _is_number(id: str) -> bool:
    return id.isascii() and id.isdecimal() and len(id) < 18
