# SPDX-License-Identifier: Apache-2.0
"""Changes that an actuator holds, and the value of a parked knob."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, KeysView

from kmind.guard.journal import Change
from kmind.knobs import Value

__all__ = ["Held", "Key"]

Key = tuple[str, str]
"""Name of a knob, and of its target."""


class Held:
    """A chain of changes for each knob, oldest first; none is empty.

    A parked knob has the value from before the last change of its chain.
    """

    def __init__(self) -> None:
        self._chains: dict[Key, list[Change]] = {}
        self._parked: set[Key] = set()

    def __contains__(self, key: Key) -> bool:
        return key in self._chains

    def __iter__(self) -> Iterator[Change]:
        chains = self._chains.values()
        return iter(sorted((c for chain in chains for c in chain), key=lambda c: c.id))

    @property
    def keys(self) -> KeysView[Key]:
        """The knobs that are held."""
        return self._chains.keys()

    def chain(self, key: Key) -> list[Change]:
        """The changes of one knob; [] if it is not held."""
        return list(self._chains.get(key, ()))

    def baseline(self, key: Key) -> Value:
        """Return the value before the first change of a held knob."""
        return self._chains[key][0].old

    def add(self, change: Change) -> None:
        """Hold one more."""
        self._chains.setdefault(change.key, []).append(change)

    def replace_last(self, change: Change) -> None:
        """Put a new state of the last change of its knob in its place."""
        self._chains[change.key][-1] = change

    def set_chain(self, key: Key, changes: Iterable[Change]) -> None:
        """Hold these changes of a knob and no others; with none it is let go, and not parked."""
        self._chains[key] = list(changes)
        if not self._chains[key]:
            self.pop(key)

    def pop(self, key: Key) -> list[Change]:
        """Hold a knob no more; what was held of it."""
        self._parked.discard(key)
        return self._chains.pop(key)

    def is_parked(self, key: Key) -> bool:
        """True if the last change of a knob is parked."""
        return key in self._parked

    def park(self, key: Key, parked: bool = True) -> None:
        """Say that the last change of a knob is parked, or that it is in force."""
        if parked:
            self._parked.add(key)
        else:
            self._parked.discard(key)

    def wanted(self, key: Key) -> Value | None:
        """Return the value that a held knob should have; None if the kernel decides it."""
        last = self._chains[key][-1]
        return last.old if key in self._parked else last.new
