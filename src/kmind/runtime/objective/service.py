# SPDX-License-Identifier: Apache-2.0
"""The objective of an instance, polled while its extension runs."""

from __future__ import annotations

import selectors
from collections.abc import Callable, Mapping

from kmind.extension import Module, Value
from kmind.runtime.objective.poller import Poller, check_objective
from kmind.runtime.objective.relay import Relay
from kmind.runtime.objective.sources import Heard, Objective
from kmind.runtime.service import Service
from kmind.runtime.services import InstanceSpec, Services

__all__ = ["ObjectiveService"]


class ObjectiveService(Service):
    """Polls the objective of one instance; nothing for a module without one.

    ``selector`` is the instance's: it becomes ready when there is an answer.
    """

    def __init__(
        self, spec: InstanceSpec, services: Services, selector: selectors.BaseSelector
    ) -> None:
        self._spec = spec
        self._log = services.logger(spec.name)
        self._selector = selector
        self._poller: Poller | None = None

    def start(
        self,
        module: Module,
        params: Mapping[str, Value],
        listen: Callable[[Objective], Callable[[Heard], None]],
    ) -> None:
        """Begin to poll, as the parameters say. ``listen`` returns who is told of each answer."""
        objective = check_objective(module.manifest, self._spec.target, params)
        part = module.manifest.objective
        if objective is None or part is None:
            return
        self._poller = Poller(
            objective,
            Relay(self._spec.agent, self._log, listen(objective)),
            every_s=float(params[part.every]),
            looks_back_s=float(params[part.looks_back]),
        )
        self._selector.register(self._poller.fd, selectors.EVENT_READ)
        self._poller.start()

    def run_due(self) -> None:
        """Pass on the answers that came."""
        if self._poller is not None:
            self._poller.run_due()

    def stop(self, why: str) -> None:
        """Poll no more; wait for nothing. Safe to repeat."""
        if self._poller is not None:
            self._selector.unregister(self._poller.fd)
            self._poller.close()
            self._poller = None
