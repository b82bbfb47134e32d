# SPDX-License-Identifier: Apache-2.0
"""From the agent's verdicts to events, and to changes where something was approved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from kmind import events
from kmind.agent.types import Action, Verdict
from kmind.errors import KmindError
from kmind.runtime.budget import OwnerBudget
from kmind.runtime.holds.grants import Granted, shown
from kmind.runtime.holds.holds import Holds
from kmind.runtime.instance.notes import parse_note
from kmind.runtime.service import Service
from kmind.runtime.services import Services
from kmind.util.ratelimit import Bucket

__all__ = ["Judge", "Verdicts"]

_NO_ROOM = "the extension has used up its share of its owner's time"


class Judge(Protocol):
    """Decides what becomes of what an agent let through, as `Experiments` does."""

    def approved(
        self, granted: Granted, action: Action, reason: str, evidence: Mapping[str, Any], /
    ) -> None:
        """Measure, apply or refuse what was approved."""

    def renewed(self, granted: Granted, action: Action, /) -> None:
        """Hold on to what was recommended again."""


class Verdicts(Service):
    """Takes the verdicts on one instance's recommendations.

    ``last_id`` is the highest id of a recommendation so far. ``name_of`` names who has
    a slot; ``now`` is in seconds.
    """

    def __init__(
        self,
        who: str,
        services: Services,
        holds: Holds,
        judge: Judge,
        budget: OwnerBudget,
    ) -> None:
        self.last_id = 0
        self.halted = False
        self._who = who
        self._holds = holds
        self._judge = judge
        self._emit = services.emit
        self._budget = budget
        self._name_of = services.name_of
        # An extension may recommend as often as it likes: not all of it is told.
        self._rate = Bucket(services.now, rate=100, burst=200)

    def handle(self, action: Action) -> None:
        """Tell of one, and do what was approved unless ``halted``. JournalError passes through.

        Where the extension's budget has no room, nothing is told, and nothing done.
        """
        self.last_id = max(self.last_id, action.id)
        room = self._budget.room
        with self._budget.spend("actions"):
            if room:
                self._follow(action)
            elif (
                action.verdict == Verdict.APPROVED
                and not self.halted
                and (granted := self._holds.knobs.get(action.knob, action.target))
            ):
                self._holds.refuse(granted, action.id, KmindError(_NO_ROOM))

    def _follow(self, action: Action) -> None:
        granted = self._holds.knobs.get(action.knob, action.target)
        reason, evidence = parse_note(action.note)
        verdict = action.verdict or Verdict.PENDING
        fields: dict[str, Any] = {
            "instance": self._who,
            "id": action.id,
            "verdict": verdict.name.lower(),
            "knob": granted.knob.name if granted else action.knob,
            "value": shown(granted, action.value),
            "current": shown(granted, action.current),
            "reason": reason,
            "evidence": evidence,
        }
        if verdict == Verdict.LEASE:
            fields["holder"] = self._name_of(action.holder)
        if self._rate.allow():
            self._emit(events.Verdict(**fields))
        if granted is None or self.halted:
            return
        if verdict == Verdict.ADVISED:
            command = granted.knob.set_command(granted.target, str(fields["value"]))
            if self._rate.allow():
                self._emit(events.Advice(**fields, command=command))
        elif verdict == Verdict.RENEWED:
            self._judge.renewed(granted, action)
        elif verdict == Verdict.APPROVED:
            self._judge.approved(granted, action, reason, evidence)
