# SPDX-License-Identifier: Apache-2.0
"""The protocol of an instance's parts."""

from __future__ import annotations

import math
from typing import Any

from kmind.agent.types import Action, Mode
from kmind.errors import KmindError

__all__ = ["Service", "ServiceError"]


class ServiceError(KmindError):
    """A service cannot go on, and with it the instance: everything is put back."""


class Service:
    """A part of an instance that has work of its own; an instance is a list of them.

    All calls come from the owner's thread, and none may wait. Each does nothing by default.
    ``run_due`` may raise ServiceError, and JournalError where changes cannot be kept on record.
    """

    @property
    def due(self) -> float:
        """Time of the next ``run_due``, in the owner's seconds; infinity for none."""
        return math.inf

    def run_due(self) -> None:
        """Do what is due. It may be called earlier, and often."""

    def handle(self, action: Action) -> None:
        """Follow a verdict of the agent."""

    def set_mode(self, mode: Mode) -> None:
        """Follow the instance to another mode, other than emergency."""

    def stop(self, why: str) -> None:
        """End all that is under way, and put back what was changed. Safe to repeat."""

    def status(self) -> dict[str, Any]:
        """Return what an admin may want to know, by name; JSON can hold it."""
        return {}
