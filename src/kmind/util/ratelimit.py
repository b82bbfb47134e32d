# SPDX-License-Identifier: Apache-2.0
"""A token bucket: so many a second in the long run, so many at once."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Allowance", "Bucket"]


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

    def allow(self) -> bool:
        """Take one token; False if there is none left."""
        now = self._now()
        self._room = min(self._burst, self._room + max(0.0, now - self._at) * self._rate)
        self._at = now
        if self._room < 1:
            return False
        self._room -= 1
        return True


class Allowance:
    """So many a minute of what somebody sends; ``refuse`` is told once that there are more."""

    def __init__(
        self, now: Callable[[], float], a_minute: int, refuse: Callable[[str], None]
    ) -> None:
        self._bucket = Bucket(now, a_minute / 60, a_minute)
        self._a_minute = a_minute
        self._refuse = refuse
        self._too_many = False

    def allow(self) -> bool:
        """Return whether one more may pass."""
        if self._bucket.allow():
            self._too_many = False
            return True
        if not self._too_many:
            self._too_many = True
            self._refuse(f"there are more than {self._a_minute} a minute")
        return False
