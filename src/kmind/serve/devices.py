# SPDX-License-Identifier: Apache-2.0
"""Devices that come and go: what an alias asks for is loaded, what has lost its disk unloaded.

All of it runs on the supervisor's thread. Loads wait their turn among other calls, so
a burst of events holds up nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

from kmind.errors import KmindError
from kmind.extension import Manifest
from kmind.extension.conf import ModuleConf
from kmind.runtime.uevents import Uevent, match
from kmind.serve._base import Supervisor

__all__ = ["Devices", "Listener"]


class Listener(Protocol):
    """Where events come from: `kmind.runtime.uevents.UeventListener`."""

    lost: int

    def read(self) -> list[Uevent]:
        """All that wait."""


class Devices:
    """Has a supervisor load by alias. ``manifests`` are those of the modules that there are.

    ``log`` is told what could not be loaded, and why: one module's trouble is no other's.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        listener: Listener,
        conf: ModuleConf,
        manifests: Iterable[Manifest],
        log: Callable[[str], None],
    ) -> None:
        self._supervisor = supervisor
        self._listener = listener
        self._conf = conf
        self._manifests: Sequence[Manifest] = tuple(manifests)
        self._log = log
        self._lost = 0

    def take(self) -> None:
        """Act on the events that wait; to be called when the listener is readable."""
        for event in self._listener.read():
            for module, target in match(self._conf, self._manifests, event):
                self._supervisor.submit(partial(self._load, module, target))
            if (event.action, event.subsystem) == ("remove", "block"):
                self._supervisor.submit(partial(self._unload, event.name))
        if self._listener.lost != self._lost:
            self._lost = self._listener.lost
            self._log("the kernel dropped device events; load by name what was to be loaded")

    def _load(self, module: str, target: str) -> None:
        if any((i["module"], i["target"]) == (module, target) for i in self._supervisor.status()):
            return
        try:
            self._supervisor.load(module, target, (), mode=None)
        except KmindError as error:
            self._log(f"{module} is not loaded for {target}: {error}")

    def _unload(self, disk: str) -> None:
        gone = [i["name"] for i in self._supervisor.status() if i["target"] == disk]
        for name in gone:
            try:
                self._supervisor.unload(name)
            except KmindError as error:
                self._log(f"{disk} is gone, and {name} is not unloaded: {error}")
