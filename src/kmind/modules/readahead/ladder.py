# SPDX-License-Identifier: Apache-2.0
"""Choose the next value to try: the phase's first guess, then neighbours of the current value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["AGAIN_S", "LONGEST_S", "Ladder"]

AGAIN_S = 600.0
"""Seconds until a useless value is tried again; doubled each time."""

LONGEST_S = 86400.0
"""The longest that it waits for another try, in seconds."""

_FACTORS = (4, 2)  # coarse steps first


class Ladder:
    """The values of one phase. ``first`` is tried first; ``up`` allows only larger ones.

    All lie from ``minimum`` to ``maximum``, and are multiples of ``grid``. Without
    ``search`` there is no other than the first.
    """

    def __init__(
        self,
        first: int,
        minimum: int,
        maximum: int,
        *,
        grid: int = 1,
        up: bool = False,
        search: bool = True,
    ) -> None:
        self.best: int | None = None
        self._first = first
        self._minimum = minimum
        self._maximum = maximum
        self._grid = max(grid, 1)
        self._up = up
        self._factors = _FACTORS if search else ()
        self._tried: dict[int, tuple[float, float]] = {}  # since when, and for how long
        self._went_up = up

    def next(self, standing: int, now: float, guess: int | None = None) -> Iterator[int]:
        """Values worth trying against the current one, the most promising one first.

        That is the best so far, then ``guess``, if there is one.
        """
        for value in self._all(standing, guess):
            value = min(max(value, self._minimum), self._maximum) // self._grid * self._grid
            fits = max(self._minimum, 1) <= value != standing
            since, pause = self._tried.get(value, (now, 0.0))
            if fits and now >= since + pause and not (self._up and value < standing):
                yield value

    def _all(self, standing: int, guess: int | None) -> Iterator[int]:
        for likely in (self.best, guess):
            if likely is not None:
                yield likely
        yield self._first
        for factor in self._factors:
            steps = (standing * factor, standing // factor)
            yield from steps if self._went_up else steps[::-1]

    def kept(self, value: int, before: int, now: float) -> None:
        """It was measured to be better than the one before."""
        self.best, self._went_up = value, value > before
        self._tried[before] = now, AGAIN_S
        self._tried.pop(value, None)

    def tried(self, value: int, now: float) -> None:
        """It did not help."""
        _, pause = self._tried.get(value, (0.0, AGAIN_S / 2))
        self._tried[value] = now, min(2 * pause, LONGEST_S)
        if self.best == value:
            self.best = None

    def to_memory(self, now: float) -> dict[str, Any]:
        """Return the state as plain JSON: the best value, and how long the others have to wait.

        Only time in which the extension runs counts, so that no clock has to outlive it.
        """
        tried = [[v, now - since, pause] for v, (since, pause) in self._tried.items()]
        return {"best": self.best, "tried": tried}

    def recall(self, memory: Any, now: float) -> None:
        """Take what ``to_memory`` gave; what is not like that is left out."""
        if not isinstance(memory, dict):
            return
        best, tried = memory.get("best"), memory.get("tried")
        if isinstance(best, int) and self._minimum <= best <= self._maximum:
            self.best = best
        for row in tried if isinstance(tried, list) else ():
            if not (isinstance(row, list) and len(row) == 3):
                continue
            value, waited, pause = row
            if isinstance(value, int) and all(isinstance(s, int | float) for s in (waited, pause)):
                self._tried[value] = now - max(waited, 0.0), min(max(pause, 0.0), LONGEST_S)
