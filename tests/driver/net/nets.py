# SPDX-License-Identifier: Apache-2.0
"""Two namespaces, an interface in each, and what passes between them, for the tests of net."""

import contextlib
import fcntl
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from programs import machine_lacks

from kmind.driver.net.batch import Batch, NetDriver
from kmind.driver.net.namespace import Namespace
from kmind.driver.net.server import NetServer
from kmind.driver.net.tap import Address, Tap
from kmind.errors import NotSupportedError

ENOUGH_S = 20.0
LEFT, RIGHT = "10.99.0.1", "10.99.0.2"
PORT = 4000
_TIMESTAMPNS = 35


class Cable(NetDriver):
    """All that comes in at one end leaves at the other, ``ns`` later."""

    def __init__(self, ns: int = 0) -> None:
        self.ns = ns

    def serve(self, batch: Batch) -> None:
        everything = np.arange(len(batch))
        batch.forward(everything, 1 - batch.source)
        batch.delay(everything, self.ns)


@dataclass
class Net:
    """The two sides, each a namespace, with an interface that has an address."""

    spaces: tuple[Namespace, Namespace]
    taps: tuple[Tap, Tap]
    sockets: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def udp(self, side: int) -> socket.socket:
        """A socket on one side, bound to its address and `PORT`."""

        def make() -> socket.socket:
            one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            one.setsockopt(socket.SOL_SOCKET, _TIMESTAMPNS, 1)
            one.settimeout(ENOUGH_S)
            one.bind(((LEFT, RIGHT)[side], PORT))
            return one

        return self.sockets.enter_context(self.spaces[side].call(make))

    def tcp(self) -> tuple[socket.socket, socket.socket]:
        """A connection: the left end, and the right one."""

        def listen() -> socket.socket:
            return socket.create_server((RIGHT, PORT))

        with self.spaces[1].call(listen) as server:
            left = self.spaces[0].call(lambda: socket.create_connection((RIGHT, PORT), ENOUGH_S))
            self.sockets.enter_context(left)
            server.settimeout(ENOUGH_S)
            right, _ = server.accept()
            right.settimeout(ENOUGH_S)
            return left, self.sockets.enter_context(right)

    def names(self, side: int) -> list[str]:
        """The interfaces that are there."""
        return self.spaces[side].call(lambda: [name for _, name in socket.if_nameindex()])

    def carrier(self, side: int) -> bool:
        """True while the interface has one (IFF_RUNNING)."""

        def flags() -> int:
            request = struct.pack("16sH22x", self.taps[side].name.encode(), 0)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                return int(struct.unpack_from("H", fcntl.ioctl(one, 0x8913, request), 16)[0])

        return bool(self.spaces[side].call(flags) & 0x40)


def quiet(name: str) -> None:
    """No IPv6 on an interface, which would send frames by itself."""
    Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")


@contextlib.contextmanager
def net(*, offload: bool = True) -> Iterator[Net]:
    """Two interfaces that nobody serves yet."""
    with contextlib.ExitStack() as stack:
        spaces = [stack.enter_context(Namespace.new()) for _ in range(2)]
        taps = []
        for space, name, address in zip(spaces, ("left", "right"), (LEFT, RIGHT), strict=True):
            try:
                tap = stack.enter_context(Tap.open(name, space, offload=offload))
            except NotSupportedError as error:
                machine_lacks(str(error))
            with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
                space.call(lambda name=name: quiet(name))
            tap.up(space, Address(address))
            taps.append(tap)
        one = Net((spaces[0], spaces[1]), (taps[0], taps[1]))
        stack.enter_context(one.sockets)
        yield one


@contextlib.contextmanager
def served(
    net: Net,
    driver: NetDriver,
    *,
    depth: int = 1024,
    errors: list[Exception] | None = None,
    extra: Tap | None = None,
) -> Iterator[NetServer]:
    """Serve them from a thread."""
    report: Callable[[Exception], None] = (errors if errors is not None else []).append
    server = NetServer(driver, [*net.taps, *([extra] if extra else [])], depth=depth, report=report)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(ENOUGH_S)
        assert not thread.is_alive()


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Wait for it, and fail if it does not come."""
    deadline = time.monotonic() + ENOUGH_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def arrival(one: socket.socket) -> tuple[bytes, int]:
    """The next datagram, and the kernel's time of its coming, in ns of the wall clock."""
    data, more, _, _ = one.recvmsg(2048, 64)
    (level, kind, stamp) = more[0]
    assert (level, kind) == (socket.SOL_SOCKET, _TIMESTAMPNS)
    seconds, ns = struct.unpack("qq", stamp)
    return data, seconds * 10**9 + ns
