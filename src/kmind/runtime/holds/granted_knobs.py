# SPDX-License-Identifier: Apache-2.0
"""Granted knobs of an instance, as its agent enforces them, and their current values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from kmind.agent.protocol import Agent
from kmind.errors import KmindError
from kmind.guard import Actuator
from kmind.knobs import Value
from kmind.runtime.holds.grants import Granted

__all__ = ["GrantedKnobs", "Key"]

Key = tuple[int, int]
"""A knob and a target, as the agent numbers them."""


class GrantedKnobs:
    """Grants of one instance, in ``agent``; values are read through ``actuator``.

    A knob that somebody else has set is yielded: nothing is let through for it until ``reclaim``.
    """

    def __init__(self, agent: Agent, actuator: Actuator) -> None:
        self._agent = agent
        self._actuator = actuator
        self._granted: dict[Key, Granted] = {}
        self._yielded: set[Key] = set()

    def __iter__(self) -> Iterator[Granted]:
        return iter(list(self._granted.values()))

    def __getitem__(self, key: Key) -> Granted:
        return self._granted[key]

    def get(self, knob: int, target: int) -> Granted | None:
        """Return the grant for a knob, by the agent's numbers; None without one."""
        return self._granted.get((knob, target))

    def usable(self) -> list[Granted]:
        """The knobs that the instance may move."""
        return [granted for granted in self if granted.usable]

    @property
    def yielded(self) -> tuple[str, ...]:
        """The knobs that somebody else has set, by name."""
        return tuple(sorted(self._granted[key].knob.name for key in self._yielded))

    def has_yielded(self, granted: Granted) -> bool:
        """True if somebody else has set a knob."""
        return granted.key in self._yielded

    # Grants

    def grant(self, granted: Iterable[Granted]) -> None:
        """Let the agent approve values for these knobs alone; one that was yielded stays so."""
        granted = list(granted)
        for key in self._granted.keys() - {entry.key for entry in granted}:
            self._agent.admission.revoke(*key)  # an earlier version of the module had it
            self._granted[key] = replace(self._granted[key], usable=False)
        for entry in granted:
            # Another instance may hold it now.
            first = self._actuator.baseline(entry.knob, entry.target)
            if first is not None:
                entry = replace(entry, baseline=first)
            self._granted[entry.key] = entry
            self._offer(entry)

    def take_up(self, granted: Iterable[Granted], yielded: Iterable[str]) -> None:
        """Go on with an earlier process's grants, and with what it had yielded, by name.

        The agent learns of them by ``offer_all``, once it is known what is held.
        """
        self._granted = {entry.key: entry for entry in granted}
        by_name = {granted.knob.name: granted.key for granted in self}
        self._yielded = {by_name[name] for name in yielded if name in by_name}

    def offer_all(self, held: Iterable[Key]) -> None:
        """Give the agent all grants. A knob that is not held has its current value as baseline."""
        held = set(held)
        for granted in self:
            value = self.read(granted)
            if granted.key not in held and value is not None:
                # The value read before may have been put back meanwhile.
                granted = self._granted[granted.key] = replace(granted, baseline=value)
            self._offer(granted)

    def _offer(self, granted: Granted) -> None:
        # The grant, and the current value.
        if granted.key in self._yielded:
            self._withdraw(granted)
        else:
            self._agent.admission.grant(
                *granted.key, replace(granted.grant(), current=self.code(granted))
            )

    def _withdraw(self, granted: Granted) -> None:
        # Nothing passes an empty range: what is recommended from now on is refused.
        self._agent.admission.grant(*granted.key, granted.withdrawn(granted.baseline))

    def rebase(self, granted: Granted, baseline: Value) -> None:
        """Let a knob go back to another value when it is held no longer."""
        self._granted[granted.key] = replace(granted, baseline=baseline)

    def give_up(self, granted: Granted) -> None:
        """Yield a knob: somebody else has set it. The agent refuses all values from now on."""
        self._yielded.add(granted.key)
        self._withdraw(granted)

    def reclaim(self) -> None:
        """Forget that knobs were yielded: the admin has started the instance anew."""
        for key in self._yielded:
            self._actuator.acquire(self._granted[key].knob, self._granted[key].target)
        self._yielded.clear()

    # Current values

    def learn(self, knob: int, target: int, value: int) -> None:
        """Let the agent know what another has set, if it is granted the knob."""
        if (knob, target) in self._granted:
            self._agent.admission.set_current(knob, target, value)

    def read(self, granted: Granted) -> Value | None:
        """Return what a knob holds now; None where the device is gone, or the value unknown."""
        try:
            value = self._actuator.read(granted.knob, granted.target)
            granted.knob.encode_found(value, granted.target)
        except KmindError:
            return None
        return value

    def code(self, granted: Granted) -> int:
        """Return what a knob holds now, as the agent has it; the baseline where that is unknown."""
        value = self.read(granted)
        return granted.knob.encode(granted.baseline if value is None else value)

    def values(self) -> dict[str, Value]:
        """Return the current values of all granted knobs, by name."""
        read = {granted.knob.name: self.read(granted) for granted in self}
        return {name: value for name, value in read.items() if value is not None}
