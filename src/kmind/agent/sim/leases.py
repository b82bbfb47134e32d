# SPDX-License-Identifier: Apache-2.0
"""The leases of simulated agents, as ``kmind/lease.h`` and the core object decide them.

A property test compares both: change them together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from kmind.abi import layout
from kmind.errors import KmindError

__all__ = ["Place", "SimLeases", "Taken"]

_PLACES = layout.LIMIT["LEASES"]
_SLACK_MS = layout.LIMIT["LEASE_SLACK_MS"]
_VERDICT = layout.VERDICT
_MS = 1_000_000


@dataclass(eq=False)
class Place:
    """One ``struct kmind_lease``; a place that is taken back is never given out again."""

    users: set[int] = field(default_factory=set)
    holder: int = 0
    priority: int = 0
    expires_ms: int = 0
    denied: int = 0


class Taken(NamedTuple):
    """Answer to a request: APPROVED, or why not; who holds it now, and who did; 0: nobody."""

    verdict: int
    holder: int
    previous: int


class SimLeases:
    """Leases that the agents of one machine share.

    Times are in nanoseconds of the agents' clock.
    """

    def __init__(self) -> None:
        self._places: dict[tuple[int, int], Place] = {}

    def place(self, slot: int, knob: int, target: int) -> Place:
        """Reserve a place for a slot that is granted the knob; KmindError if there is no room."""
        place = self._places.get((knob, target))
        if place is None:
            if len(self._places) >= _PLACES:
                raise KmindError(f"no room for one more lease: {_PLACES} are granted")
            place = self._places[knob, target] = Place()
        place.users.add(slot)
        return place

    def leave(self, slot: int, knob: int, target: int) -> None:
        """A slot is granted the knob no more."""
        if place := self._places.get((knob, target)):
            place.users.discard(slot)
            self._tidy(knob, target)

    def leave_all(self, slot: int) -> None:
        """A slot is gone, with its leases."""
        for (knob, target), place in list(self._places.items()):
            self.release(slot, knob, target)
            place.users.discard(slot)
            self._tidy(knob, target)

    def release(self, slot: int, knob: int, target: int) -> bool:
        """Give one back; whether it was that slot's."""
        place = self._places.get((knob, target))
        if place is None or not slot or place.holder != slot:
            return False
        place.holder = place.priority = place.expires_ms = 0
        self._tidy(knob, target)
        return True

    def held(self, slot: int, place: Place | None, now_ns: int) -> bool:
        """True if a slot holds the lease now, not only in the past."""
        return (
            place is not None
            and self._is_known(place)
            and slot != 0
            and place.holder == slot
            and place.expires_ms > now_ns // _MS
        )

    def acquire(
        self, slot: int, place: Place | None, priority: int, hold_ms: int, now_ns: int
    ) -> Taken:
        """Take one, or hold on to it."""
        if place is None or not self._is_known(place):
            return Taken(_VERDICT["ROOM"], 0, 0)
        now_ms, holder = now_ns // _MS, place.holder
        if not (holder in (0, slot) or place.expires_ms <= now_ms or place.priority < priority):
            place.denied += 1
            return Taken(_VERDICT["LEASE"], holder, 0)
        until = now_ms + hold_ms + _SLACK_MS
        if holder == slot:
            until = max(until, place.expires_ms)
        place.holder, place.priority, place.expires_ms = slot, priority, until
        return Taken(_VERDICT["APPROVED"], slot, holder if holder != slot else 0)

    def _is_known(self, place: Place) -> bool:
        return any(taken is place for taken in self._places.values())

    def _tidy(self, knob: int, target: int) -> None:
        place = self._places[knob, target]
        if not place.users and not place.holder:
            del self._places[knob, target]
