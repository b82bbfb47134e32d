# SPDX-License-Identifier: Apache-2.0
"""Putting off what showed no gain, for longer each time."""

from __future__ import annotations

from collections.abc import Callable, Hashable

__all__ = ["BackOff"]

_FIRST_S = 30.0
_LONGEST_S = 3600.0
_MOST = 256


class BackOff:
    """Puts off cases for 30 s, then for twice as long each time, up to an hour.

    Of more than 256 the one that was put off first is forgotten. ``now`` is in seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._until: dict[Hashable, tuple[float, float]] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._until

    def postpone(self, key: Hashable) -> None:
        """Put it off from now on, for twice as long as the last time."""
        _, pause = self._until.pop(key, (0.0, _FIRST_S / 2))
        if len(self._until) >= _MOST:
            del self._until[next(iter(self._until))]
        pause = min(2 * pause, _LONGEST_S)
        self._until[key] = (self._now() + pause, pause)

    def forget(self, key: Hashable) -> None:
        """Put it off no longer; the next time is the first one."""
        self._until.pop(key, None)

    def refusal(self, key: Hashable, what: str) -> str:
        """Return why it is not tried now, ``what`` it was put off for among it, or ""."""
        until, pause = self._until.get(key, (0.0, 0.0))
        left = until - self._now()
        if left <= 0:
            return ""
        return f"{what} {pause - left:.0f} s ago: it is not tried again for {left:.0f} s"
