# SPDX-License-Identifier: Apache-2.0
"""The hooks that a simulated agent pretends to have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["SimHooks"]


class SimHooks:
    """Names of programs; they count as attached while the agent is ``running``."""

    def __init__(self, names: Iterable[str]) -> None:
        self.running = False
        self._names = tuple(names)

    def watch(self, program: str, wanted: bool) -> None:
        """Hooks are the caller's here: nothing is attached."""

    def attached(self) -> Mapping[str, int]:
        """The hooks that it pretends to have: name to 0."""
        return dict.fromkeys(self._names if self.running else (), 0)

    def missing(self) -> Mapping[str, str]:
        """Nothing is missing here."""
        return {}

    def replaced(self) -> Mapping[str, str]:
        """Nor is anything replaced."""
        return {}
