# SPDX-License-Identifier: Apache-2.0
"""A token bucket: so many a second in the long run, so many at once."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Bucket"]


class Bucket:
    """Lets ``rate`` things a second through in the long run, ``burst`` at once.

    A clock that is set back costs nothing but the time that it is set back by.
    """

    def __init__(self, now: Callable[[], float], rate: float, burst: int) -> None:
        self._now = now
        self._rate = rate
        self._burst = burst
        self._room = float(burst)
        self._at = now()

    def take(self) -> bool:
        """Whether one more may pass."""
        now = self._now()
        self._room = min(self._burst, self._room + max(0.0, now - self._at) * self._rate)
        self._at = now
        if self._room < 1:
            return False
        self._room -= 1
        return True
