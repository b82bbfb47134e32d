# SPDX-License-Identifier: Apache-2.0
"""A change that is to be made: checked against policy and other owners, and put on record."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from kmind.errors import KnobError
from kmind.guard._owner import Owner
from kmind.guard.actuator._gated import GatedKnobs
from kmind.guard.actuator._held import Held
from kmind.guard.actuator._yielded import Yielded
from kmind.guard.journal import Change, Journal
from kmind.guard.policy import Policy
from kmind.knobs import Knob, Target, Value, get_knob

__all__ = ["Intents"]


class Intents:
    """The checks before the first write, under the journal's lock; nothing is written yet."""

    def __init__(self, journal: Journal, policy: Policy, held: Held, gated: GatedKnobs) -> None:
        self._journal = journal
        self._policy = policy
        self._held = held
        self._gated = gated

    def intend(
        self, knob: Knob, target: Target, value: Value, owner: Owner, by_admin: bool, **record: Any
    ) -> tuple[list[Change], Yielded | None]:
        """Rows for a change and for what it disturbs, durable; or who was faster."""
        with self._journal.exclusive():
            old = knob.read(target)
            key = knob.name, target.name
            if key in self._held and (ours := self._held.wanted(key)) not in (None, old):
                last = self._held.chain(key)[-1]
                return [], Yielded(knob.name, target.name, ours, old, last.rec_id)
            refusal = self._policy.check(knob, target, value, old, self._others(knob, target))
            if refusal is not None:
                raise refusal
            disturbed = [
                other for name in knob.disturbs if (other := get_knob(name)).exists(target)
            ]
            for touched in (knob, *disturbed):
                self._check_free(touched, target, owner)
            baseline = self._held.baseline(key) if key in self._held else old
            self._gated.admit(knob, target, value, old, baseline, ours=by_admin)
            main = self._journal.intend(knob, target, old, value, owner, **record)
            parts = []
            for other in disturbed:
                with suppress(KnobError):  # a knob that cannot be read cannot be restored
                    parts.append(
                        self._journal.intend(
                            other, target, other.read(target), None, owner,
                            why=f"the kernel may reset it with {knob.name}", cause=main.id,
                        )
                    )  # fmt: skip
            return [main, *parts], None

    def _check_free(self, knob: Knob, target: Target, owner: Owner) -> None:
        for change in self._journal.open_changes(knob.name, target.name):
            if change.owner.same_process(owner):
                continue
            state = "held" if change.owner.alive() else "left behind"
            hint = "stop it first" if change.owner.alive() else "run: kmind restore"
            raise KnobError(f"{knob.name} of {target} is {state} by {change.owner}", hint=hint)

    def _others(self, knob: Knob, target: Target) -> dict[str, Value]:
        values: dict[str, Value] = {}
        for rule in self._policy.bound(knob, target).rules:
            with suppress(KnobError):
                values[rule.other] = get_knob(rule.other).read(target)
        return values
