# SPDX-License-Identifier: Apache-2.0
"""Writes to the journal that wait until no other process writes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from kmind.errors import BusyError

__all__ = ["LateWrites"]


class LateWrites:
    """Steps in their order, each of which raises BusyError while another process writes."""

    def __init__(self) -> None:
        self._steps: list[Callable[[], object]] = []

    def __bool__(self) -> bool:
        """Return True if a step waits."""
        return bool(self._steps)

    def record(self, step: Callable[[], object]) -> None:
        """Do a step, or, where another process just writes, at the next `catch_up`."""
        try:
            if not self._steps:
                step()
                return
        except BusyError:
            pass
        self._steps.append(step)

    def catch_up(self) -> None:
        """Do what waits, as far as nobody else writes."""
        with suppress(BusyError):
            while self._steps:
                self._steps[0]()
                del self._steps[0]
