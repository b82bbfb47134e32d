# SPDX-License-Identifier: Apache-2.0
"""Changes that have to show what they are worth before they stand.

While one is measured it is on record in the journal, and its knob moves between the value
that stood and the one that was approved: whatever happens, the way back is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kmind.abi import layout
from kmind.agent.types import Action, Mode
from kmind.errors import KnobError
from kmind.guard import Change
from kmind.knobs import Value
from kmind.runtime.holds.grants import Granted
from kmind.runtime.holds.held import Held
from kmind.runtime.holds.holds import CANARY_HOLD_S, Holds
from kmind.runtime.holds.notices import result_of

__all__ = ["TrialHolds"]


class TrialHolds(Holds):
    """``Holds``, some of them measured. ``drop`` does not call what ``on_gone`` says."""

    def begin(
        self, granted: Granted, action: Action, reason: str, evidence: Mapping[str, Any]
    ) -> Change | None:
        """Begin to measure what was approved; None where it is refused, which is told.

        It is on record, and the knob as it was: ``switch`` moves it, until ``keep`` or
        ``drop``. Whatever else becomes of it, ``on_gone`` is told.
        """
        held = self._hold(granted, action, reason, evidence, parked=True)
        if held is None:
            return None
        self._agent.admission.set_current(*granted.key, action.value)  # so that it can be renewed
        return held.last

    def remeasure(self, granted: Granted) -> Change:
        """Begin to measure the current value against the baseline; as ``begin``.

        Not against the previous value: that may have been kept under another load.
        """
        held = self._held[granted.key]
        held.measured = True
        if held.last.id != held.first.id and not granted.knob.disturbs:
            held.first = held.last = self._actuator.join(held.first, held.last)
        self._actuator.set_trial(held.last, True)
        self.dirty = True
        return held.last

    def switch(self, granted: Granted, *, candidate: bool) -> None:
        """Set a knob that is measured to either value. Raises KnobError where it cannot be."""
        held = self._held[granted.key]
        if granted.knob.disturbs:
            self._move(granted, held, candidate)
        else:
            (self._actuator.resume if candidate else self._actuator.park)(held.last)

    def _move(self, granted: Granted, held: Held, candidate: bool) -> None:
        # Knobs that the kernel resets with it have to come back, too: so it is undone and set anew.
        if candidate != held.away:
            return
        if not candidate:
            outcome = self._actuator.undo(held.first)
            if outcome.state == "yielded":
                del self._held[granted.key]
                self._undone(granted.key, held, outcome, "")
            if outcome.state != "undone":
                raise KnobError(f"{outcome.knob} of {outcome.target} is not put back")
            held.away = True
            return
        held.first = held.last = self._actuator.apply(
            granted.knob,
            granted.target,
            held.value,
            who=self._who,
            why="measured against the previous value",
            rec_id=held.rec_id,
            by_admin=True,  # an agent has approved it, and it is held still
            trial=True,
        )
        held.away, self.dirty = False, True

    def keep(
        self,
        granted: Granted,
        reason: str,
        evidence: Mapping[str, Any],
        *,
        again: bool,
        experiment: int,
    ) -> None:
        """Let what was measured stand, as long as it is renewed. Raises KnobError.

        ``again``: it stood before, and the extension is not told.
        """
        self.switch(granted, candidate=True)
        held = self._held[granted.key]
        held.measured, held.before, self.dirty = False, None, True
        self._actuator.set_trial(held.last, False)
        if again:
            return
        self._notices.notify(granted, "KEPT", held.rec_id)
        self._notices.kept(granted, held, reason, evidence, experiment)

    def drop(self, granted: Granted, outcome: str, why: str, *, experiment: int) -> None:
        """Put back the value from before a trial, and tell how ``experiment`` ended."""
        held = self._held.pop(granted.key)
        self.dirty = True
        if before := held.before:
            self._held[granted.key] = replace(before, until=self._now() + before.hold_s)
        put_back = self._undo(held) if before is None else self._actuator.undo(held.last)
        if put_back.state == "yielded":
            self._held.pop(granted.key, None)
            self._undone(granted.key, held, put_back, "")
            return
        code = layout.OUTCOME[outcome.upper().replace(" ", "_")]
        value = self._notices.notify(granted, "DROPPED", held.rec_id, number=code)
        if before is None:
            self._free(*granted.key)
        self._notices.dropped(granted, held, value, outcome, result_of(put_back, why), experiment)

    def held_knobs(self) -> list[Granted]:
        """The knobs that are held or measured, in the order of their changes."""
        keys = sorted(self._held, key=lambda key: self._held[key].first.id)
        return [self.knobs[key] for key in keys]

    def held_value(self, granted: Granted) -> Value:
        """Return the value that a held knob is held at, also while it is measured."""
        return self._held[granted.key].value

    def prolong(self, granted: Granted, seconds: float) -> None:
        """Hold the current value for so long at least: another recommendation waits."""
        if held := self._held.get(granted.key):
            held.until = max(held.until, self._now() + seconds)
            self.dirty = True

    def confirm(self, granted: Granted) -> None:
        """End the trial of a held value: it has proved its worth."""
        self._actuator.set_trial(self._held[granted.key].last, False)

    def take_back(self, granted: Granted, why: str) -> None:
        """End what is held, as ``why`` says. Raises KnobError where it cannot be put back."""
        if held := self._held.pop(granted.key, None):
            self.dirty = True
            self._undone(granted.key, held, self._undo(held), why)

    def release(self, granted: Granted, action: Action, why: str) -> None:
        """End what is held because the baseline was recommended."""
        held = self._held.pop(granted.key, None)
        self.dirty = True
        if held is None:
            self._notices.notify(granted, "UNDONE", action.id)
            self._free(*granted.key)
            return
        held.rec_id = action.id
        self._undone(granted.key, held, self._undo(held), why)

    def go_back(
        self,
        granted: Granted,
        action: Action,
        reason: str,
        evidence: Mapping[str, Any],
        measured: str,
    ) -> bool:
        """Set the previous value by undoing the last change; False if it was another value.

        An extension that compares two values moves between them many times: so the rows
        that are open stay two at most. A refusal is told, as by ``apply``.
        """
        held, value = self._held.get(granted.key), granted.knob.decode(action.value)
        if held is None or held.measured or value != held.last.old:
            return False
        rows = [c for c in self._actuator.held if c.key == held.last.key and c.cause is None]
        try:
            if held.last.id == held.first.id:
                self.release(granted, action, reason)
                return True
            outcome = self._actuator.undo(held.last)
        except KnobError as error:
            self.refuse(granted, action.id, error)
            return True
        if outcome.state != "undone":
            del self._held[granted.key]
            self._undone(granted.key, held, outcome, reason)
            return True
        hold_s = self._hold_s(action)
        if self._mode == Mode.CANARY:
            hold_s = min(hold_s, CANARY_HOLD_S)
        now = replace(
            held,
            rec_id=action.id,
            value=value,
            last=rows[-2],
            hold_s=hold_s,
            until=self._now() + hold_s,
        )
        self._held[granted.key], self.dirty = now, True
        self._emit_applied(granted, now, held.value, reason, evidence, measured)
        return True

    def hold_s(self, action: Action) -> float:
        """Return how long an approved value is held from now on, in seconds."""
        return self._hold_s(action)

    def pass_over(self, granted: Granted, rec_id: int, why: str) -> None:
        """Tell that what was approved is not done, as something else is; the lease stays."""
        self._notices.notify(granted, "FAILED", rec_id)
        self._notices.failed(granted, rec_id, why, tried=False)

    def standing(self, granted: Granted) -> Value:
        """Return the value that an approved one would replace: the held one, or the baseline."""
        held = self._held.get(granted.key)
        held = held.before if held and held.measured else held
        return self.knobs[granted.key].baseline if held is None else held.value
