# SPDX-License-Identifier: Apache-2.0
"""The knobs that an instance holds: set for a while, held on, undone, yielded.

An approved value stands until its hold ends; a renewal extends that, but not in mode
canary. Agent and extension learn of every change, whoever made it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from kmind.agent._base import Action, Agent, Kind, Mode
from kmind.errors import JournalError, KmindError, KnobError
from kmind.guard import Actuator, Change, Outcome
from kmind.knobs import Target, Value
from kmind.runtime.grants import Granted

__all__ = ["CANARY_HOLD_S", "Changes", "Emit"]

CANARY_HOLD_S = 3.0
"""In mode canary no change stands longer, and none is renewed."""

_Key = tuple[int, int]


class Emit(Protocol):
    """Told what happens."""

    def __call__(self, event: str, /, **fields: Any) -> None:
        """``event`` is the name of one; ``fields`` can be JSON."""


@dataclass
class _Held:
    # A knob that holds something else than its baseline because of a recommendation.
    first: Change
    rec_id: int
    value: Value
    until: float


class Changes:
    """What one instance (``who``) changes on its target, through one actuator.

    Not thread-safe. JournalError passes through: nothing may be changed then.
    """

    def __init__(
        self,
        who: str,
        target: Target,
        *,
        agent: Agent,
        actuator: Actuator,
        mode: Mode,
        emit: Emit,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._who = who
        self._target = target
        self._agent = agent
        self._actuator = actuator
        self._mode = mode
        self._emit = emit
        self._now = now
        self._granted: dict[_Key, Granted] = {}
        self._held: dict[_Key, _Held] = {}
        self._values: dict[_Key, list[Value]] = {}
        self._yielded: set[_Key] = set()

    def grant(self, granted: Granted) -> None:
        """Let the agent approve values for a knob."""
        self._granted[granted.key] = granted
        self._agent.grant(*granted.key, granted.grant())

    def granted(self, knob: int, target: int) -> Granted | None:
        """The grant for a knob, by the agent's numbers."""
        return self._granted.get((knob, target))

    @property
    def next_end(self) -> float:
        """When the next hold ends, in the clock's seconds; infinity if none is held."""
        return min((held.until for held in self._held.values()), default=float("inf"))

    def apply(
        self, each: Granted, action: Action, reason: str, evidence: Mapping[str, Any]
    ) -> None:
        """Set what was approved; a refusal is told as an event and leaves the knob as it was."""
        value = each.knob.decode(action.value)
        try:
            change = self._actuator.apply(
                each.knob,
                self._target,
                value,
                who=self._who,
                why=reason,
                evidence=evidence,
                rec_id=action.id,
            )
        except KmindError as error:
            self._refused(each, action.id, error)
            return
        hold_s = action.hold_ms / 1000
        if self._mode == Mode.CANARY:
            hold_s = min(hold_s, CANARY_HOLD_S)
        standing = self._held.get(each.key)
        first = standing.first if standing else change
        self._held[each.key] = _Held(first, action.id, value, self._now() + hold_s)
        self._values.setdefault(each.key, []).append(value)
        self._tell(each, "APPLIED", action.id)
        self._emit(
            "applied",
            instance=self._who,
            id=action.id,
            knob=each.knob.name,
            old=change.old,
            value=value,
            reason=reason,
            evidence=evidence,
            hold_s=hold_s,
            undo=first.undo,
        )

    def renew(self, each: Granted, action: Action) -> None:
        """Hold on to a value that was recommended again."""
        held = self._held.get(each.key)
        if self._mode == Mode.AUTO and held and each.knob.encode(held.value) == action.value:
            held.rec_id = action.id
            held.until = max(held.until, self._now() + action.hold_ms / 1000)

    def end_holds(self) -> None:
        """Undo what has stood long enough."""
        for key, held in list(self._held.items()):
            if self._now() < held.until:
                continue
            del self._held[key]
            try:
                self._undone(key, held, self._actuator.undo(held.first), "its hold ended")
            except KnobError as error:
                self._emit("log", instance=self._who, source="kmind", message=str(error))

    def undo_all(self, why: str) -> None:
        """Put everything back, whatever happens on the way; trouble is told as an event."""
        held, self._held = self._held, {}
        by_name = {self._granted[key].knob.name: key for key in held}
        try:
            outcomes = self._actuator.undo_all(self._who)
        except KmindError as error:
            self._emit("log", instance=self._who, source="kmind", message=str(error))
            return
        for outcome in outcomes:
            if key := by_name.get(outcome.knob):
                self._undone(key, held[key], outcome, why)

    def look(self) -> dict[str, Value]:
        """Yield what somebody else has set, and return what all knobs hold, by name."""
        for gone in self._actuator.check():
            each = next(g for g in self._granted.values() if g.knob.name == gone.knob)
            held = self._held.pop(each.key, None)
            self._yield(each, held.rec_id if held else gone.rec_id, str(gone))
        values: dict[str, Value] = {}
        for each in self._granted.values():
            if (value := self._read(each)) is not None:
                values[each.knob.name] = value
                if each.key not in self._held:
                    self._agent.set_current(*each.key, each.knob.encode(value))
        return values

    def summary(self) -> list[dict[str, Any]]:
        """For each knob that was changed: its baseline, values, and what it holds now."""
        return [
            {
                "knob": each.knob.name,
                "target": self._target.name,
                "baseline": each.baseline,
                "values": values,
                "now": self._read(each),
                "yielded": each.key in self._yielded,
                "check": f"cat {each.knob.file(self._target)}",
            }
            for each, values in ((self._granted[key], v) for key, v in self._values.items())
        ]

    def _refused(self, each: Granted, rec_id: int, error: KmindError) -> None:
        self._tell(each, "FAILED", rec_id)
        self._emit("failed", instance=self._who, id=rec_id, knob=each.knob.name, why=str(error))
        if isinstance(error, JournalError):
            raise error
        held = self._held.get(each.key)
        if held and all(change.id != held.first.id for change in self._actuator.held):
            del self._held[each.key]  # the actuator found another's value, and let go
            self._yield(each, held.rec_id, str(error))

    def _undone(self, key: _Key, held: _Held, outcome: Outcome, why: str) -> None:
        each = self._granted[key]
        if outcome.state == "yielded":
            message = f"{outcome.knob} of {outcome.target} was set to {outcome.found}"
            self._yield(each, held.rec_id, f"{message} by somebody else: left as it is")
            return
        value = self._tell(each, "UNDONE", held.rec_id)
        self._emit(
            "undone",
            instance=self._who,
            id=held.rec_id,
            knob=each.knob.name,
            old=held.value,
            value=value,
            why=why if outcome.state == "undone" else f"{outcome.state}: {outcome.why}",
        )

    def _yield(self, each: Granted, rec_id: int, message: str) -> None:
        self._yielded.add(each.key)
        # Nothing passes an empty range: what is recommended from now on is refused.
        self._agent.grant(*each.key, each.withdrawn(each.baseline))
        value = self._tell(each, "YIELDED", rec_id)
        self._emit(
            "yielded",
            instance=self._who,
            id=rec_id,
            knob=each.knob.name,
            value=value,
            message=message,
        )

    def _tell(self, each: Granted, kind: str, rec_id: int) -> Value | None:
        # Agent and extension learn what stands now.
        value = self._read(each)
        number = each.knob.encode(each.baseline if value is None else value)
        self._agent.set_current(*each.key, number)
        self._agent.notify(Kind[kind], rec_id, number)
        return value

    def _read(self, each: Granted) -> Value | None:
        # None where the device is gone.
        try:
            return each.knob.read(self._target)
        except KmindError:
            return None
