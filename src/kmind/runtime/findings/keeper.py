# SPDX-License-Identifier: Apache-2.0
"""The states of findings, and the counts of reports: by the owner's clock and by its rules.

    found -> open -> acknowledged -> closed
                  -> closed: cleared for long enough, not confirmed, or by root

A finding that comes and goes stays open: it closes once it was gone for as long as its kind
says. One that root has closed is news again only once it was gone, or after a day. What the
disk has no room for is kept in memory, reported, and written later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, get_args

from kmind import events
from kmind.errors import KmindError
from kmind.events import Emit
from kmind.extension.handover import OPEN_MOST, Filed, Found
from kmind.extension.manifest.manifest import FindingPart, ReportPart, Severity
from kmind.runtime.findings.store import FindingStore, closing_reason, make_id

__all__ = ["Finder", "Findings"]

_LOOK_S = 1.0
_WRITE_S = 30.0  # between two writes of a finding of which nothing changed but that it lasts
_QUIET_S = 86400.0
_TELL_S = 60.0  # between two events of one report
_REMEMBERED = 1000  # of each kind of thing that is kept in memory
_PENDING_MOST = 256  # of one module on one target
_SEVERITIES: tuple[str, ...] = get_args(Severity)

_Row = dict[str, Any]


@dataclass(frozen=True)
class Finder:
    """Source of findings: an instance, and the target that they are about."""

    instance: str
    module: str
    target: str
    identity: str

    def subject(self, part: str) -> str:
        """The target, or a part of it, as it is shown."""
        return f"{self.target}: {part}" if part else self.target

    def id(self, *words: str) -> str:
        """The id of what this module says of this target: no other can make the same."""
        return make_id(self.module, self.identity, *words)


class Findings:
    """All findings and reports of this machine, for one owner's thread.

    They are kept in the file ``path``, or without one in memory. ``emit`` is told each change of
    state. ``now`` is in seconds since 1970.
    """

    def __init__(
        self, path: Path | None, emit: Emit, *, now: Callable[[], float] = time.time
    ) -> None:
        self.path = path
        self._store = FindingStore(path, now=now)
        self._emit = emit
        self._now = now
        # Rows that could not be written; they are valid until then.
        self._unwritten: dict[str, _Row] = {}
        self._complained_at = float("-inf")
        self._written_at: dict[str, float] = {}
        # Since when that is found which has to last before it opens.
        self._pending: dict[str, dict[str, float]] = {}
        self._told_at: dict[str, float] = {}
        self._look_at = float("-inf")

    def close(self) -> None:
        """Write what can be written, and close the file."""
        self._write_waiting()
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Findings

    def find(self, who: Finder, part: FindingPart, finding: Found) -> None:
        """Open a finding, or confirm it. Raises ValueError if it has too many open ones."""
        key, now = who.id("finding", part.name, finding.part), self._now()
        row = self._get(key)
        if row is None or row["state"] == "closed":
            if row is not None and self._is_quiet(row, now):
                self._put(row | {"last": now, "cleared": None})
                return
            if not self._has_lasted(who, key, part.opens_after_s, now):
                return
            self._open(who, part, finding, now, times=row["times"] + 1 if row else 1)
            return
        fields = self._said(part, finding, now)
        worse = _rank(fields["severity"]) > _rank(row["severity"])
        if not worse:
            fields["severity"] = row["severity"]
        changed = row["cleared"] is not None or any(
            row[name] != fields[name] for name in ("severity", "title", "causes", "action")
        )
        row |= fields
        if worse:
            row |= {"state": "open", "why": "it has become worse"}
        # A written row has to outlast the next confirmation.
        age = now - self._written_at.get(key, float("-inf"))
        if changed or key in self._unwritten or not 0 <= age < min(_WRITE_S, row["lasts_s"] / 4):
            self._put(row)
        if worse:
            self._emit_row(row)

    def clear(self, who: Finder, part: FindingPart, name: str) -> None:
        """Say that it is there no longer; it closes after a while."""
        key = who.id("finding", part.name, name)
        self._pending.get(who.instance, {}).pop(key, None)
        row = self._get(key)
        if row is not None and row["cleared"] is None:
            now = self._now()
            row |= {"cleared": now, "due": min(row["expires"], now + part.closes_after_s)}
            self._put(row)

    def poll(self) -> None:
        """Close what is due, and write what could not be written. To be called each second."""
        now = self._now()
        if self._look_at - _LOOK_S < now < self._look_at:
            return
        self._look_at = now + _LOOK_S
        self._write_waiting()
        due = {key: row for key, row in self._unwritten.items() if _is_due(row, now)}
        try:
            due |= {
                row["id"]: row
                for row in self._store.findings_due(now)
                if row["id"] not in self._unwritten
            }
        except KmindError as error:
            self._complain(error)
        for row in due.values():
            self._close(row, closing_reason(row))

    def acknowledge(self, id: str) -> _Row:
        """Say that root knows of it. Raises UsageError, or KmindError if it is closed."""
        row = self._find(id)
        if row["state"] == "closed":
            raise KmindError(f"finding {row['id']} is closed", hint="see: kmind findings")
        if row["state"] == "open":
            row |= {"state": "acknowledged", "why": "root has acknowledged it"}
            self._put(row)
            self._emit_row(row)
        return row

    def close_finding(self, id: str) -> _Row:
        """Close it: it is not told again while it lasts, for a day. Raises as `acknowledge`."""
        row = self._find(id)
        if row["state"] == "closed":
            raise KmindError(f"finding {row['id']} is closed already", hint="see: kmind findings")
        self._close(row, "root has closed it", by_admin=True)
        return row

    # Reports

    def file(self, who: Finder, part: ReportPart, filed: Filed) -> None:
        """Keep a report, or count it. Raises KmindError if it cannot be written."""
        key, now = who.id("report", part.name, filed.signature), self._now()
        row = self._store.report(key)
        is_new = row is None
        row = (row or {"first": now, "count": 0}) | {
            "id": key,
            **_names(who),
            "kind": part.name,
            "signature": filed.signature,
            "title": filed.title,
            "evidence": dict(filed.evidence),
            "last": now,
            "keep_until": now + part.keep_days * 86400,
        }
        row["count"] = min(row["count"] + filed.count, 1 << 53)
        try:
            self._store.put_report(row, filed.files)
        finally:
            told = now - self._told_at.get(key, float("-inf"))
            if is_new or not 0 <= told < _TELL_S:
                _remember(self._told_at, key, now)
                self._emit(
                    events.Report(
                        instance=who.instance,
                        report=key,
                        kind=part.name,
                        signature=filed.signature,
                        title=filed.title,
                        count=row["count"],
                        evidence=dict(filed.evidence),
                        files=sorted(filed.files),
                    )
                )

    def remove_report(self, id: str) -> _Row:
        """Forget a report; the same later is a new one. Raises UsageError if there is none."""
        row, _ = self._store.find_report(id)
        self._store.remove_report(row["id"])
        self._told_at.pop(row["id"], None)
        return row

    # Inside

    def _said(self, part: FindingPart, finding: Found, now: float) -> _Row:
        critical = part.critical_from is not None and finding.score >= part.critical_from
        return {
            "severity": "critical" if critical else part.severity,
            "score": finding.score,
            "meaning": part.score,
            "unit": part.unit,
            "title": finding.title,
            "evidence": dict(finding.evidence),
            "causes": [
                {"hint": cause.hint, "evidence": dict(cause.evidence)} for cause in finding.causes
            ],
            "action": finding.action,
            "last": now,
            "expires": now + part.expires_s,
            "cleared": None,
            "due": now + part.expires_s,
            "lasts_s": part.expires_s,
            "calm_s": part.closes_after_s,
        }

    def _open(
        self, who: Finder, part: FindingPart, finding: Found, now: float, *, times: int
    ) -> None:
        key = who.id("finding", part.name, finding.part)
        row = {
            "id": key,
            "state": "open",
            **_names(who),
            "kind": part.name,
            "part": finding.part,
            "subject": who.subject(finding.part),
            "since": self._pending.get(who.instance, {}).get(key, now),
            "closed": None,
            "by_admin": 0,
            "times": times,
            "why": "it was found" if times == 1 else "it was found again",
            **self._said(part, finding, now),
        }
        if self._count_open(who) >= OPEN_MOST:
            raise ValueError(f"{OPEN_MOST} are open already")
        self._pending.get(who.instance, {}).pop(key, None)
        self._put(row)
        self._emit_row(row)

    def _has_lasted(self, who: Finder, id: str, needed_s: float, now: float) -> bool:
        pending = self._pending.setdefault(who.instance, {})
        since = min(pending.get(id, now), now)
        pending[id] = since
        if len(pending) > _PENDING_MOST:
            del pending[next(iter(pending))]
        return now - since >= needed_s

    def _is_quiet(self, row: _Row, now: float) -> bool:
        # Root has closed it, and it has not gone since.
        if not row["by_admin"] or not 0 <= now - row["closed"] < _QUIET_S:
            return False
        gone = row["cleared"] is not None and now - row["cleared"] >= row["calm_s"]
        return not gone and now - row["last"] < row["lasts_s"]

    def _close(self, row: _Row, why: str, *, by_admin: bool = False) -> None:
        row |= {"state": "closed", "closed": self._now(), "why": why, "by_admin": int(by_admin)}
        self._put(row)
        self._written_at.pop(row["id"], None)
        self._emit_row(row)

    def _count_open(self, who: Finder) -> int:
        waiting = [
            row
            for row in self._unwritten.values()
            if (row["module"], row["identity"]) == (who.module, who.identity)
            and row["state"] != "closed"
        ]
        try:
            return self._store.open_findings(who.module, who.identity) + len(waiting)
        except KmindError:
            return len(waiting)

    def _get(self, id: str) -> _Row | None:
        if id in self._unwritten:
            return self._unwritten[id]
        try:
            return self._store.finding(id)
        except KmindError as error:
            self._complain(error)
            return None

    def _find(self, id: str) -> _Row:
        begins = [row for key, row in self._unwritten.items() if key.startswith(id)]
        return begins[0] if len(begins) == 1 else self._store.find_finding(id)

    def _put(self, row: _Row) -> bool:
        # True if it is written.
        try:
            self._store.put_finding(row)
        except KmindError as error:
            self._complain(error)
            _remember(self._unwritten, row["id"], row)
            return False
        self._unwritten.pop(row["id"], None)
        _remember(self._written_at, row["id"], self._now())
        return True

    def _write_waiting(self) -> None:
        for row in list(self._unwritten.values()):
            if not self._put(row):
                return  # nor will the others be

    def _complain(self, error: KmindError) -> None:
        now = self._now()
        if not 0 <= now - self._complained_at < _TELL_S:
            self._complained_at = now
            self._emit(events.Log(message=str(error)))

    def _emit_row(self, row: Mapping[str, Any]) -> None:
        self._emit(
            events.Finding(
                instance=row["instance"],
                finding=row["id"],
                kind=row["kind"],
                subject=row["subject"],
                state=row["state"],
                severity=row["severity"],
                score=row["score"],
                title=row["title"],
                evidence=row["evidence"],
                causes=row["causes"],
                action=row["action"],
                why=row["why"],
            )
        )


def _names(who: Finder) -> dict[str, str]:
    return {
        "instance": who.instance,
        "module": who.module,
        "target": who.target,
        "identity": who.identity,
    }


def _rank(severity: str) -> int:
    return _SEVERITIES.index(severity)


def _is_due(row: _Row, now: float) -> bool:
    return row["state"] != "closed" and float(row["due"]) <= now


def _remember(known: dict[str, Any], id: str, value: Any) -> None:
    known[id] = value
    if len(known) > _REMEMBERED:
        del known[next(iter(known))]
