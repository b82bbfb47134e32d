# SPDX-License-Identifier: Apache-2.0
"""From the ring that all agents share to the instances: whose action it is, and whose turn.

The kernel side decides who holds a lease, by compare-and-exchange; here its decisions
are only followed, in the order in which they were made. What an earlier holder has set
is put back before the next one's change is applied, so the first value is never lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import chain
from operator import attrgetter
from typing import Any

from msgspec.structs import replace

from kmind import events
from kmind.agent.core.core import Core
from kmind.agent.types import Action, Mode, Verdict
from kmind.errors import KmindError
from kmind.events import Advice, Event
from kmind.knobs import Target, all_knobs, block_targets, get_knob
from kmind.runtime.holds.holds import Holds
from kmind.runtime.supervisor.advice import AdviceStore
from kmind.runtime.supervisor.member import Member
from kmind.runtime.supervisor.operator import ADMIN
from kmind.util.ratelimit import Bucket

__all__ = ["Arbiter"]

_REFUSED = frozenset(verdict.name.lower() for verdict in Verdict) - {
    "pending",
    "approved",
    "renewed",
    "shadowed",
    "advised",
}


class Arbiter:
    """Hands out actions, and takes down what is advised. ``log`` is told of trouble."""

    def __init__(
        self,
        core: Core,
        members: Mapping[str, Member],
        advice: AdviceStore,
        log: Callable[[str], None],
    ) -> None:
        self._core = core
        self._members = members
        self._advice = advice
        self._log = log
        self._complaints = Bucket(time.monotonic, rate=0.1, burst=3)

    def collect(self) -> list[tuple[str, list[Action]]]:
        """Return the actions from the ring, by instance, in the order of the decisions.

        Actions of an instance that stalled meanwhile come as one, so that none of them is carried
        out.
        """
        by_slot = self._core.actions.poll(0)
        if not by_slot:
            return []
        actions = sorted(chain.from_iterable(by_slot.values()), key=attrgetter("time_ns"))
        names = {member.slot: name for name, member in self._members.items()}
        stalled = {a.instance for a in actions if a.kind == "mode" and a.mode == Mode.EMERGENCY}
        groups: list[tuple[int, list[Action]]] = []
        together: dict[int, list[Action]] = {}
        for action in actions:
            slot = action.instance
            if slot in together:
                together[slot].append(action)
                continue
            group = [action]
            groups.append((slot, group))
            if slot in stalled:
                together[slot] = group
        lost = sum(len(group) for slot, group in groups if slot not in names)
        if lost:
            self._log(f"{lost} actions belong to no loaded instance, and are dropped")
        return [(names[slot], group) for slot, group in groups if slot in names]

    def carry_out(self, member: Member, actions: list[Action]) -> None:
        """Let an instance do what was said, once nobody else holds what it is about."""
        if len(actions) == 1 and actions[0].verdict == Verdict.APPROVED:
            try:
                self._clear_the_way(member, actions[0])
            except KmindError as error:
                _refuse(member.instance.holds, actions[0], str(error))
                return
        member.instance.handle(actions)

    def _clear_the_way(self, member: Member, action: Action) -> None:
        holder = self._holder(action.knob, action.target)
        if holder not in (0, member.slot):
            raise KmindError(f"the lease has gone to {self.name_of(holder)} meanwhile")
        for other in list(self._members.values()):
            if other is not member and other.instance.holds.holding(action.knob, action.target):
                other.instance.holds.hand_over(action.knob, action.target, member.instance.name)

    def name_of(self, slot: int) -> str:
        """Return the name of a slot's holder."""
        for name, member in self._members.items():
            if member.slot == slot:
                return name
        known = {instance.slot: instance.name for instance in self._core.instances()}
        return "the admin" if known.get(slot) == ADMIN else known.get(slot, f"slot {slot}")

    def reconcile(self, before_ns: int) -> None:
        """Tell the instances what was approved before that time and is not in force.

        An owner that was killed had read it from the ring, and came no further.
        """
        names = {member.slot: member for member in self._members.values()}
        for (knob, target), approved in self._core.approvals.all().items():
            member = names.get(approved.instance)
            if member and approved.time_ns < before_ns:
                why = "the daemon was killed before it could be applied"
                holds = member.instance.holds
                granted = holds.knobs.get(knob, target)
                if granted is not None and not holds.is_current(granted, approved.value):
                    holds.refuse(granted, approved.id, KmindError(why))
                    self._core.approvals.disapprove(knob, target, approved.instance)

    def _holder(self, knob: int, target: int) -> int:
        lease = self._core.leases.get(knob, target)
        return lease.slot if lease and lease.expires_s > time.monotonic() else 0

    def leases(self) -> list[dict[str, Any]]:
        """Leases that are held, in words; ``expires_s`` is the time left."""
        knobs = {knob.id: knob.name for knob in all_knobs()}
        targets = {place.id: place.name for place in [Target.system(), *block_targets()]}
        now = time.monotonic()
        return [
            {
                "knob": knobs.get(lease.knob, str(lease.knob)),
                "target": targets.get(lease.target, str(lease.target)),
                "holder": self.name_of(lease.slot),
                "priority": lease.priority,
                "expires_s": round(lease.expires_s - now, 3),
            }
            for lease in self._core.leases.all()
            if lease.expires_s > now
        ]

    def note(self, event: Event) -> Event:
        """Take down advice, and what was refused; the event, with the number of the advice."""
        if isinstance(event, Advice):
            number = self._note(event, event.command)
            return replace(event, advice=str(number)) if number else event
        if isinstance(event, events.Verdict) and event.verdict in _REFUSED:
            self._note(event, "")
        return event

    def _note(self, event: Advice | events.Verdict, command: str) -> int | None:
        if not isinstance(event.knob, str):
            return None
        try:
            return self._advice.note(
                instance=event.instance,
                knob=event.knob,
                target=_target(event.knob, event.instance),
                value=event.value,
                current=event.current,
                verdict=event.verdict,
                reason=event.reason,
                evidence=event.evidence,
                command=command,
                rec_id=event.id,
            )
        except KmindError as error:
            if self._complaints.allow():
                self._log(str(error))
            return None


def _refuse(holds: Holds, action: Action, why: str) -> None:
    if granted := holds.knobs.get(action.knob, action.target):
        holds.refuse(granted, action.id, KmindError(why))


def _target(knob: str, instance: str) -> str:
    # An instance on a disk may move a knob of the system too.
    return "system" if get_knob(knob).target == "system" else instance.partition("@")[2]
