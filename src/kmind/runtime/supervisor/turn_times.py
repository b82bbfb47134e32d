# SPDX-License-Identifier: Apache-2.0
"""Time that the owner's thread spends between two waits, as the owner itself keeps it.

While a turn lasts, nobody else is heard: no approval is carried out and no emergency is dealt
with. So turns are counted by their length, in classes whose ends are 9% apart:
enough for percentiles, and of one size however long the daemon runs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["CLASSES", "TurnTimes", "class_of", "quantile", "upper_ms"]

_STEPS = 8  # classes for each doubling: their ends are 9% apart
_FIRST_S = 1e-5
CLASSES = 8 * 24
"""Number of classes: from 10 us to 168 s."""


def class_of(seconds: float) -> int:
    """The class that a length falls into; what is shorter or longer falls into the outer ones."""
    if seconds <= _FIRST_S:
        return 0
    return min(math.ceil(_STEPS * math.log2(seconds / _FIRST_S)), CLASSES - 1)


def upper_ms(index: int) -> float:
    """The upper end of a class, in milliseconds."""
    return 1e3 * _FIRST_S * float(2 ** (index / _STEPS))


def quantile(counts: Mapping[int, int], share: float) -> float:
    """The upper end, in ms, of the class that holds that share of all turns; 0 of none."""
    wanted = share * sum(counts.values())
    seen = 0
    for index in sorted(counts):
        seen += counts[index]
        if counts[index] and seen >= wanted:
            return upper_ms(index)
    return 0.0


class TurnTimes:
    """Lengths of turns: ``begin`` after each wait, ``end`` before the next.

    A turn with a change that somebody had asked for, such as loading, is ``marked`` and
    counted apart: it takes what that takes. For one thread; ``describe`` may be called from any.
    """

    def __init__(
        self,
        now: Callable[[], float] = time.perf_counter,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        self._now = now
        self._cpu = cpu
        self._began: tuple[float, float] | None = None
        self._marked = False
        self._own, self._own_cpu = _Kept(), _Kept()
        self._asked, self._asked_cpu = _Kept(), _Kept()

    def mark(self) -> None:
        """A change that was asked for is part of this turn."""
        self._marked = True

    def begin(self) -> None:
        """A wait is over."""
        self._began = self._now(), self._cpu()

    def end(self) -> None:
        """The turn is over; nothing where none had begun."""
        if self._began is None:
            return
        took, cpu = self._now() - self._began[0], self._cpu() - self._began[1]
        self._began = None
        kept = (self._asked, self._asked_cpu) if self._marked else (self._own, self._own_cpu)
        kept[0].add(took)
        kept[1].add(cpu)
        self._marked = False

    def describe(self) -> dict[str, Any]:
        """All turns so far, lengths in milliseconds; JSON can hold it.

        ``counts`` has the number of turns by class, whose end ``upper_ms`` tells. ``cpu`` has the
        same by the thread's CPU time: what it waited for a processor is not in it. Turns that were
        marked stand in ``asked``, in the same fields.
        """
        asked = self._asked.describe() | {"cpu": self._asked_cpu.describe()}
        return self._own.describe() | {"cpu": self._own_cpu.describe(), "asked": asked}


class _Kept:
    def __init__(self) -> None:
        self._counts = [0] * CLASSES
        self._longest_s = 0.0
        self._longest_at = 0.0
        self._total_s = 0.0

    def add(self, took: float) -> None:
        self._counts[class_of(took)] += 1
        self._total_s += took
        if took > self._longest_s:
            self._longest_s, self._longest_at = took, time.time()

    def describe(self) -> dict[str, Any]:
        counts = {index: count for index, count in enumerate(list(self._counts)) if count}
        return {
            "turns": sum(counts.values()),
            "total_s": round(self._total_s, 6),
            "p50_ms": round(quantile(counts, 0.5), 3),
            "p99_ms": round(quantile(counts, 0.99), 3),
            "max_ms": round(1e3 * self._longest_s, 3),
            "max_at": self._longest_at,
            "counts": {str(index): count for index, count in counts.items()},
        }
