# SPDX-License-Identifier: Apache-2.0
"""Kill -9 of the process that serves interfaces: they go with it, or the next one takes them."""

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from driver.net.nets import ENOUGH_S, PORT, RIGHT, Net, net, wait_until

pytestmark = pytest.mark.fault

SERVING = Path(__file__).with_name("serving.py")
THERE = (RIGHT, PORT)


@contextlib.contextmanager
def serving(pair: Net, ns: int = 0) -> Iterator[subprocess.Popen[str]]:
    """A process that serves both interfaces."""
    fds = [tap.fd for tap in pair.taps]
    process = subprocess.Popen(
        [sys.executable, SERVING, *map(str, [*fds, ns])],
        pass_fds=fds,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.kernel
def test_interfaces_go_with_a_process_that_alone_holds_them() -> None:
    with net() as pair, serving(pair) as process:
        left, right = pair.udp(0), pair.udp(1)
        left.sendto(b"x", THERE)
        assert right.recv(100) == b"x"
        for tap in pair.taps:
            tap.close()
        left.sendto(b"its descriptors are enough", THERE)
        right.recv(100)
        process.kill()
        process.wait(ENOUGH_S)
        for side in (0, 1):
            wait_until(lambda side=side: pair.names(side) == ["lo"], "they vanish")
        with pytest.raises(OSError, match=r"unreachable|No such device"):
            left.sendto(b"x", THERE)


@pytest.mark.kernel
def test_the_next_process_goes_on_with_interfaces_that_their_owner_holds() -> None:
    with net() as pair:
        left, right = pair.udp(0), pair.udp(1)
        for round_ in range(4):
            with serving(pair) as process:
                left.sendto(b"%d" % round_, THERE)
                assert right.recv(100) == b"%d" % round_
                process.kill()
                process.wait(ENOUGH_S)
            # Meanwhile frames wait in the interface's queue.
            left.sendto(b"while there is none, %d" % round_, THERE)
            with serving(pair):
                assert right.recv(100) == b"while there is none, %d" % round_


@pytest.mark.kernel
def test_a_tcp_stream_survives_kills() -> None:
    with net() as pair, contextlib.ExitStack() as stack:
        process = stack.enter_context(serving(pair, 1_000_000))
        left, right = pair.tcp()
        total = 64 << 20
        got = 0

        def send() -> None:
            block = bytes(range(256)) * 4096
            for _ in range(total // len(block)):
                left.sendall(block)
            left.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        kills = 0
        while part := right.recv(1 << 20):
            assert part[0] == got % 256
            assert part[-1] == (got + len(part) - 1) % 256
            got += len(part)
            if got > (kills + 1) * total // 4 and kills < 3:
                kills += 1
                process.kill()
                process.wait(ENOUGH_S)
                process = stack.enter_context(serving(pair, 1_000_000))
        sender.join(ENOUGH_S)
        assert (got, kills) == (total, 3)


@pytest.mark.kernel
def test_the_owner_can_take_the_carrier_of_interfaces_that_nobody_serves() -> None:
    with net() as pair:
        assert pair.carrier(0)
        with serving(pair) as process:
            process.kill()
        for tap in pair.taps:
            tap.carrier(False)
        wait_until(lambda: not pair.carrier(0) and not pair.carrier(1), "no carrier")
        for tap in pair.taps:
            tap.carrier(True)
        wait_until(lambda: pair.carrier(0) and pair.carrier(1), "it is back")
        with serving(pair):
            left, right = pair.udp(0), pair.udp(1)
            left.sendto(b"x", THERE)
            assert right.recv(100) == b"x"
