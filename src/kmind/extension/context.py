# SPDX-License-Identifier: Apache-2.0
"""Context of an extension: its target, parameters, features, knobs, and its output."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from kmind.abi import layout
from kmind.extension.given import Given, Outlets
from kmind.extension.handover import NOTE_MOST, Cause, Cleared, Filed, Found, encode
from kmind.extension.knob_info import KnobInfo

if TYPE_CHECKING:
    from kmind.evidence import Experiment

__all__ = ["Context", "plain"]

_MEMORY_MOST = layout.LIMIT["MEMORY_SIZE"] - layout.MEMORY.itemsize
_REMEMBERED = 256  # recommendations whose answers can still come
_CONFIRM_S = 10.0  # between two that say the same of one finding
_FINDINGS_MOST = 256  # that are known as found


class Context:
    """Interface of an extension to its instance.

    ``features`` is feature name to column of a window's ``value``; ``params`` are the
    manifest's parameters with their types; ``knobs`` are those that may be moved, by
    name; ``mode`` is the agent's mode in lower case; ``rng`` is seeded by the
    parameter ``seed`` (0 where the module has none), so that a run can be repeated.
    ``memory`` is what the instance's extension remembered when it last ran, or None.
    ``tables`` are the agent's, by name: each is live memory, for reading.
    """

    def __init__(self, given: Given, outlets: Outlets) -> None:
        self.module = given.module
        self.target = given.target
        self.params = dict(given.params)
        self.features = dict(given.features)
        self.knobs = dict(given.knobs)
        self.tables = dict(given.tables)
        self.mode = given.mode
        self.model = given.model
        self.memory = given.memory
        self.rng = np.random.default_rng(int(self.params.get("seed", 0)))
        self._findings = frozenset(given.findings)
        self._reports = frozenset(given.reports)
        self._outlets = outlets
        # Kind and part of each finding that was not cleared since, and when that was last said.
        self._found_at: dict[tuple[str, str], float] = {}
        self._made: dict[int, tuple[KnobInfo, int]] = {}

    def now(self) -> float:
        """Return the time in seconds of CLOCK_MONOTONIC, the clock of windows and records."""
        return self._outlets.now()

    def log(self, message: str, **fields: object) -> None:
        """Write one line to the instance's log."""
        words = [message, *(f"{name}={value}" for name, value in fields.items())]
        self._outlets.write_log(" ".join(words))

    def remember(self, thing: object) -> None:
        """Save ``thing`` for the next start, as ``memory``; it replaces the last one.

        It is kept at the owner's next look, every five seconds at most, and at the end.
        Raises ValueError for what JSON cannot hold, or that takes more than 64 KiB.
        """
        try:
            text = msgspec.json.encode(thing, enc_hook=plain)
        except (TypeError, msgspec.MsgspecError, RecursionError) as error:
            raise ValueError(f"this cannot be remembered: {error}") from None
        if len(text) > _MEMORY_MOST:
            raise ValueError(f"this takes {len(text)} bytes, and may take {_MEMORY_MOST}")
        self._outlets.keep(text)

    def report_experiment(
        self,
        experiment: Experiment,
        *,
        incumbent: Mapping[str, object],
        candidate: Mapping[str, object],
        metric: str,
        unit: str = "",
        context: str = "",
        reason: str = "",
    ) -> None:
        """Report an ended experiment of the module's own, for ``kmind why``.

        For modules with ``[evidence] by = "module"``. ``incumbent`` and ``candidate`` are what
        the knobs that differ held, by name. The owner checks it: blocks, bounds, and that the
        verdict is what the blocks come to; it takes twenty a minute. It only tells: nothing is
        kept or remembered by it. Raises ValueError for what has not ended, for knobs that are not
        granted or values that they have not, and for what takes more than 48 KiB.
        """
        if experiment.outcome is None:
            raise ValueError("the experiment has not ended")
        for name, value in (*incumbent.items(), *candidate.items()):
            if name not in self.knobs:
                raise ValueError(f"knob {name!r} is not granted")
            self.knobs[name].encode(value)
        if not candidate or set(incumbent) != set(candidate):
            raise ValueError("incumbent and candidate are not the same knobs")
        fields = {
            "experiment": experiment.to_dict(),
            "incumbent": incumbent,
            "candidate": candidate,
            "metric": metric,
            "unit": unit,
            "context": context,
            "reason": reason,
        }
        # In ASCII, so that it can be cut anywhere.
        text = json.dumps(fields, default=plain, allow_nan=False, separators=(",", ":")).encode()
        if len(text) > NOTE_MOST:
            raise ValueError(f"this takes {len(text)} bytes, and may take {NOTE_MOST}")
        self._outlets.hand_over("experiment", text)

    def finding(
        self,
        kind: str,
        *,
        title: str,
        score: float,
        part: str = "",
        evidence: Mapping[str, object] | None = None,
        causes: Mapping[str, Mapping[str, object]] | None = None,
        action: str = "",
    ) -> None:
        """Report or confirm a finding, for ``kmind findings``.

        For detectors: ``kind`` is a ``[[finding]]`` of the manifest, which also says how serious
        it is and what ``score`` means. It is of the target, or of a ``part`` of it, by name.
        ``causes`` are hints at the cause, each with the measurements that speak for it, and
        ``action`` is what the admin should do. Call it each time that it is found: it expires
        unless it is confirmed, and is sent once in ten seconds at most. Raises ValueError for
        a kind that is not declared, and for text or numbers that do not fit.
        """
        self._declared("finding", kind, self._findings)
        note = Found(
            kind=kind,
            part=part,
            title=title,
            score=float(score),
            evidence=_plain_numbers(evidence or {}),
            causes=tuple(
                Cause(hint=hint, evidence=_plain_numbers(numbers))
                for hint, numbers in (causes or {}).items()
            ),
            action=action,
        )
        text = encode(note)
        if self._is_news(kind, part, is_open=True):
            self._outlets.hand_over("finding", text)

    def clear_finding(self, kind: str, *, part: str = "") -> None:
        """Report that a problem has gone; the owner closes the finding after a while.

        Raises ValueError as `finding` does.
        """
        self._declared("finding", kind, self._findings)
        text = encode(Cleared(kind=kind, part=part))
        if self._is_news(kind, part, is_open=False):
            self._outlets.hand_over("cleared", text)

    def file_report(
        self,
        kind: str,
        *,
        signature: str,
        title: str,
        count: int = 1,
        evidence: Mapping[str, object] | None = None,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        """File a report of an occurrence, for ``kmind reports``.

        For reporters: ``kind`` is a ``[[report]]`` of the manifest. Reports of one ``signature``
        are one, which counts how often it happened: ``count`` times since the last call. ``files``
        are kept with it, by name, 32 KiB in sum; those of a later call take their place. The
        owner takes thirty a minute. Raises ValueError as `finding` does.
        """
        self._declared("report", kind, self._reports)
        for name, data in (files or {}).items():
            if not isinstance(data, bytes):  # JSON would take a text for base64
                raise ValueError(f"file {name!r} is a {type(data).__name__}, and must be bytes")
        note = Filed(
            kind=kind,
            signature=signature,
            title=title,
            count=count,
            evidence=_plain_numbers(evidence or {}),
            files=dict(files or {}),
        )
        self._outlets.hand_over("report", encode(note))

    def _declared(self, what: str, kind: str, known: frozenset[str]) -> None:
        if kind not in known:
            names = ", ".join(sorted(known)) or "none"
            raise ValueError(f"{what} {kind!r} is not in the manifest; it has {names}")

    def _is_news(self, kind: str, part: str, *, is_open: bool) -> bool:
        # The pipe may lose a word, so what is found is said again now and then.
        now = self.now()
        said_at = self._found_at.pop((kind, part), None)
        if not is_open:
            return said_at is not None
        news = said_at is None or not said_at <= now < said_at + _CONFIRM_S
        self._found_at[kind, part] = now if news or said_at is None else said_at
        if len(self._found_at) > _FINDINGS_MOST:
            del self._found_at[next(iter(self._found_at))]
        return news

    def recommend(
        self,
        knob: str,
        value: object,
        *,
        reason: str,
        evidence: Mapping[str, float | int | str],
        hold_s: float,
        expires_s: float = 1.0,
    ) -> int | None:
        """Recommend ``value`` for ``knob``; return the id, or None if the queue is full.

        ``reason`` is one sentence for the admin, ``evidence`` the measurements behind
        it. An approved value stands for ``hold_s`` seconds and is then undone, unless
        the same one is recommended again. The agent does not act on it later than
        ``expires_s`` from now. Raises ValueError that says what does not fit: a knob
        that is not granted, NaN, a fraction, an unknown choice, too long a text.
        """
        info = self.knobs.get(knob)
        if info is None:
            granted = ", ".join(self.knobs) or "none"
            raise ValueError(f"knob {knob!r} is not granted; granted: {granted}")
        number = info.encode(value)
        hold_ms = _positive("hold_s", hold_s) * 1000
        if not 1 <= hold_ms < 1 << 32:
            raise ValueError(f"hold_s is {hold_s}, and must be from 0.001 to 4294967 seconds")
        expires_ns = int((self.now() + _positive("expires_s", expires_s)) * 1e9)
        rec_id = self._outlets.port.submit(
            info.id,
            info.target_id,
            number,
            type=layout.TYPE[info.kind.upper()],
            expires_ns=expires_ns,
            hold_ms=int(hold_ms),
            model=self.model,
            note=_note(reason, evidence),
        )
        if rec_id is not None:
            self._made[rec_id] = info, number
            if len(self._made) > _REMEMBERED:
                del self._made[next(iter(self._made))]
        return rec_id

    def recall(self, rec_id: int) -> tuple[str, int | str] | None:
        """Return the knob and value of a recent recommendation."""
        if rec_id not in self._made:
            return None
        info, number = self._made[rec_id]
        return info.name, info.decode(number)


def plain(value: object) -> object:
    """Msgspec's ``enc_hook`` for numpy's scalars and arrays, which authors put into JSON."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"it cannot hold a {type(value).__name__}")


def _plain_numbers(evidence: Mapping[str, object]) -> dict[str, Any]:
    # Numpy's scalars as Python's; whether the rest fits is seen when it is encoded.
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in evidence.items()
    }


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value}, and must be a positive number of seconds")
    return float(value)


def _note(reason: str, evidence: Mapping[str, float | int | str]) -> bytes:
    if not reason or not reason.isprintable():
        raise ValueError(f"reason must be one line of text, not {reason!r}")
    plain: dict[str, float | int | str] = {}
    for name, value in evidence.items():
        item = value.item() if isinstance(value, np.generic) else value
        if isinstance(item, float) and not math.isfinite(item):
            raise ValueError(f"evidence {name!r} is {item}")
        if not isinstance(item, int | float | str):
            raise ValueError(f"evidence {name!r} must be a number or text, not {item!r}")
        plain[name] = item
    note = msgspec.json.encode({"reason": reason, "evidence": plain})
    if len(note) > layout.LIMIT["NOTE_SIZE"]:
        size = layout.LIMIT["NOTE_SIZE"]
        raise ValueError(f"reason and evidence take {len(note)} bytes, and may take {size}")
    return note
