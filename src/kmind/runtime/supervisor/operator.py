# SPDX-License-Identifier: Apache-2.0
"""Changes that the daemon makes for the admin: advice that was applied.

They go through policy, journal and gate as every change does. They have the lease of highest
priority, so instances yield to them and are refused. They stay until they are undone, somebody else
sets the knob, or the daemon puts everything back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from kmind.agent.core.core import Core
from kmind.errors import KmindError
from kmind.guard import Actuator, Change, Gate, Journal, Policy
from kmind.knobs import Knob, Target, get_knob, parse_target
from kmind.runtime.supervisor.advice import AdviceStore

__all__ = ["ADMIN", "Operator"]

ADMIN = "admin"
"""Holder of applied advice, in journal and core."""

_PRIORITY = 255
_LEASE_S = 60.0


class Operator:
    """Carries advice out; the ``Doer`` of ``advice``, which is set once that is opened.

    ``give_up`` makes the instances put back what they hold of a knob; ``announce`` is told
    knob, target and value, by number, when one was set or put back. One thread.
    """

    advice: AdviceStore

    def __init__(
        self,
        core: Core,
        journal: Journal,
        policy: Policy,
        gate: Gate,
        *,
        give_up: Callable[[Knob, Target, str], None],
        announce: Callable[[int, int, int], None],
    ) -> None:
        self._core = core
        self._actuator = Actuator(journal, policy, gate=gate)
        self._give_up = give_up
        self._announce = announce
        self._slot = next((i.slot for i in core.instances() if i.name == ADMIN), 0)

    @property
    def held(self) -> list[Change]:
        """The changes that stand."""
        return self._actuator.held

    def adopt(self) -> None:
        """Take over an earlier process's values, and learn which are no longer in place."""
        applied = self.advice.applied()
        for change in self._actuator.adopt(ADMIN):
            if change.id not in applied and change.cause is None:
                self._actuator.undo(change)  # cut short before it was written down
        self.forget()

    def forget(self) -> None:
        """Say of advice whose change stands no longer that it is undone."""
        self._forget()
        self._lease()

    def apply_advice(self, advice: Mapping[str, Any]) -> int:
        """Set the knob; the journal's number of the change. Raises KmindError: it is not set."""
        knob, target = get_knob(str(advice["knob"])), parse_target(str(advice["target"]))
        # Steps that can fail come first: nothing may come between a write and its record.
        held_already = any(change.key == (knob.name, target.name) for change in self.held)
        self._take_lease(knob, target)
        try:
            change = self._set(knob, target, advice)
        except KmindError:
            if not held_already:
                self._core.leases.release(self._slot, knob.id, target.id)
            self._leave_if_idle()
            raise
        self._announce_current(knob, target)
        with suppress(KmindError):  # those of knobs that go with it; `look` tries again
            self._lease()
        return change.id

    def _set(self, knob: Knob, target: Target, advice: Mapping[str, Any]) -> Change:
        self._give_up(knob, target, "the admin")
        self._actuator.acquire(knob, target)
        return self._actuator.apply(
            knob,
            target,
            advice["value"],
            who=ADMIN,
            why=f"advice {advice['id']} of {advice['instance']}: {advice['reason']}",
            evidence=advice["evidence"],
            rec_id=int(advice["rec_id"]),
            by_admin=True,
        )

    def undo_advice(self, change: int) -> str:
        """Put back what that change did; a word on it if there is one to say."""
        held = next((candidate for candidate in self.held if candidate.id == change), None)
        if held is None:
            return "it was no longer in place"
        outcome = self._actuator.undo(held)
        self._announce_current(get_knob(held.knob), parse_target(held.target))
        self._release(held)
        if outcome.state == "skipped":
            raise KmindError(f"{outcome.knob} of {outcome.target} is not put back: {outcome.why}")
        self._forget(but=change)
        return outcome.why

    def undo_all(self) -> None:
        """Put everything back."""
        held = self.held
        try:
            self._actuator.undo_all(ADMIN)
        finally:
            for change in held:
                self._release(change)
            self._forget("the daemon ended")

    def poll(self) -> None:
        """Check whether somebody else has set a held knob, and renew the leases."""
        if not self.held:
            return
        for gone in self._actuator.check():
            self._forget(str(gone))
        self._lease()

    def _forget(self, why: str = "it was no longer in place", but: int = 0) -> None:
        # Advice whose change is not in force.
        standing = {change.id for change in self.held} | {but}
        for change in self.advice.applied():
            if change not in standing:
                self.advice.undone(change, why)

    def _lease(self) -> None:
        for change in self.held:
            self._take_lease(get_knob(change.knob), parse_target(change.target))
        self._leave_if_idle()

    def _take_lease(self, knob: Knob, target: Target) -> None:
        # From whoever has it. KmindError where there is no slot or place left.
        if not self._slot:
            self._slot = self._core.register(ADMIN, "kmind", ADMIN, 0, os.getuid())
        acquire = partial(
            self._core.leases.acquire,
            self._slot,
            knob.id,
            target.id,
            priority=_PRIORITY,
            hold_s=_LEASE_S,
        )
        claim = acquire()
        if not claim and claim.holder:  # a module may ask for the same priority
            self._core.leases.release(claim.holder, knob.id, target.id)
            claim = acquire()
        if not claim:
            self._leave_if_idle()
            raise KmindError(
                f"there is no room for the lease of {knob.name} of {target}",
                hint="unload an instance first; see: kmind status",
            )

    def _leave_if_idle(self) -> None:
        if not self.held and self._slot:
            self._core.unregister(self._slot)
            self._slot = 0

    def _announce_current(self, knob: Knob, target: Target) -> None:
        with suppress(KmindError):  # the device may be gone
            self._announce(knob.id, target.id, knob.encode(knob.read(target)))

    def _release(self, change: Change) -> None:
        if self._slot:
            target = parse_target(change.target)
            self._core.leases.release(self._slot, get_knob(change.knob).id, target.id)
