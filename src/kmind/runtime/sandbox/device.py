# SPDX-License-Identifier: Apache-2.0
"""Serving a device in the extension's process: one thread, which also shows that it lives.

So a heart that beats says that the driver comes back from its batches. Its buffers are made, and
faulted in, before the first beat, and with that before the device appears.
"""

from __future__ import annotations

import mmap
import os
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass

from kmind.driver.block import BlockDriver, Setup
from kmind.driver.fuse.server import DiskServer
from kmind.driver.server import Chore, make_wake
from kmind.errors import ModuleError
from kmind.extension import Dispatcher
from kmind.extension.discovery.loader import load_class
from kmind.runtime.sandbox.config import ChildConfig, DeviceEntry

__all__ = ["Device", "open_device"]

_BLOCK = 4096
_SAID_EVERY_S = 1.0


@dataclass(frozen=True)
class Device:
    """The descriptors of a device, and what was mapped of them while that was allowed."""

    entry: DeviceEntry
    memory: mmap.mmap | None
    wake: int

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Descriptors that stay open: a later owner takes them from here."""
        return (*self.entry.descriptors, self.wake)

    def serve(
        self, config: ChildConfig, sources: Mapping[str, bytes], dispatcher: Dispatcher
    ) -> None:
        """Serve until the connection ends, then go on showing that the process lives."""
        driver = load_class(
            config.package, config.folder, sources, config.entry, BlockDriver, "extension.entry"
        )()
        driver.open(Setup(params=config.params, memory=self.memory))
        size = getattr(driver, "size", None)
        if not isinstance(size, int) or size <= 0 or size % _BLOCK:
            raise ModuleError(
                f"the driver's size is {size!r}, and no multiple of {_BLOCK} bytes",
                hint="set self.size in open()",
            )

        def beat() -> float:
            dispatcher.step(0)
            return time.monotonic() + config.beat_s

        server = DiskServer(
            driver,
            self.entry.connection,
            max_io=self.entry.max_io,
            depth=self.entry.depth,
            report=_Reports(),
            chore=Chore(beat, self.wake),
        )
        dispatcher.start()
        server.run()
        while True:  # the owner ended the connection, and ends this process when it likes
            dispatcher.step(config.beat_s)


class _Reports:
    """Prints a driver's exceptions, at most one a second, and how many went unsaid."""

    def __init__(self) -> None:
        self._at = -_SAID_EVERY_S
        self._unsaid = 0

    def __call__(self, error: Exception) -> None:
        now = time.monotonic()
        if now - self._at < _SAID_EVERY_S:
            self._unsaid += 1
            return
        self._at = now
        if self._unsaid:
            print(f"{self._unsaid} more exceptions of serve() are not shown")
            self._unsaid = 0
        traceback.print_exception(error, file=sys.stderr)


def open_device(entry: DeviceEntry) -> Device:
    """Map its memory, with all rights still; the sandbox refuses memory that is shared."""
    memory = None
    if entry.memory >= 0:
        memory = mmap.mmap(entry.memory, os.fstat(entry.memory).st_size)
    return Device(entry, memory, make_wake())
