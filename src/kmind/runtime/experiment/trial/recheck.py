# SPDX-License-Identifier: Apache-2.0
"""Schedule new measurements of kept values, by the time that each has been in place.

A value's clock runs while the value is in place, and stops while it is not. So nothing postpones
the measurement: not a release followed by a renewal, not another recommendation, not a measurement
that was cut short.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kmind.evidence import Design, Experiment
from kmind.knobs import Value
from kmind.runtime.experiment.case import Case
from kmind.runtime.experiment.exploring import level_class

__all__ = ["MOST_CUTS", "RecheckClock", "RecheckClocks", "Seen"]

MOST_CUTS = 4
"""Limit of rechecks cut off in a row; then the value goes."""

_LONGEST_S = 3600.0
_MOST_HALVED = 2  # as measuring costs something, too
_MOST = 256

_Key = tuple[int, int]


@dataclass(frozen=True)
class Seen:
    """The load under a value that stands: its classes in words, and the levels of the outcomes."""

    classes: str
    levels: Mapping[str, float]


@dataclass
class RecheckClock:
    """Time in place since a value was measured, and its limit, in seconds.

    ``first_s`` is the limit under another load. ``loads`` are the owner's names of the loads that
    it was measured under, as seen under the value itself, and ``levels`` the classes that its
    outcome's level was in. ``cuts`` counts the measurements cut short since; the last one left
    ``pieces``.
    """

    case: Case
    pause_s: float
    first_s: float
    stood_s: float = 0.0
    cuts: int = 0
    loads: set[str] = field(default_factory=set)
    levels: set[int] = field(default_factory=set)
    pieces: dict[str, Any] | None = None

    def knows(self, seen: Seen) -> bool:
        """True if it was measured under such a load, or if none is known yet."""
        level = self._level(seen)
        near = level is None or not self.levels or min(abs(level - n) for n in self.levels) <= 1
        return near and (not self.loads or seen.classes in self.loads)

    def learn_one(self, seen: Seen) -> None:
        """Add a load that it was measured under."""
        self.loads.add(seen.classes)
        level = self._level(seen)
        self.levels |= set() if level is None else {level}

    def _level(self, seen: Seen) -> int | None:
        level = seen.levels.get(self.case.outcome.name)
        return level_class(level) if level else None

    def go_on(self, case: Case, design: Design, rng: np.random.Generator) -> Experiment | None:
        """Return the experiment that was cut short, to be continued, if its design is unchanged."""
        pieces = self.pieces
        if not pieces or pieces["case"] != _question(case) or pieces["design"] != design.to_dict():
            return None
        return Experiment.go_on(pieces, rng)

    @property
    def owed(self) -> bool:
        """True if a new measurement is due."""
        return self.stood_s >= self.pause_s


class RecheckClocks:
    """The clocks of one instance's values, by knob and target and by value.

    ``first_s`` is how long a value may stand until it is measured again: half of that if it was
    refuted before, a quarter if twice. A value that was kept in place of another goes on with the
    time of that one, for together they stand instead of the baseline. Of more than 256 those go
    that have stood the shortest.
    """

    def __init__(self, first_s: float) -> None:
        self.first_s = first_s
        self._clocks: dict[tuple[_Key, Value], RecheckClock] = {}
        self._refuted: dict[tuple[_Key, Value], int] = {}
        self._at: float | None = None
        self._standing: list[tuple[_Key, Value]] = []

    def tick(self, now: float, standing: Iterable[tuple[_Key, Value]]) -> None:
        """Credit the time since the last call to the values in place until now.

        ``standing`` are next.
        """
        passed = 0.0 if self._at is None else max(0.0, now - self._at)
        for key in self._standing:
            if clock := self._clocks.get(key):
                clock.stood_s += passed
        self._at, self._standing = now, [key for key in standing if key in self._clocks]

    def get(self, key: _Key, value: Value) -> RecheckClock | None:
        """The clock of a value, if it has one."""
        return self._clocks.get((key, value))

    def kept(self, case: Case, seen: Seen | None, *, again: bool) -> None:
        """A value was kept; ``seen`` is its blocks' load. ``again``: it stood before."""
        clock = self._clocks.get((case.granted.key, case.candidate)) if again else None
        if clock is None:
            self.proven(case)
        else:
            self.confirmed(clock, seen)

    def proven(self, case: Case) -> None:
        """A value was measured to be better: its clock begins."""
        self._put(case)

    def recalled(self, case: Case) -> None:
        """A value stands as it did before; a clock that it has goes on."""
        if (case.granted.key, case.candidate) not in self._clocks:
            self._put(case)

    def _put(self, case: Case) -> None:
        key = (case.granted.key, case.candidate)
        first_s = self.first_s / 2 ** self._refuted.get(key, 0)
        below = self._clocks.get((case.granted.key, case.incumbent))
        clock = RecheckClock(case, first_s, first_s, min(below.stood_s, first_s) if below else 0.0)
        self._clocks.pop(key, None)
        if len(self._clocks) >= _MOST:
            del self._clocks[min(self._clocks, key=lambda key: self._clocks[key].stood_s)]
        self._clocks[key] = clock
        self._standing.append(key)

    def confirmed(self, clock: RecheckClock, seen: Seen | None) -> None:
        """It was measured again, and stays: for twice as long, up to an hour."""
        clock.pause_s = min(2 * clock.pause_s, _LONGEST_S)
        clock.stood_s, clock.cuts, clock.pieces = 0.0, 0, None
        if seen is not None:
            clock.learn_one(seen)

    def refuted(self, case: Case) -> None:
        """It was measured again, and goes."""
        key = (case.granted.key, case.candidate)
        self._clocks.pop(key, None)
        times = self._refuted.pop(key, 0) + 1
        if len(self._refuted) >= _MOST:
            del self._refuted[next(iter(self._refuted))]
        self._refuted[key] = min(times, _MOST_HALVED)

    def cut(self, case: Case, pieces: dict[str, Any]) -> bool:
        """A measurement was cut off: it is due again at once. Whether that was the last one."""
        clock = self._clocks.get((case.granted.key, case.candidate))
        if clock is None:
            return True
        clock.cuts += 1
        clock.stood_s = max(clock.stood_s, clock.pause_s)
        clock.pieces = pieces | {"case": _question(case)}
        return clock.cuts >= MOST_CUTS

    def under(self, key: _Key, value: Value, seen: Seen) -> None:
        """The load is now so, under a value that stands: a new one asks for a measurement soon."""
        clock = self._clocks.get((key, value))
        if clock is None:
            return
        if not clock.knows(seen):
            clock.pause_s = min(clock.pause_s, clock.first_s)
        elif not clock.loads:
            clock.learn_one(seen)

    def clear(self) -> None:
        """Forget all: nothing stands in this mode."""
        self._clocks.clear()
        self._standing = []


def _question(case: Case) -> list[Any]:
    sides = [side.to_dict() for side in case.sides]
    return [case.incumbent, case.candidate, case.outcome.name, sides]
