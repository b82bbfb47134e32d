# SPDX-License-Identifier: Apache-2.0
"""Admission as ``kmind/admission.h`` has it: the same checks in the same order, in Python.

A test gives both the same recommendations and compares the verdicts: change them
together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from kmind.abi import layout
from kmind.agent.codec import pack_grant
from kmind.agent.sim.leases import Place, SimLeases, Taken
from kmind.agent.sim.spec import Lock
from kmind.agent.types import Grant
from kmind.errors import KmindError
from kmind.queue.completion import check_words

__all__ = ["Admission", "Entry"]

_MODE = layout.MODE
_OP = layout.RULE_OP
_VERDICT = layout.VERDICT
_WORD = 1 << 32
_INT64 = 1 << 63
_MOST_GRANTS = 256  # km_grants
_PASSED = (_VERDICT["APPROVED"], _VERDICT["RENEWED"])


class Entry(NamedTuple):
    """A copy of one slot of the completion queue; see ``struct kmind_recommendation``.

    ``whole`` says that its words belong together, and to that position.
    """

    commit: int
    id: int
    knob: int
    target: int
    value: int
    expires_ns: int
    model: int
    type: int
    flags: int
    hold_ms: int
    note: int
    whole: bool

    @classmethod
    def copy(cls, packed: bytes, position: int) -> Entry:
        """From the 64 untrusted bytes of a slot."""
        *words, check, _, _ = np.frombuffer(packed, layout.RECOMMENDATION)[0].item()
        expected = check_words(np.frombuffer(packed, np.uint64))
        whole = check == expected and words[0] == (position + 1) % _WORD
        return cls._make((*words, whole))


@dataclass
class _Held:
    # A grant, and where it stands.
    grant: Any  # one struct kmind_grant
    current: int
    place: Place | None = None
    tat_ns: int = 0


class Admission:
    """Grants and past decisions: the agent's state that no extension reaches.

    With ``leases`` it takes part in them as ``slot``. What the owner says is said under ``lock``,
    the agent's; the caller of a decision holds it already.
    """

    def __init__(self, lock: Lock, leases: SimLeases | None = None, slot: int = 0) -> None:
        self._lock = lock
        self.mode = 0  # as in the kernel: refuses all until one is set
        self._model = 0
        self._leases = leases
        self._slot = slot
        self._last_id = 0
        self._grants: dict[tuple[int, int], _Held] = {}

    def grant(self, knob: int, target: int, grant: Grant) -> None:
        """Replace what is granted for a knob, its rate limiter fresh."""
        words = np.frombuffer(pack_grant(grant), layout.GRANT)[0]
        with self._lock:
            if len(self._grants) >= _MOST_GRANTS and (knob, target) not in self._grants:
                raise KmindError(f"an agent holds at most {_MOST_GRANTS} grants")
            place = self._leases.place(self._slot, knob, target) if self._leases else None
            self._grants[knob, target] = _Held(words, int(words["current"]), place)

    def revoke(self, knob: int, target: int) -> None:
        """Grant a knob no more; nothing if it was not."""
        with self._lock:
            self._grants.pop((knob, target), None)
            if self._leases:
                self._leases.leave(self._slot, knob, target)

    def set_current(self, knob: int, target: int, value: int) -> None:
        """Record a knob's current value; a knob that is not granted is left alone."""
        with self._lock:
            if held := self._grants.get((knob, target)):
                held.current = value

    def set_model(self, identity: int) -> None:
        """Admit recommendations of one model only; 0 admits any."""
        with self._lock:
            self._model = identity

    def decide(self, entry: Entry, now: int) -> tuple[int, int]:
        """The verdict on an entry, and the value that stands before it."""
        if not entry.whole:
            return _VERDICT["TORN"], 0
        if entry.id <= self._last_id:
            return _VERDICT["REPLAYED"], 0
        self._last_id = entry.id
        held = self._grants.get((entry.knob, entry.target))
        verdict = self._check(entry, held, now) if held else _VERDICT["UNKNOWN"]
        if not _MODE["OBSERVE"] <= self.mode <= _MODE["AUTO"]:
            verdict = _VERDICT["EMERGENCY"]
        elif verdict in _PASSED and self.mode == _MODE["OBSERVE"]:
            verdict = _VERDICT["SHADOWED"]
        elif verdict in _PASSED and self.mode == _MODE["ADVISE"]:
            verdict = _VERDICT["ADVISED"]
        return verdict, held.current if held else 0

    def among_others(self, entry: Entry, verdict: int, now: int) -> Taken:
        """Return the verdict after the leases of other instances have been checked."""
        if self._leases is None or verdict not in _PASSED:
            return Taken(verdict, 0, 0)
        held = self._grants[entry.knob, entry.target]
        priority = int(held.grant["priority"])
        taken = self._leases.acquire(self._slot, held.place, priority, entry.hold_ms, now)
        return taken._replace(verdict=verdict) if taken.verdict == _VERDICT["APPROVED"] else taken

    def settle(self, entry: Entry, now: int) -> None:
        """Record an approved change that the owner is told of."""
        held = self._grants[entry.knob, entry.target]
        held.tat_ns = max(held.tat_ns, now) + int(held.grant["interval_ns"])
        held.current = entry.value

    def _check(self, entry: Entry, held: _Held, now: int) -> int:
        grant, value = held.grant, entry.value
        if entry.type != grant["type"] or entry.flags:
            return _VERDICT["TYPE"]
        if entry.expires_ns <= now:
            return _VERDICT["EXPIRED"]
        if self._model and entry.model != self._model:
            return _VERDICT["MODEL"]
        if not int(grant["minimum"]) <= value <= int(grant["maximum"]):
            return _VERDICT["RANGE"]
        if grant["hold_ms"] and entry.hold_ms > int(grant["hold_ms"]):
            return _VERDICT["RANGE"]
        if grant["grid"] and abs(value) % int(grant["grid"]):
            return _VERDICT["GRID"]
        if grant["type"] == layout.TYPE["ENUM"] and not (
            0 <= value < 64 and int(grant["choices"]) >> value & 1
        ):
            return _VERDICT["GRID"]
        # Only the holder can renew the current value.
        if value == held.current and (
            self._leases is None or self._leases.held(self._slot, held.place, now)
        ):
            return _VERDICT["RENEWED"]
        return self._check_change(entry, held, now)

    def _check_change(self, entry: Entry, held: _Held, now: int) -> int:
        grant, new, old = held.grant, entry.value, held.current
        if grant["step"] and abs(new - old) > int(grant["step"]):
            return _VERDICT["STEP"]
        percent = int(grant["step_percent"])
        # Ratios are taken from 1 upwards, so that a knob may leave 0.
        low, high = sorted((max(old, 1), max(new, 1)))
        if percent and (high * 100 > low * percent or low * 100 > high * percent):
            return _VERDICT["STEP"]
        # Generic cell rate algorithm, ITU-T I.371.
        interval, burst = int(grant["interval_ns"]), int(grant["burst"])
        if interval and held.tat_ns > now + interval * max(burst - 1, 0):
            return _VERDICT["RATE"]
        if any(self._is_broken(rule, entry) for rule in grant["rules"]):
            return _VERDICT["RULE"]
        return _VERDICT["APPROVED"]

    def _is_broken(self, rule: Any, entry: Entry) -> bool:
        operator = int(rule["op"])
        if operator == _OP["NONE"]:
            return False
        other = self._grants.get((int(rule["knob"]), entry.target))
        if other is None:
            return True  # what cannot be checked is refused
        bound = other.current + int(rule["offset"])
        if not -_INT64 <= bound < _INT64:
            return True
        holds = {
            _OP["LT"]: entry.value < bound,
            _OP["LE"]: entry.value <= bound,
            _OP["GT"]: entry.value > bound,
            _OP["GE"]: entry.value >= bound,
        }
        return not holds.get(operator, False)
