# SPDX-License-Identifier: Apache-2.0
"""Knobs of one actuator that a gate guards: what may pass, and what others wrote."""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from kmind.errors import KmindError, KnobError
from kmind.guard.actuator._held import Key
from kmind.guard.actuator._yielded import Yielded
from kmind.guard.gate.gate import Gate, GateEvent
from kmind.guard.journal import Change
from kmind.knobs import Knob, Target, Value, get_knob, parse_target

__all__ = ["GatedKnobs"]

# Between the gate and the kernel's store lie microseconds. A write that shows no effect
# after that long was refused; should it come later still, reading back finds it.
_LANDS_WITHIN_NS = 20_000_000


class GatedKnobs:
    """One actuator's part of a gate, which may serve several. ``root`` is where targets are."""

    def __init__(self, gate: Gate, root: Path) -> None:
        self._gate = gate
        self._root = root
        self._knobs: dict[Key, tuple[Knob, Target]] = {}

    @property
    def fd(self) -> int:
        """Readable when somebody else writes to what is guarded."""
        return self._gate.fd

    def collect(self) -> None:
        """Take in what others wrote."""
        self._gate.collect()

    def admit(
        self, knob: Knob, target: Target, value: Value, old: Value, baseline: Value, *, ours: bool
    ) -> None:
        """Guard a knob, if that is possible, and see to it that the gate lets the value through.

        ``old`` was read just now, and ``baseline`` can always be written. With ``ours`` the admin
        approved the value. Raises KnobError where no agent has, and where the knob is just being
        set.
        """
        if not self._gate.covers(knob, target):
            return
        self._gate.guard(knob, target, baseline)
        self._knobs[knob.name, target.name] = knob, target
        if knob.read(target) != old:  # before it was guarded nobody noticed
            raise KnobError(f"{knob.name} of {target} is being set", hint="try again")
        if ours or not self._gate.agents_approve:
            self._gate.approvals.approve(knob, target, value)
        elif not self._gate.approvals.claim(knob, target, value):
            approved = self._gate.approvals.current(knob, target)
            raise KnobError(
                f"{value} for {knob.name} of {target} is not approved",
                hint="no agent has approved a value"
                if approved is None
                else f"{approved} came later",
            )

    def swap(self, key: Key, value: Value) -> bool:
        """Let another value pass in place of the one that was admitted; false if it may not."""
        return key not in self._knobs or self._gate.approvals.swap(*self._knobs[key], value)

    def inherit(self, chain: list[Change]) -> None:
        """Go on guarding a knob. One that cannot be gated now can still be put back."""
        with suppress(KmindError):
            first, last = chain[0], chain[-1]
            knob, target = get_knob(first.knob), parse_target(first.target, root=self._root)
            if self._gate.covers(knob, target):
                self._gate.guard(knob, target, first.old, inherit=True)
                self._knobs[first.key] = knob, target
                if last.new is not None:
                    self._gate.approvals.claim(knob, target, last.new)

    def reopen(self, key: Key, value: Value, baseline: Value) -> None:
        """Let a value of before through the gate again.

        The first value of all may always pass: what was approved last may be another's,
        who waits for this one to be put back.
        """
        if key not in self._knobs:
            return
        if value != baseline:
            self._gate.approvals.approve(*self._knobs[key], value)
        else:
            self._gate.allow_return(*self._knobs[key])

    def let_go(self, held: Collection[Key]) -> None:
        """Gate no more what is no longer held, and again in full what is."""
        self._gate.end_returns()
        for key in self._knobs.keys() - held:
            self._gate.release(*self._knobs.pop(key))

    def overruled(self, change: Change, ours: Value | None) -> Yielded | None:
        """The last write of somebody else to what is guarded, if the kernel took it.

        ``change`` is the last that is held of the knob, ``ours`` what it should hold.
        """
        if change.key not in self._knobs:
            return None
        knob, target = self._knobs[change.key]
        events = self._gate.events(knob, target)
        if not events and not self._gate.noticed(knob, target):
            return None
        began = time.monotonic_ns()
        while (current := knob.read(target)) == ours and not _sets(events, current):
            if time.monotonic_ns() - (events[-1].time_ns if events else began) > _LANDS_WITHIN_NS:
                if not self._gate.sees_values(knob, target):
                    break  # what was written is not seen: it may be our own value
                self._gate.settle(knob, target)
                return None
            time.sleep(0.001)
            events += self._gate.events(knob, target)
        by = f"{events[-1].comm}, pid {events[-1].pid}" if events else ""
        return Yielded(*change.key, ours, current, change.rec_id, by)


def _sets(events: list[GateEvent], value: Value) -> bool:
    return any(event.sets(value) for event in events)
