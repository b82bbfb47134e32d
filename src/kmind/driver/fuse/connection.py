# SPDX-License-Identifier: Apache-2.0
"""One connection to the kernel's FUSE: opened, negotiated, resumed, aborted, closed.

Its descriptor may be held by several processes. The connection ends with the last of them: its
clients get ENOTCONN then. A process that takes a dead one's place calls ``resend`` before it reads.
"""

from __future__ import annotations

import os
import select
from contextlib import suppress
from typing import Self

import numpy as np

from kmind.driver.fuse.mount import detached_mount, device_minor
from kmind.driver.fuse.protocol import (
    IN_HEADER_BYTES,
    INIT_IN,
    INIT_OUT,
    MAJOR,
    MINOR,
    NOTIFY_RESEND,
    OUT_HEADER,
    REQUEST,
    InitFlag,
    Opcode,
)
from kmind.errors import KmindError, NotSupportedError

__all__ = ["Connection", "abort"]

_PAGE = 4096
_WANTED = InitFlag.ASYNC_READ | InitFlag.BIG_WRITES | InitFlag.ASYNC_DIO | InitFlag.MAX_PAGES
_NEGOTIATION_BYTES = 1 << 16


class Connection:
    """A connection, and the mount that no folder shows.

    ``descriptor`` is of /dev/fuse, and does not block. ``mount`` is for ``os.open(..., dir_fd=)``;
    an open file keeps the file system there after it is closed. ``number`` is the connection's in
    /sys/fs/fuse/connections. ``max_io`` is the most bytes of one read or write, ``depth`` the
    most requests that the kernel sends in the background before it waits.
    """

    def __init__(self, *, max_io: int = 1 << 20, depth: int = 64, timeout: float = 5) -> None:
        if max_io % _PAGE or not _PAGE <= max_io <= 1 << 20:
            raise KmindError(f"cannot move {max_io} bytes at once", hint="use 4 KiB to 1 MiB")
        self.depth = depth
        self.descriptor = _open_device()
        self.mount = -1
        try:
            self.mount = detached_mount(
                "fuse", fd=str(self.descriptor), rootmode="40000", user_id="0", group_id="0"
            )
            self.number = device_minor(self.mount)
            self.max_io = self._negotiate(max_io, timeout)
        except BaseException:
            self.close()
            raise

    @classmethod
    def adopt(cls, descriptor: int, number: int, *, max_io: int, depth: int) -> Self:
        """One that another process opened; it is negotiated, and has no mount here."""
        connection = cls.__new__(cls)
        connection.descriptor, connection.mount, connection.number = descriptor, -1, number
        connection.max_io, connection.depth = max_io, depth
        return connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def resend(self) -> None:
        """Have the kernel send again what a dead process had read and not answered (6.9)."""
        notice = np.zeros((), OUT_HEADER)
        notice["len"] = OUT_HEADER.itemsize
        notice["error"] = NOTIFY_RESEND
        try:
            os.write(self.descriptor, notice.tobytes())
        except OSError as error:
            raise NotSupportedError(
                f"cannot take over a FUSE connection: {error.strerror}", hint="use Linux 6.9"
            ) from None

    def abort(self) -> None:
        """End all requests, now and later, with an error; no client stays waiting."""
        abort(self.number)

    def close(self) -> None:
        """Close the descriptors of this process; the connection ends if nobody else has them."""
        for name in ("mount", "descriptor"):
            if (held := getattr(self, name)) >= 0:
                setattr(self, name, -1)
                os.close(held)

    def _negotiate(self, max_io: int, timeout: float) -> int:
        if not select.select([self.descriptor], [], [], timeout)[0]:
            raise KmindError("the kernel did not begin to speak FUSE", hint="try again")
        message = os.read(self.descriptor, _NEGOTIATION_BYTES)
        if len(message) < IN_HEADER_BYTES + INIT_IN.itemsize:
            raise KmindError("the kernel's first FUSE request is too short")
        request = np.frombuffer(message.ljust(REQUEST.itemsize, b"\0"), REQUEST, 1)[0]
        asked = np.frombuffer(message, INIT_IN, 1, IN_HEADER_BYTES)[0]
        if request["opcode"] != Opcode.INIT or asked["major"] != MAJOR:
            raise NotSupportedError(f"the kernel speaks version {asked['major']} of FUSE, not 7")
        flags = _WANTED & int(asked["flags"])
        if not flags & InitFlag.MAX_PAGES:
            max_io = min(max_io, 32 * _PAGE)  # FUSE_DEFAULT_MAX_PAGES_PER_REQ
        answer = np.zeros((), INIT_OUT)
        answer["major"], answer["minor"] = MAJOR, min(MINOR, int(asked["minor"]))
        answer["max_readahead"] = min(int(asked["max_readahead"]), max_io)
        answer["flags"] = flags
        answer["max_background"] = answer["congestion_threshold"] = self.depth
        answer["max_write"], answer["max_pages"] = max_io, max_io // _PAGE
        answer["time_gran"] = 1
        head = np.zeros((), OUT_HEADER)
        head["len"] = OUT_HEADER.itemsize + INIT_OUT.itemsize
        head["unique"] = request["unique"]
        os.writev(self.descriptor, [head.tobytes(), answer.tobytes()])
        return max_io


def abort(number: int) -> None:
    """Abort a connection by its number; nothing happens if there is none."""
    control = detached_mount("fusectl")  # /sys/fs/fuse/connections need not be mounted
    try:
        with suppress(FileNotFoundError):
            switch = os.open(f"{number}/abort", os.O_WRONLY | os.O_CLOEXEC, dir_fd=control)
            try:
                os.write(switch, b"1")
            finally:
                os.close(switch)
    finally:
        os.close(control)


def _open_device() -> int:
    try:
        return os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise NotSupportedError(
            f"cannot open /dev/fuse: {error.strerror}", hint="use a kernel with FUSE, as root"
        ) from None
