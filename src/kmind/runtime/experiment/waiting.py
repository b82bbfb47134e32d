# SPDX-License-Identifier: Apache-2.0
"""Approved values that wait for their turn, as something is measured or no time is left."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from kmind.agent.types import Action
from kmind.errors import KmindError
from kmind.runtime.experiment.case import Pending
from kmind.runtime.holds.grants import Granted
from kmind.runtime.holds.trial_holds import TrialHolds

__all__ = ["Waiting"]

_Key = tuple[int, int]


class Waiting:
    """Approved values, one a knob at most; each waits for as long as it was to stand.

    ``turn`` says in a word what each waits for, "measured" or "set". Whoever recommended what goes
    without its turn is told by ``holds``. ``now`` is in seconds.
    """

    def __init__(self, holds: TrialHolds, now: Callable[[], float], turn: str) -> None:
        self._holds = holds
        self._now = now
        self._turn = turn
        self._waiting: dict[_Key, Pending] = {}

    def __iter__(self) -> Iterator[Pending]:
        return iter(list(self._waiting.values()))

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def until(self) -> float:
        """Time when the first of them has waited for too long, in seconds; infinity for none."""
        return min((granted.until for granted in self), default=math.inf)

    def add(self, pending: Pending) -> None:
        """Have a value wait, in place of another one for its knob."""
        self._waiting[pending.granted.key] = pending

    def pop(self, key: _Key) -> Pending | None:
        """Have a knob's value wait no longer, as its turn has come or it was settled otherwise."""
        return self._waiting.pop(key, None)

    def get(self, key: _Key) -> Pending | None:
        """Return the value that waits for a knob."""
        return self._waiting.get(key)

    def renew(self, granted: Granted, action: Action) -> bool:
        """Have a value wait for longer if it is the one that was recommended again."""
        pending = self._waiting.get(granted.key)
        if pending is None or pending.action.value != action.value:
            return False
        pending.action = action
        pending.until = max(pending.until, self._now() + self._holds.hold_s(action))
        return True

    def expire(self) -> None:
        """Refuse what has waited for too long."""
        why = f"it was not renewed before it could be {self._turn}"
        for pending in self:
            if self._now() >= pending.until:
                self._refuse(pending, why)

    def refuse(self, why: str) -> None:
        """Refuse all."""
        for pending in self:
            self._refuse(pending, why)

    def _refuse(self, pending: Pending, why: str) -> None:
        if self._waiting.pop(pending.granted.key, None) is not None:
            self._holds.refuse(pending.granted, pending.action.id, KmindError(why))

    def pass_over(self, why: str, key: _Key | None = None) -> None:
        """Tell that a knob's value, or all, are not done, as something else is."""
        for pending in self:
            own = pending.granted.key
            if key in (None, own) and self._waiting.pop(own, None) is not None:
                self._holds.pass_over(pending.granted, pending.action.id, why)
