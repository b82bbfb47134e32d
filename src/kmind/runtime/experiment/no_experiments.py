# SPDX-License-Identifier: Apache-2.0
"""The place of `Experiments` in an instance whose class makes none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kmind.agent.types import Action
from kmind.errors import KmindError
from kmind.extension import Manifest
from kmind.extension import Value as Parameter
from kmind.runtime.holds.grants import Granted
from kmind.runtime.holds.holds import Holds
from kmind.runtime.objective.sources import Heard, Objective
from kmind.runtime.service import Service

__all__ = ["NoExperiments"]


class NoExperiments(Service):
    """Measures nothing, and refuses what was approved: its class is granted no knob.

    ``class_`` is the name of the module's class.
    """

    running = False

    def __init__(self, holds: Holds, class_: str) -> None:
        self._holds = holds
        self._class = class_

    def approved(
        self, granted: Granted, action: Action, reason: str, evidence: Mapping[str, Any]
    ) -> None:
        """Refuse it."""
        self._holds.refuse(granted, action.id, KmindError(f"a {self._class} sets no knobs"))

    def renewed(self, granted: Granted, action: Action) -> None:
        """Do nothing: no value is held."""

    def configure(self, manifest: Manifest, params: Mapping[str, Parameter]) -> None:
        """Do nothing: every version of the module is of the same class."""

    def listen(self, objective: Objective) -> Callable[[Heard], None]:
        """Return what takes readings of an objective: they decide nothing here."""
        return lambda heard: None

    def poll(self, *, busy: bool) -> None:
        """Do nothing: the load is not measured."""

    def abort(self, why: str) -> None:
        """Do nothing: no experiment runs."""

    def adopt(self) -> set[int]:
        """Return no change: an earlier owner measured none."""
        return set()

    def take_up(self) -> None:
        """Do nothing: an earlier owner kept nothing."""

    def status(self) -> dict[str, Any]:
        """Return that no experiment runs."""
        return {"experiment": None}
