# SPDX-License-Identifier: Apache-2.0
"""A block device whose requests a server in user space answers: the transport ``ublk``."""

from __future__ import annotations

import os
import select
from pathlib import Path
from typing import Protocol, Self

from kmind.driver.block import BlockDriver
from kmind.driver.disk import Server
from kmind.driver.ublk.control import UblkDevice
from kmind.errors import KmindError
from kmind.util.steps import Step, run_steps

__all__ = ["Start", "UblkDisk"]


class Start(Protocol):
    """Starts a server on a descriptor of the device, that signals an eventfd when it is ready."""

    def __call__(self, descriptor: int, ready: int, replays: bool, /) -> Server:
        """The descriptors are the caller's, who closes them afterwards."""


class UblkDisk:
    """A device of user space; ``start`` starts its server.

    Opened as a context. Where the server dies, requests wait for the next one (`replace`), also if
    the owner is dead by then: the device stays. Commands and waits end after ``timeout`` seconds.
    """

    def __init__(
        self,
        driver: BlockDriver,
        start: Start,
        *,
        block_size: int = 4096,
        max_io: int = 1 << 19,
        depth: int = 64,
        timeout: float = 5,
    ) -> None:
        self._driver = driver
        self._start = start
        self._timeout = timeout
        self._sizes = {"block_size": block_size, "max_io": max_io, "depth": depth}
        self._device: UblkDevice | None = None
        self._server: Server | None = None

    def __enter__(self) -> Self:
        run_steps(
            [
                Step("making the device", self._add, self._delete),
                Step("starting the server", self._serve, self._end_server),
                Step("starting the device", self._begin),
            ]
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def device(self) -> UblkDevice:
        """The device, as the kernel has it."""
        assert self._device is not None, "not open"
        return self._device

    @property
    def path(self) -> Path:
        """The block device."""
        return self.device.path

    def replace(self, start: Start | None = None) -> None:
        """Have another server go on with what the last one left, which is stopped or dead."""
        self._end_server()
        self.device.begin_recovery()
        self._start = start or self._start
        self._serve(replays=True)
        self.device.end_recovery()

    def close(self) -> None:
        """End the server, stop the device, whose I/O fails from now on, and delete it."""
        try:
            self._end_server()
        finally:
            self._delete()

    def _add(self) -> None:
        self._device = UblkDevice(**self._sizes, timeout=self._timeout)
        self._device.describe(self._driver)

    def _delete(self) -> None:
        device, self._device = self._device, None
        if device is not None:
            device.close()

    def _serve(self, *, replays: bool = False) -> None:
        ready = os.eventfd(0, os.EFD_CLOEXEC)
        # Not held here: the kernel takes a queue's server for dead when its last holder closes it.
        descriptor = os.open(self.device.server_path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._server = self._start(descriptor, ready, replays)
            if not select.select([ready], [], [], self._timeout)[0]:
                raise KmindError(
                    f"the server of {self.path} is not ready in {self._timeout:g} s",
                    hint="see what the driver does first",
                )
        finally:
            os.close(descriptor)
            os.close(ready)

    def _begin(self) -> None:
        self.device.start()

    def _end_server(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.stop()
