# SPDX-License-Identifier: Apache-2.0
"""The knobs that an instance holds: set for a while, held on, undone, yielded, handed over.

An approved value stands until its hold ends; a renewal extends that, but not in mode
canary. Agent and extension learn of every change, whoever made it. What is held can be
written down (``holds``) and be taken up again by a later process (``adopt``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

from kmind.agent.types import Action, Mode
from kmind.errors import JournalError, KmindError, KnobError, PrivilegeError
from kmind.guard import Change, Outcome
from kmind.knobs import Value
from kmind.runtime.holds.granted_knobs import GrantedKnobs, Key
from kmind.runtime.holds.grants import Granted
from kmind.runtime.holds.held import Held
from kmind.runtime.holds.notices import Notices, result_of
from kmind.runtime.holds.state import HoldState
from kmind.runtime.service import Service
from kmind.runtime.services import InstanceSpec, Services

__all__ = ["CANARY_HOLD_S", "UNRECORDED_HOLD_S", "Holds"]

CANARY_HOLD_S = 3.0
"""In mode canary no change stands longer, and none is renewed."""

UNRECORDED_HOLD_S = 3.0
"""A change whose hold the last owner could not write down stands for that long, unless renewed."""

_MOST_VALUES = 64


class Holds(Service):
    """Values that one instance (``who``) holds on its target, through one actuator.

    ``knobs`` are those that it may move. ``dirty`` is set when ``holds`` has changed; the caller
    resets it. Not thread-safe. JournalError passes through: nothing may be changed then.
    """

    def __init__(
        self,
        spec: InstanceSpec,
        services: Services,
    ) -> None:
        self.dirty = False
        self.actuator = self._actuator = services.actuator()
        self._who = spec.name
        self._agent = spec.agent
        self._mode = spec.mode
        self._log = services.logger(spec.name)
        self._free = services.release(spec.slot)
        self._gone_calls: list[Callable[[Key, str], None]] = []
        self._now = services.now
        self.knobs = GrantedKnobs(self._agent, self._actuator)
        self._notices = Notices(spec, services, self.knobs)
        self._held: dict[Key, Held] = {}
        self._values: dict[Key, deque[Value]] = {}
        self._handed: set[Key] = set()

    def on_gone(self, call: Callable[[Key, str], None]) -> None:
        """Call with knob and target, and why, when one is held no longer."""
        self._gone_calls.append(call)

    def _gone(self, key: Key, why: str) -> None:
        for call in self._gone_calls:
            call(key, why)

    def reclaim(self) -> None:
        """Forget that knobs were yielded: the admin has started the instance anew."""
        self.knobs.reclaim()
        self.dirty = True

    def adopt(
        self,
        granted: Iterable[Granted],
        holds: Iterable[HoldState],
        yielded: Iterable[str],
        unmeasured: Container[int] = (),
    ) -> None:
        """Grant, and go on with what an earlier process held and wrote down.

        No knob is written, but that a change goes back that was cut short, or whose
        experiment was (``unmeasured``, numbers of the journal). One of an unknown hold
        stands for some seconds, unless it is renewed.
        """
        by_name = {entry.knob.name: entry for entry in granted}
        self.knobs.take_up(by_name.values(), yielded)
        recorded = {hold.change: hold for hold in holds}
        for change in self._actuator.adopt(self._who):
            if change.cause is not None:
                continue
            entry = by_name.get(change.knob)
            if change.id in unmeasured or change.trial or entry is None or not _fits(entry, change):
                self._actuator.undo(change)
                why = f"it may not stand at {change.new} any more"
                if change.id in unmeasured or change.trial:
                    why = f"what {change.new} does was not measured to the end"
                message = f"{change.knob} is put back: {why}"
                self._log(message)
                continue
            held = self._held.get(entry.key)
            if held is None:
                held = self._held[entry.key] = self._take_up(change, recorded.get(change.id))
                self.knobs.rebase(entry, change.old)
            held.value = change.old if change.new is None else change.new
            held.last = change
            self._note(entry, held.value)
        self.knobs.offer_all(self._held)
        self.dirty = True

    def _take_up(self, change: Change, hold: HoldState | None) -> Held:
        rec_id, value, left_s = change.rec_id, change.old, UNRECORDED_HOLD_S
        if hold is not None:
            rec_id, value, left_s = hold.rec_id, hold.value, hold.until_ns / 1e9 - self._now()
        return Held(change, rec_id, value, self._now() + left_s, left_s, change)

    def holds(self) -> tuple[HoldState, ...]:
        """State of the holds, for ``adopt``."""
        return tuple(
            HoldState(
                knob=self.knobs[key].knob.name,
                until_ns=int(held.until * 1e9),
                change=held.first.id,
                rec_id=held.rec_id,
                value=held.value,
            )
            for key, each in self._held.items()
            if (held := each.before if each.measured else each)
        )

    def status(self) -> dict[str, Any]:
        """Return what the knobs hold, what is held and for how long, and what was yielded."""
        holds = [
            {
                "knob": hold.knob,
                "value": hold.value,
                "id": hold.rec_id,
                "left_s": round(max(0.0, hold.until_ns / 1e9 - self._now()), 3),
            }
            for hold in self.holds()
        ]
        return {
            "knobs": self.knobs.values(),
            "holds": holds,
            "yielded": list(self.knobs.yielded),
        }

    @property
    def held(self) -> bool:
        """True if any knob is held at a recommended value."""
        return bool(self._held)

    def holding(self, knob: int, target: int) -> bool:
        """True if that knob, by the agent's numbers, is held at a recommended value."""
        return (knob, target) in self._held

    def is_current(self, granted: Granted, value: int) -> bool:
        """True if a knob is held at that value, encoded."""
        held = self._held.get(granted.key)
        return held is not None and granted.knob.encode(held.value) == value

    def baseline(self, granted: Granted) -> Value:
        """Return the value that a knob goes back to when it is released."""
        return self.knobs[granted.key].baseline

    def set_mode(self, mode: Mode) -> None:
        """Follow the agent to another mode: what that mode does not hold is undone."""
        self._mode = mode
        if mode == Mode.CANARY:
            for held in self._held.values():
                self._actuator.set_trial(held.last, True)
                held.until = min(held.until, self._now() + CANARY_HOLD_S)
            self.dirty = True
        elif mode != Mode.AUTO:
            self.stop(f"the mode is {mode.name.lower()} now")

    def hand_over(self, knob: int, target: int, to: str) -> None:
        """Undo a change because another, ``to``, has the lease now; nothing if none is held.

        Raises KmindError where it cannot be put back: it is held on then.
        """
        held = self._held.get((knob, target))
        if held is None:
            return
        granted = self.knobs[knob, target]
        outcome = self._undo(held)
        if outcome.state == "skipped":
            raise KnobError(f"{outcome.knob} of {outcome.target} is not put back: {outcome.why}")
        self.dirty = True
        del self._held[granted.key]
        if outcome.state == "yielded":
            self._undone(granted.key, held, outcome, "")
            return
        self._handed.add(granted.key)
        self._gone(granted.key, f"{to} has the lease now")
        value = self._notices.notify(granted, "YIELDED", held.rec_id)
        message = f"{granted.knob.name} of {granted.target.name} goes to {to}, of higher priority"
        self._notices.yielded(granted, held.rec_id, value, message)

    @property
    def due(self) -> float:
        """Time when the next hold ends, in the clock's seconds; infinity if none is held."""
        return min((held.until for held in self._held.values()), default=float("inf"))

    def apply(
        self,
        granted: Granted,
        action: Action,
        reason: str,
        evidence: Mapping[str, Any],
        measured: str = "",
        *,
        trial: bool = False,
    ) -> bool:
        """Set an approved value; a refusal becomes an event and leaves the knob unchanged.

        ``measured`` says what is known of its effect; with ``trial`` it is put back if this
        process dies, whatever the policy keeps. Whether it is set.
        """
        held = self._hold(granted, action, reason, evidence, parked=False, trial=trial)
        if held is None:
            return False
        self._emit_applied(granted, held, held.last.old, reason, evidence, measured)
        return True

    def _emit_applied(
        self,
        granted: Granted,
        held: Held,
        old: Value,
        reason: str,
        evidence: Mapping[str, Any],
        measured: str,
    ) -> None:
        self._notices.notify(granted, "APPLIED", held.rec_id)
        self._notices.applied(granted, held, old, reason, evidence, measured)

    def _hold(
        self,
        granted: Granted,
        action: Action,
        reason: str,
        evidence: Mapping[str, Any],
        *,
        parked: bool,
        trial: bool = False,
    ) -> Held | None:
        # Set it, or with ``parked`` only put it on record; None where that is refused.
        value = granted.knob.decode(action.value)
        hold_s = self._hold_s(action)
        if hold_s <= 0:
            error = KnobError(
                f"{granted.knob.name} of {granted.target.name} is left as it is: what was approved "
                f"was to stand for {action.hold_ms / 1000:g} s, and waited for longer than that"
            )
            self.refuse(granted, action.id, error)
            return None
        try:
            change = self._actuator.apply(
                granted.knob,
                granted.target,
                value,
                who=self._who,
                why=reason,
                evidence=evidence,
                rec_id=action.id,
                parked=parked,
                trial=trial or self._mode == Mode.CANARY,
            )
        except KmindError as error:
            self.refuse(granted, action.id, error)
            return None
        if self._mode == Mode.CANARY and not parked:
            hold_s = min(hold_s, CANARY_HOLD_S)
        self.dirty = True
        standing = self._held.get(granted.key)
        first = standing.first if standing else change
        self.knobs.rebase(granted, first.old)
        held = Held(first, action.id, value, self._now() + hold_s, hold_s, change)
        if parked:
            held.measured, held.before = True, standing
        self._held[granted.key] = held
        self._note(granted, value)
        self._handed.discard(granted.key)
        return held

    def refuse(self, granted: Granted, rec_id: int, error: KmindError) -> None:
        """Tell the extension that what was approved is not done, and why."""
        self._notices.notify(granted, "FAILED", rec_id)
        tried = isinstance(error, KnobError | PrivilegeError)
        self._notices.failed(granted, rec_id, str(error), tried=tried)
        if granted.key not in self._held:
            self._free(*granted.key)
        if isinstance(error, JournalError):
            raise error
        held = self._held.get(granted.key)
        if (
            held
            and not held.away
            and all(change.id != held.first.id for change in self._actuator.held)
        ):
            self.dirty = True
            del self._held[granted.key]  # the actuator found another's value, and let go
            self._yield(granted, held.rec_id, str(error))

    def renew(self, granted: Granted, action: Action) -> None:
        """Hold on to a value that was recommended again."""
        held = self._held.get(granted.key)
        renewable = self._mode == Mode.AUTO or (held is not None and held.measured)
        if renewable and held and granted.knob.encode(held.value) == action.value:
            held.rec_id = action.id
            held.hold_s = self._hold_s(action)
            held.until = max(held.until, self._now() + held.hold_s)
            self.dirty = True

    def run_due(self) -> None:
        """Undo what has stood long enough."""
        for key, held in list(self._held.items()):
            if self._now() < held.until:
                continue
            del self._held[key]
            self.dirty = True
            try:
                self._undone(key, held, self._undo(held), "its hold ended")
            except KnobError as error:
                self._log(str(error))

    def _undo(self, held: Held) -> Outcome:
        # All of it, as far as it is not undone just now.
        if held.away:
            change = held.first
            return Outcome("undone", *change.key, change.old, change.old)
        return self._actuator.undo(held.first)

    def stop(self, why: str) -> None:
        """Put everything back, whatever happens on the way; failures become events."""
        held, self._held = self._held, {}
        self.dirty |= bool(held)
        by_name = {self.knobs[key].knob.name: key for key in held}
        try:
            outcomes = self._actuator.undo_all(self._who)
        except KmindError as error:
            self._log(str(error))
            return
        for outcome in outcomes:
            if key := by_name.get(outcome.knob):
                self._undone(key, held[key], outcome, why)

    def poll(self) -> dict[str, Value]:
        """Yield what somebody else has set, and return what all knobs hold, by name."""
        for gone in self._actuator.check() if self._held or self._actuator.unsettled else ():
            granted = next(g for g in self.knobs if g.knob.name == gone.knob)
            held = self._held.pop(granted.key, None)
            self.dirty = True
            self._yield(granted, held.rec_id if held else gone.rec_id, str(gone))
        for remark in self._actuator.remarks():
            self._log(remark)
        values = self.knobs.values()
        for granted in self.knobs:
            if granted.key not in self._held and granted.knob.name in values:
                value = granted.knob.encode(values[granted.knob.name])
                self._agent.admission.set_current(*granted.key, value)
        return values

    def summary(self) -> list[dict[str, Any]]:
        """For each knob that was changed: its baseline, latest values, and what it holds now."""
        return [
            {
                "knob": granted.knob.name,
                "target": granted.target.name,
                "baseline": granted.baseline,
                "values": list(values),
                "now": self.knobs.read(granted),
                "gone": not granted.target.is_present(),
                "yielded": self.knobs.has_yielded(granted) or granted.key in self._handed,
                "check": granted.knob.show_command(granted.target),
            }
            for granted, values in ((self.knobs[key], v) for key, v in self._values.items())
        ]

    def _note(self, granted: Granted, value: Value) -> None:
        self._values.setdefault(granted.key, deque(maxlen=_MOST_VALUES)).append(value)

    def _hold_s(self, action: Action) -> float:
        # What is left of it: an approval may have waited for its owner to come back. The
        # clock of a simulated agent is its own.
        waited = 0.0
        if self._agent.backend == "bpf":
            waited = max(0.0, self._now() - action.time_ns / 1e9)
        return action.hold_ms / 1000 - waited

    def _undone(self, key: Key, held: Held, outcome: Outcome, why: str) -> None:
        granted = self.knobs[key]
        if outcome.state == "yielded":
            message = f"{outcome.knob} of {outcome.target} was set to {outcome.found}"
            self._yield(granted, held.rec_id, f"{message} by somebody else: left as it is")
            return
        value = self._notices.notify(granted, "UNDONE", held.rec_id)
        self._free(*key)
        self._gone(key, why)
        self._notices.undone(granted, held, value, result_of(outcome, why))

    def _yield(self, granted: Granted, rec_id: int, message: str) -> None:
        self._gone(granted.key, message)
        self.knobs.give_up(granted)
        value = self._notices.notify(granted, "YIELDED", rec_id)
        self._free(*granted.key)
        self._notices.yielded(granted, rec_id, value, message)


def _fits(granted: Granted, change: Change) -> bool:
    # True if the present policy allows it. A change that was cut short has gone already.
    if change.new is None:
        return True
    code = granted.knob.encode(change.new)
    return granted.bound.refuses(code, code) is None
