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
_TIMESTAMPNS, _RCVBUFFORCE = 35, 33


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
            one.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 1 << 24)
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


def hardware(name: str) -> bytes:
    """Its Ethernet address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        return fcntl.ioctl(one, 0x8927, struct.pack("16s24x", name.encode()))[18:24]


def know(name: str, peer: str, address: bytes) -> None:
    """Enter a neighbour for good (SIOCSARP), so that nobody has to ask for it."""
    internet = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(peer))
    ethernet = struct.pack("H6s8x", 1, address)
    request = struct.pack("16s16si16x16s", internet, ethernet, 0x02 | 0x04, name.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        fcntl.ioctl(one, 0x8955, request)


def quiet(name: str) -> None:
    """No IPv6 on an interface, which would send frames by itself."""
    Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")


def require_tap() -> None:
    """Skip the test on a kernel without TAP."""
    try:
        with Namespace.new() as space, Tap.open("probe", space):
            pass
    except NotSupportedError as error:
        machine_lacks(str(error))


@contextlib.contextmanager
def net(*, offload: bool = True) -> Iterator[Net]:
    """Two interfaces that nobody serves yet, and that say nothing unless they are told to."""
    require_tap()
    with contextlib.ExitStack() as stack:
        spaces = [stack.enter_context(Namespace.new()) for _ in range(2)]
        taps = []
        for space, name, address in zip(spaces, ("left", "right"), (LEFT, RIGHT), strict=True):
            tap = stack.enter_context(Tap.open(name, space, offload=offload))
            with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
                space.call(lambda name=name: quiet(name))
            tap.up(space, Address(address))
            taps.append(tap)
        addresses = [
            space.call(lambda name=tap.name: hardware(name))
            for space, tap in zip(spaces, taps, strict=True)
        ]
        spaces[0].call(lambda: know("left", RIGHT, addresses[1]))
        spaces[1].call(lambda: know("right", LEFT, addresses[0]))
        one = Net((spaces[0], spaces[1]), (taps[0], taps[1]))
        stack.enter_context(one.sockets)
        yield one


@contextlib.contextmanager
def served(
    net: Net,
    driver: NetDriver,
    *,
    depth: int = 0,
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
