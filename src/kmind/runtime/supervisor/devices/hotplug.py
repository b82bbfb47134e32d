# SPDX-License-Identifier: Apache-2.0
"""Modules that are loaded for devices: those that are there at the start, and those that come.

As udev does with a kernel module's aliases: an ``add`` event of the kernel loads what asks
for such a device, and at the start each device that is there already stands for one
(coldplug). What goes away takes its instances with it. What an admin has unloaded is not
loaded by itself again while the daemon lives, over restarts in place too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from kmind.errors import KmindError
from kmind.extension import Manifest, list_modules
from kmind.extension.discovery.conf import ModuleConf
from kmind.runtime.supervisor.devices.uevent import Uevent, UeventListener, coldplug, match

__all__ = ["Hotplug"]


class Hotplug:
    """Queue of modules to be loaded for devices, one at a time.

    ``load`` is called with module and target, ``gone`` with the name of a removed disk. Both may
    raise KmindError, which goes to ``log``. One thread.
    """

    def __init__(
        self,
        conf: ModuleConf,
        *,
        load: Callable[[str, str], object],
        gone: Callable[[str], object],
        log: Callable[[str], None],
    ) -> None:
        self._conf = conf
        self._load = load
        self._gone = gone
        self._log = log
        self._manifests: list[Manifest] = []
        self._listener: UeventListener | None = None
        self._lost = 0
        self._waiting: deque[Uevent] = deque()

    def start(self) -> int | None:
        """Listen, and take up what is there already; what becomes readable when one comes."""
        modules, broken = list_modules()
        self._manifests = [module.manifest for module in modules]
        for name, error in broken.items():
            self._log(f"module {name} is loaded for no device: {error}")
        try:
            self._listener = UeventListener()
        except KmindError as error:
            self._log(str(error))
        self._waiting.extend(coldplug(self._conf, self._manifests))
        return self._listener.fileno() if self._listener else None

    @property
    def waiting(self) -> bool:
        """True if ``turn`` has something to do."""
        return bool(self._waiting)

    def collect(self) -> None:
        """Take up the events that came."""
        if self._listener is None:
            return
        try:
            self._waiting.extend(self._listener.read())
        except KmindError as error:
            self._log(str(error))
        if self._listener.lost != self._lost:
            self._lost = self._listener.lost
            self._waiting.extend(coldplug(self._conf, self._manifests))

    def run_due(self) -> None:
        """See to one event; all else that is to be done has its turn between two."""
        if not self._waiting:
            return
        event = self._waiting.popleft()
        if event.action == "remove" and event.subsystem == "block":
            self._safely(f"{event.name} has gone", self._gone, event.name)
        for module, target in match(self._conf, self._manifests, event):
            self._safely(f"{module} is not loaded for {target}", self._load, module, target)

    def close(self) -> None:
        """Listen no more."""
        if self._listener is not None:
            self._listener.close()

    def _safely(self, what: str, call: Callable[..., object], *args: str) -> None:
        try:
            call(*args)
        except KmindError as error:
            self._log(f"{what}: {error}")
