# SPDX-License-Identifier: Apache-2.0
"""Which value to try next: the phase's first guess, then the neighbours of what stands."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["AGAIN_S", "Ladder"]

AGAIN_S = 600.0
"""What helped nothing is worth another try after that long, in seconds."""

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
        self._tried: dict[int, float] = {}
        self._went_up = up

    def next(self, standing: int, now: float) -> Iterator[int]:
        """Values worth trying against what stands, the most promising one first."""
        for value in self._all(standing):
            value = min(max(value, self._minimum), self._maximum) // self._grid * self._grid
            fits = max(self._minimum, 1) <= value != standing
            again = now >= self._tried.get(value, float("-inf")) + AGAIN_S
            if fits and again and not (self._up and value < standing):
                yield value

    def _all(self, standing: int) -> Iterator[int]:
        if self.best is not None:
            yield self.best
        yield self._first
        for factor in self._factors:
            steps = (standing * factor, standing // factor)
            yield from steps if self._went_up else steps[::-1]

    def kept(self, value: int, before: int, now: float) -> None:
        """It was measured to be better than the one before."""
        self.best, self._went_up = value, value > before
        self._tried[before] = now
        self._tried.pop(value, None)

    def tried(self, value: int, now: float) -> None:
        """It did not help."""
        self._tried[value] = now
        if self.best == value:
            self.best = None
