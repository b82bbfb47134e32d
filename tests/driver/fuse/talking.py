# SPDX-License-Identifier: Apache-2.0
"""The kernel's part in a talk with a server, on a socket in place of /dev/fuse."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

from kmind.driver.block import BlockDriver
from kmind.driver.fuse.server import DiskServer

__all__ = ["SIZE", "answer", "moving", "request", "serving"]

DISK = 2
SIZE = 1 << 16


@contextlib.contextmanager
def serving(
    driver: BlockDriver,
    depth: int = 4,
    *,
    prepare: Callable[[DiskServer], None] = lambda _: None,
    report: Callable[[Exception], None] = lambda _: None,
) -> Iterator[socket.socket]:
    """The kernel's end of a server's connection; ``prepare`` is called in the serving thread."""
    kernel, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    end.setblocking(False)
    kernel.settimeout(20)
    server = DiskServer(driver, end.fileno(), max_io=8192, depth=depth, report=report)

    def run() -> None:
        prepare(server)
        server.run()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    with kernel, end:
        yield kernel
        server.stop()
        thread.join(20)
        assert not thread.is_alive()


def request(
    opcode: int, unique: int, body: bytes = b"", *, node: int = DISK, size: int | None = None
) -> bytes:
    """A request; ``size`` is a false length for its header."""
    total = 40 + len(body) if size is None else size
    return struct.pack("<IIQQIIIHH", total, opcode, unique, node, 0, 0, 0, 0, 0) + body


def moving(opcode: int, unique: int, offset: int, length: int, data: bytes = b"") -> bytes:
    body = struct.pack("<QQIIQII", 0, offset, length, 0, 0, 0, 0)
    return request(opcode, unique, body + data)


def answer(kernel: socket.socket) -> tuple[int, int, bytes]:
    """Unique, error and data of the next answer."""
    message = kernel.recv(1 << 17)
    length, error, unique = struct.unpack_from("<IiQ", message)
    assert length == len(message)
    return unique, -error, message[16:]
