# SPDX-License-Identifier: Apache-2.0
"""The extension of an instance: started, heard, and ended; with what it remembers and reports."""

from __future__ import annotations

import math
import selectors
from collections.abc import Callable, Mapping
from typing import Any

from kmind.errors import KmindError
from kmind.extension import KnobInfo, Module, Value
from kmind.runtime.budget import OwnerBudget
from kmind.runtime.experiment.measure.effort import Effort
from kmind.runtime.instance.extension.checkpoint import Checkpoint
from kmind.runtime.instance.extension.handle import ExtensionHandle
from kmind.runtime.instance.extension.inbox import make_inbox
from kmind.runtime.instance.extension.listener import Listener
from kmind.runtime.sandbox.config import DeviceEntry
from kmind.runtime.sandbox.state import ProcessState
from kmind.runtime.service import Service
from kmind.runtime.services import InstanceSpec, Services

__all__ = ["ExtensionService"]

_START_S = 30.0
# In the deadline; so that a beat falls between two windows of an idle agent.
_BEATS = 2.5


class ExtensionService(Service):
    """One instance's extension: there may be none, and one after the other.

    ``selector`` is the instance's: it becomes ready when the extension ended or printed something.
    ``budget`` pays for what is read. ``knobs`` returns the granted knobs, by name.
    """

    def __init__(
        self,
        spec: InstanceSpec,
        services: Services,
        selector: selectors.BaseSelector,
        budget: OwnerBudget,
        knobs: Callable[[], Mapping[str, KnobInfo]],
    ) -> None:
        self._spec = spec
        self._selector = selector
        self._now = services.now
        self._knobs = knobs
        self._log = services.logger(spec.name)
        self._print = services.logger(spec.name, "extension")
        self._memory = Checkpoint(
            spec.name, services.memory, budget, log=self._log, now=services.now
        )
        self._inbox = make_inbox(spec, services, knobs)
        self._listener = Listener(selector, budget, self._print, services.now)
        self._extension: ExtensionHandle | None = None
        self._give_up_at = math.inf
        self._stirred = False

    def start(
        self,
        module: Module,
        params: Mapping[str, Value],
        first_id: int = 1,
        device: DeviceEntry | None = None,
    ) -> None:
        """Start one; its recommendations are numbered from ``first_id``. Raises KmindError.

        A driver's serves ``device``.
        """
        spec = self._spec
        self._give_up_at = self._now() + _START_S
        self._extension = ExtensionHandle.start(
            spec.name,
            module,
            spec.target,
            params,
            self._knobs(),
            spec.agent,
            inbox=self._inbox,
            sandbox=spec.sandbox,
            beat_s=spec.deadline_s / _BEATS,
            first_id=first_id,
            memory=self._memory.load(),
            device=device,
            tell=self._log,
        )
        self._memory.watch(spec.agent.arena, spec.agent.geometry)
        self._listener.watch(self._extension)

    def adopt(self, state: ProcessState) -> None:
        """Take over one that another process started. Raises KmindError if it has ended."""
        self._extension = ExtensionHandle.adopt(self._spec.agent, state, self._inbox)
        self._listener.watch(self._extension)
        self._memory.watch(self._spec.agent.arena, self._spec.agent.geometry)

    def ready(self) -> bool:
        """Return true once its heart beats. Raises KmindError if it has ended instead."""
        self._listener.listen()
        if self.current.beats():
            return True
        status = self.current.ended()
        if status or self._now() > self._give_up_at:
            self.stop("")
            raise KmindError(
                f"the extension of {self._spec.name} {status or 'did not start in time'}",
                hint="the lines above are its output; nothing was changed",
            )
        return False

    @property
    def current(self) -> ExtensionHandle:
        """The extension. Raises KmindError if there is none."""
        if self._extension is None:
            raise KmindError(f"{self._spec.name} is not started")
        return self._extension

    @property
    def process(self) -> tuple[int, int]:
        """Process and user id; 0 where there is no extension, or no user of its own."""
        extension = self._extension
        return (extension.pid, extension.uid or 0) if extension else (0, 0)

    def state(self) -> ProcessState | None:
        """Return what ``adopt`` takes."""
        return self._extension.state() if self._extension else None

    def effort(self) -> Effort | None:
        """Return what it has used so far, by the kernel's accounts; None if it has ended."""
        return self._extension.effort() if self._extension else None

    @property
    def due(self) -> float:
        """Time to read its output, whatever the selector says."""
        return self._listener.due

    def run_due(self) -> None:
        """Read what it printed."""
        self._stirred = bool(self._selector.select(0))
        if self._stirred or self._now() >= self._listener.due:
            self._listener.listen()

    def ended(self) -> str:
        """Return how it ended, in words, or "". Asked only if the selector was ready."""
        return self.current.ended() if self._stirred else ""

    def keep_memory(self) -> None:
        """Keep what it wants to remember."""
        self._memory.poll()

    def stop(self, why: str) -> None:
        """End its process, and keep what it wants to remember. Safe to repeat."""
        if self._extension is None:
            return
        self._listener.unwatch()
        extension, self._extension = self._extension, None
        try:
            for line in extension.close():
                self._print(line)
        except KmindError as error:  # something in its cgroup does not end
            self._log(str(error))
        self._memory.poll(last=True)

    def let_go(self) -> None:
        """Leave its process to a later owner."""
        self._memory.poll(last=True)
        self._listener.unwatch()
        if self._extension:
            for line in self._extension.release():
                self._print(line)
        self._extension = None  # it looks into the arena, which lies there no longer

    def status(self) -> dict[str, Any]:
        """Return its process, user and usage."""
        return {"extension": self._extension.describe() if self._extension else None}
