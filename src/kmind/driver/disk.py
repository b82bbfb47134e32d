# SPDX-License-Identifier: Apache-2.0
"""A block device whose requests a server in user space answers: the transport ``loop``.

The way of a request: /dev/loopN, the kernel's loop driver with direct I/O, one FUSE file, the
server, the BlockDriver; its answer goes the same way back.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, Self

from kmind.driver.block import BlockDriver
from kmind.driver.fuse.connection import Connection
from kmind.driver.fuse.server import DiskServer
from kmind.driver.fuse.tree import FILE
from kmind.driver.loop import LoopDevice
from kmind.errors import KmindError
from kmind.util.steps import Step, run_steps

__all__ = ["LoopDisk", "Server", "ThreadServer", "no_server"]

_STOP_SECONDS = 5


class Server(Protocol):
    """That which answers the requests of a connection: a thread, or better a process."""

    def stop(self) -> None:
        """End it, within seconds; what is not answered stays in flight."""


class ThreadServer:
    """Serves in a thread of this process; for tests and measurements."""

    def __init__(
        self,
        driver: BlockDriver,
        connection: Connection,
        report: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self._server = DiskServer(
            driver,
            connection.descriptor,
            max_io=connection.max_io,
            depth=connection.depth,
            report=report,
        )
        self._thread = threading.Thread(target=self._server.run, daemon=True, name="driver")
        self._thread.start()

    def stop(self) -> None:
        """Stop it, once the batch at hand is done; raises KmindError if that takes over 5 s."""
        self._server.stop()
        self._thread.join(_STOP_SECONDS)
        if self._thread.is_alive():
            raise KmindError("the driver does not come back", hint="see what it waits for")


class _Elsewhere:
    # A server that somebody else starts and ends.

    def stop(self) -> None:
        pass


def no_server(connection: Connection) -> Server:
    """A ``start`` for an owner that starts and ends the servers itself."""
    return _Elsewhere()


class LoopDisk:
    """A device of user space; ``start`` starts its server on the connection it is given.

    Opened as a context. The owner keeps the connection's descriptor, so requests wait while
    there is no server. Without owner and server the connection ends: I/O fails with EIO, and the
    loop device stays until the next ``kmind.driver.loop.sweep``.

    Each step that could wait for the server ends after ``timeout`` seconds: then the connection
    is aborted, and the step fails.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[Connection], Server],
        *,
        block_size: int = 4096,
        max_io: int = 1 << 20,
        depth: int = 64,
        timeout: float = 5,
    ) -> None:
        self._name = name
        self._start = start
        self._block_size = block_size
        self._max_io = max_io
        self._depth = depth
        self._timeout = timeout
        self._connection: Connection | None = None
        self._server: Server | None = None
        self._device: LoopDevice | None = None
        self._file = -1

    def __enter__(self) -> Self:
        run_steps(
            [
                Step("connecting", self.connect, self._disconnect),
                Step("starting the server", self._serve, self._end_server),
                Step("attaching", self.attach, self._detach),
            ]
        )
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.close()
        except BaseException:
            self.close(force=True)
            raise

    def connect(self) -> None:
        """Open the connection; for an owner that makes server and device in steps of its own."""
        self._connection = Connection(max_io=self._max_io, depth=self._depth, timeout=self._timeout)

    def attach(self) -> None:
        """Put a loop device on the file, which a server serves by now; waits for that."""
        run_steps(
            [
                Step("opening the file", self._open, self._close_file),
                Step("attaching the loop device", self._attach, self._detach),
            ]
        )

    @classmethod
    def adopt(cls, name: str, connection: Connection, device: LoopDevice) -> Self:
        """Go on with what another owner made, in ``connection``'s measure."""
        disk = cls(name, no_server, max_io=connection.max_io, depth=connection.depth)
        disk._connection, disk._device = connection, device
        return disk

    @property
    def device(self) -> LoopDevice | None:
        """The loop device, once it is attached."""
        return self._device

    @property
    def path(self) -> Path:
        """The block device."""
        assert self._device is not None, "not open"
        return self._device.path

    @property
    def file(self) -> Path:
        """The bare file, by way of this process."""
        assert self._connection is not None, "not open"
        return Path(f"/proc/{os.getpid()}/fd/{self._connection.mount}/{FILE}")

    @property
    def connection(self) -> Connection:
        """The FUSE connection, which all holders of its descriptor share."""
        assert self._connection is not None, "not open"
        return self._connection

    def replace(self, start: Callable[[Connection], Server] | None = None) -> None:
        """Have another server go on with what the last one left, which is stopped or dead.

        Requests that were in flight come again, and are marked as replayed (Linux 6.9).
        """
        self._end_server()
        self.connection.resend()
        self._start = start or self._start
        self._serve()

    def close(self, *, force: bool = False) -> None:
        """Detach the device and end everything; does nothing if it is closed.

        Raises KmindError, which says by whom, if it is in use: it stays as it is then. With
        ``force`` all of its I/O fails, and the kernel frees it when its last user closes it.
        """
        if self._connection is None:
            return
        if force:
            self._connection.abort()
        with self._deadline("detaching"):
            self._detach(force=force)
        # A server that does not end may keep the descriptor: the connection ends without it.
        self._connection.abort()
        try:
            self._end_server()
        finally:
            self._close_file()
            self._disconnect()

    @contextmanager
    def _deadline(self, doing: str) -> Iterator[None]:
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            self.connection.abort()

        timer = threading.Timer(self._timeout, expire)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (OSError, KmindError) as error:
            if not expired.is_set():
                raise
            late = f"{doing} {self._name} took over {self._timeout:g} s: {error}"
            raise KmindError(late, hint="see why the driver does not answer") from error
        else:
            if expired.is_set():
                raise KmindError(
                    f"{doing} {self._name} took over {self._timeout:g} s, so its I/O was ended",
                    hint="see why the driver does not answer",
                )
        finally:
            timer.cancel()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _serve(self) -> None:
        self._server = self._start(self.connection)

    def _end_server(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    def _open(self) -> None:
        with self._deadline("opening"):
            flags = os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC
            self._file = os.open(FILE, flags, dir_fd=self.connection.mount)

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _attach(self) -> None:
        with self._deadline("attaching"):
            self._device = LoopDevice.attach(self._file, self._name, block_size=self._block_size)
        self._close_file()

    def _detach(self, *, force: bool = True) -> None:
        if self._device is not None:
            self._device.detach(force=force)
            self._device = None
