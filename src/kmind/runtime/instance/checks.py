# SPDX-License-Identifier: Apache-2.0
"""Checks of an instance once a second or two: knobs, limits, misuse, and its target."""

from __future__ import annotations

from kmind.runtime.budget import OwnerBudget
from kmind.runtime.holds.holds import Holds
from kmind.runtime.instance.extension.service import ExtensionService
from kmind.runtime.instance.misuse import Misuse
from kmind.runtime.instance.telemetry import View
from kmind.runtime.service import Service, ServiceError
from kmind.runtime.services import InstanceSpec, Services
from kmind.util.grid import next_on_grid

__all__ = ["Checks"]

# Less often where nothing is held.
_CHECK_S, _IDLE_CHECK_S = 1.0, 2.0


class Checks(Service):
    """Yields knobs that somebody else has set, and ends what went beyond its limits."""

    def __init__(
        self,
        spec: InstanceSpec,
        services: Services,
        holds: Holds,
        extension: ExtensionService,
        budget: OwnerBudget,
        view: View,
    ) -> None:
        self.misuse = Misuse(spec.name, spec.agent, services.emit)
        self._spec = spec
        self._now = services.now
        self._holds = holds
        self._extension = extension
        self._budget = budget
        self._view = view
        self._at = 0.0

    @property
    def due(self) -> float:
        """Time of the next check."""
        return self._at

    def run_due(self) -> None:
        """Check. Raises ServiceError where a limit is exceeded or the target has gone."""
        now = self._now()
        if now < self._at:
            return
        self._at = next_on_grid(now, _CHECK_S if self._holds.held else _IDLE_CHECK_S)
        self.poll_knobs()
        self.misuse.poll()
        over = self._extension.current.exceeded() or self._budget.exceeded()
        if not self._spec.target.is_present():
            raise ServiceError(f"{self._spec.target.name} has gone")
        if over:
            raise ServiceError(f"the extension of {self._spec.name} {over}")

    def poll_knobs(self) -> None:
        """Read what the knobs hold now, and yield those that somebody else has set."""
        self._view.knobs = self._holds.poll()
