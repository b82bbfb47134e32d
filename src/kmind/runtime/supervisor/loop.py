# SPDX-License-Identifier: Apache-2.0
"""The loop of a supervisor: waits for all, and gives each its turn."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Mapping

from kmind.agent.core.core import Core
from kmind.runtime.instance.device.service import DeviceService
from kmind.runtime.supervisor.arbiter import Arbiter
from kmind.runtime.supervisor.instances import Instances
from kmind.runtime.supervisor.member import Member
from kmind.runtime.supervisor.turn_times import TurnTimes

__all__ = ["Loop"]

_BEAT_S = 1.0
_WAIT_S = 0.01


class Loop:
    """Waits with ``selector``, whose keys have what is to be called.

    ``beats`` are called once a second, ``moved`` after each wait: what was seen before it is old.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        core: Core,
        instances: Instances,
        arbiter: Arbiter,
        beats: Mapping[str, Callable[[], object]],
        *,
        moved: Callable[[], None],
    ) -> None:
        self.turns = TurnTimes()
        self._selector = selector
        self._core = core
        self._instances = instances
        self._arbiter = arbiter
        self._beats = beats
        self._moved = moved
        self._beat_at = 0.0

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back whenever a descriptor is readable."""
        self._selector.register(fd, selectors.EVENT_READ, callback)

    def wait(self, timeout_s: float) -> None:
        """Wait for what comes first, and call what belongs to it."""
        members = self._instances.by_name.values()
        due = min([self._beat_at, *(member.instance.due for member in members)])
        self.turns.end()
        ready = self._selector.select(max(0.0, min(timeout_s, due - time.monotonic())))
        self.turns.begin()
        self._moved()
        for key, _ in ready:
            key.data()

    def run_due(self) -> None:
        """Carry out what agents have decided, and give each instance that is due its turn."""
        run, by_name = self._instances.run, self._instances.by_name
        for name, actions in self._arbiter.collect():
            run(by_name[name], self._arbiter.carry_out, by_name[name], actions)
        now = time.monotonic()
        if now >= self._beat_at:
            self._core.beat()
            for what, call in self._beats.items():
                self._instances.safely(what, call)
            self._beat_at = (now // _BEAT_S + 1) * _BEAT_S
            for member in self._instances.all():
                run(member, member.instance.compare_mode)
        for member in self._instances.all():
            if now >= member.instance.due:
                run(member, member.instance.run_due)
            if member.instance.dirty:
                self._instances.save(member)

    def await_ready(self, member: Member) -> None:
        """Wait until an extension is ready. The others go on; what else is asked for waits."""
        while not member.instance.ready():
            self.wait(_WAIT_S)
            self.run_due()

    def await_closed(self, device: DeviceService) -> None:
        """Wait until a device is detached. Raises KmindError if it is in use."""
        while not device.closed():
            self.wait(_WAIT_S)
            self.run_due()
