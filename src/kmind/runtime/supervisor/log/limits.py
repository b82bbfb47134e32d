# SPDX-License-Identifier: Apache-2.0
"""Limits of the log: one source's share, and the length of a line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Budget", "bounded"]

_TEXT = 4096
_ITEMS = 256
_DEEP = 8
_WORD = 1 << 63
# Beyond so many sources the one that was heard longest ago is forgotten.
_SOURCES = 1024


def bounded(value: Any, depth: int = 0) -> Any:
    """``value`` with no text, number or list in it that makes a line longer than is of use."""
    if isinstance(value, str):
        return value if len(value) <= _TEXT else value[:_TEXT] + "…"
    if isinstance(value, bool) or value is None or isinstance(value, float):
        return value
    if isinstance(value, int):
        return value if -_WORD <= value < 2 * _WORD else "a number of more than 64 bits"
    if depth >= _DEEP:
        return "…"
    if isinstance(value, Mapping):
        pairs = list(value.items())[:_ITEMS]
        return {str(name)[:_TEXT]: bounded(item, depth + 1) for name, item in pairs}
    if isinstance(value, list | tuple | set | frozenset):
        return [bounded(item, depth + 1) for item in list(value)[:_ITEMS]]
    return bounded(str(value))


class Budget:
    """Bytes for each source: ``rate`` a second in the long run, ``burst`` at once.

    What is left out is counted until a line of that source is let through again. One thread.
    """

    def __init__(self, now: Callable[[], float], *, rate: float, burst: float) -> None:
        self._now = now
        self._rate = rate
        self._burst = burst
        self._room: dict[str, tuple[float, float]] = {}  # what was left, and when
        self._left_out: dict[str, int] = {}

    def admit(self, source: str, size: int, *, always: bool = False) -> bool:
        """True if a line of so many bytes may be written; ``always`` counts it all the same."""
        now = self._now()
        room, at = self._room.pop(source, (self._burst, now))
        room = min(self._burst, room + (now - at) * self._rate)
        fits = room >= size
        if fits or always:
            room = max(0.0, room - size)
        else:
            self._left_out[source] = self._left_out.get(source, 0) + 1
        self._room[source] = room, now
        if len(self._room) > _SOURCES:
            forgotten = next(iter(self._room))
            del self._room[forgotten]
            self._left_out.pop(forgotten, None)
        return fits or always

    def left_out(self, source: str) -> int:
        """Lines left out since one was let through."""
        return self._left_out.get(source, 0)

    def told(self, source: str) -> None:
        """The number was said."""
        self._left_out.pop(source, None)
