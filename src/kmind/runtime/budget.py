# SPDX-License-Identifier: Apache-2.0
"""Account for and limit the owner's time that an extension costs: one budget for all of it.

A printed line costs an extension next to nothing, and its owner far more. So all the work that an
extension can cause (reading its log, its recommendations with their notes, its reports, its memory
and its status) is measured on the owner's thread and paid from one bucket, as CPU time of a cgroup
is: work beyond it waits or is refused, and an extension that has nothing left for most of the time
has exceeded a limit.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

__all__ = ["OWNER_SHARE", "Cost", "OwnerBudget"]

OWNER_SHARE = 0.05
"""Of the owner's time, in seconds a second: a tenth of what an extension may use by default."""

Cost = Literal["log", "actions", "reports", "memory", "status"]
"""Kinds of work that an extension causes its owner."""

_BURST_S = 1.0
# What has to be there again before anything is done: not to wake up for each microsecond.
_QUANTUM_S = 0.005
_WINDOW_S = 5.0
_SHORT_SHARE = 0.5


class OwnerBudget:
    """The budget of one extension. One thread, whose CPU time is ``cpu``; ``now`` in seconds."""

    def __init__(
        self, now: Callable[[], float], *, cpu: Callable[[], float] = time.thread_time
    ) -> None:
        self._now = now
        self._cpu = cpu
        self._left_s = _BURST_S
        self._at = now()
        self._short_since: float | None = None
        self._short_s = 0.0
        self._seen: deque[tuple[float, float]] = deque()
        self._counts = {"log_lines": 0, "log_bytes": 0, "reports": 0, "memory_writes": 0}
        self._seconds: dict[Cost, float] = dict.fromkeys(
            ("log", "actions", "reports", "memory", "status"), 0.0
        )

    @contextmanager
    def spend(self, cost: Cost, *, waiting: bool = False) -> Iterator[None]:
        """Measure what is done within, and take it off; ``waiting`` counts waits for a disk too."""
        clock = self._now if waiting else self._cpu
        began = clock()
        try:
            yield
        finally:
            took = max(0.0, clock() - began)
            self._seconds[cost] += took
            self._left_s -= took

    def count(self, name: str, more: int) -> None:
        """Count ``log_lines``, ``log_bytes``, ``reports`` or ``memory_writes``."""
        self._counts[name] += more

    @property
    def room(self) -> bool:
        """True if the budget allows more work for the extension now."""
        now = self._now()
        self._left_s = min(_BURST_S, self._left_s + (now - self._at) * OWNER_SHARE)
        self._at = now
        if self._short_since is None:
            if self._left_s <= 0:
                self._short_since = now
        elif self._left_s >= _QUANTUM_S:
            self._short_s += now - self._short_since
            self._short_since = None
        return self._short_since is None

    @property
    def wait_s(self) -> float:
        """Seconds until the budget allows work again."""
        return 0.0 if self.room else (_QUANTUM_S - self._left_s) / OWNER_SHARE

    def exceeded(self) -> str:
        """In words, if there was no room in more than half of the last 5 s, else "".

        To be called now and then, about once a second: it is judged from call to call.
        """
        now, short = self._now(), self._short()
        self._seen.append((now, short))
        while len(self._seen) > 1 and self._seen[1][0] <= now - _WINDOW_S:
            self._seen.popleft()
        then, before = self._seen[0]
        share = (short - before) / (now - then) if now - then >= _WINDOW_S else 0.0
        if share <= _SHORT_SHARE:
            return ""
        most = max(self._seconds, key=lambda cost: self._seconds[cost])
        return (
            f"exceeded a limit: owner: for {share:.0%} of the last {now - then:.0f} s it wanted "
            f"more than {OWNER_SHARE:.0%} of kmind's own time, most of it for its {most}"
        )

    def account(self) -> dict[str, int]:
        """Return the cost so far: ``owner_us``; ``owner_short_ms``, the time without room.

        Also counts.
        """
        return {
            "owner_us": round(sum(self._seconds.values()) * 1e6),
            "owner_short_ms": round(self._short() * 1e3),
            **self._counts,
        }

    def _short(self) -> float:
        # The time without room, up to now.
        if self.room or self._short_since is None:
            return self._short_s
        return self._short_s + self._now() - self._short_since
