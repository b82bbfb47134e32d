# SPDX-License-Identifier: Apache-2.0
"""Phases of the load, told apart by what the agent sees; each has a search of its own.

What describes a phase should not be what the knobs move: so not how large requests are,
but how many of them read, how often they are flushed, and by their order how many there are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kmind.extension import Noise

from .search import Search
from .space import Codes

__all__ = ["MOST_PHASES", "Phase", "Place", "Watch", "place_of"]

Place = npt.NDArray[np.float64]
"""Coordinates of a load: activity, shares of reads and of flushes, and memory pressure."""

MOST_PHASES = 16
"""Limit of phases; a load that comes later belongs to the nearest."""

_APART = 0.4  # a load that far from a phase is another one
_DWELL_S = 3.0  # and so long
_LOOK_S = 1.0
_FOLLOWS = 0.1
_IDLE = 5.0  # requests a second of which nothing is concluded


@dataclass
class Phase:
    """State of one phase: ``best`` are its best values, ``gain`` is their log gain."""

    place: Place
    search: Search
    best: Codes
    gain: float = 0.0
    tries: int = 0
    recheck_at: float = math.inf
    pause_s: float = 0.0
    began: float = 0.0
    converged_s: float | None = None
    noise: Noise = field(default_factory=Noise)

    @property
    def proven(self) -> bool:
        """True if ``best`` has beaten the baseline again since it was found."""
        return self.pause_s > 0

    def learn_noise(self, noise: Noise) -> None:
        """Keep what a comparison knew of the noise, if it knew enough."""
        if noise.sigma is not None:
            self.noise = noise


class Watch:
    """Classifies the load's phase: 0, 1, 2... ``current`` is None before the first look."""

    def __init__(self, columns: Mapping[str, int]) -> None:
        self.places: list[Place] = []
        self.current: int | None = None
        self._columns = columns
        self._sums = np.zeros(len(columns))
        self._seconds = 0.0
        self._other: int | None = None
        self._other_s = 0.0

    def learn(self, windows: npt.NDArray[np.void]) -> bool:
        """Take windows; whether the phase has changed. A new one is the last of ``places``."""
        for window in windows:
            seconds = (int(window["end_ns"]) - int(window["start_ns"])) / 1e9
            if not 0 < seconds < 60:
                continue
            self._sums += window["value"][: len(self._sums)].astype(float)
            self._seconds += seconds
        if self._seconds < _LOOK_S:
            return False
        place, seconds = self._place(), self._seconds
        self._sums[:] = 0
        self._seconds = 0.0
        return self._go(place, seconds)

    def _go(self, place: Place, seconds: float) -> bool:
        nearest = self._nearest(place)
        if self.current is None and (nearest is None or not self.places):
            return self._enter(None, place)
        if nearest is not None and nearest == self.current:
            self.places[nearest] += _FOLLOWS * (place - self.places[nearest])
            self._other_s = 0.0
            return False
        if self.current is None:
            return self._enter(nearest, place)
        self._other_s = self._other_s + seconds if nearest == self._other else seconds
        self._other = nearest
        return self._other_s >= _DWELL_S and self._enter(nearest, place)

    def _enter(self, phase: int | None, place: Place) -> bool:
        if phase is None:
            self.places.append(place)
            phase = len(self.places) - 1
        self.current, self._other_s = phase, 0.0
        return True

    def _nearest(self, place: Place) -> int | None:
        if not self.places:
            return None
        distances = [float(np.linalg.norm(place - other)) for other in self.places]
        nearest = int(np.argmin(distances))
        full = len(self.places) >= MOST_PHASES
        return nearest if full or distances[nearest] <= _APART else None

    def _place(self) -> Place:
        def rate(name: str) -> float:
            return float(self._sums[self._columns[name]]) / self._seconds

        requests, flushes = rate("requests"), rate("flushes")
        if requests < _IDLE:
            return np.array([0.0, 0.5, 0.0, math.log10(1 + rate("reclaims")) / 4])
        return np.array(
            [
                0.5 + math.log10(requests) / 8,
                rate("reads") / requests,
                min(1.0, 2 * flushes / (requests + flushes)),
                math.log10(1 + rate("reclaims")) / 4,
            ]
        )


def place_of(words: Any) -> Place | None:
    """Read a place that was remembered; None if this is none."""
    try:
        place = np.array(words, float)
    except (TypeError, ValueError):
        return None
    return place if place.shape == (4,) and np.isfinite(place).all() else None
