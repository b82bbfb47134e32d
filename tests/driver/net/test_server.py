# SPDX-License-Identifier: Apache-2.0
"""Interfaces served by a Python class, on the real kernel: frames pass, late, or not at all."""

import hashlib
import os
import socket
import struct
import threading
import time

import numpy as np
import pytest
from driver.net.nets import (
    ENOUGH_S,
    LEFT,
    PORT,
    RIGHT,
    Cable,
    arrival,
    net,
    served,
    wait_until,
)

from kmind.driver.net.batch import Batch, NetDriver
from kmind.driver.net.server import NetServer
from kmind.driver.net.tap import Tap
from kmind.errors import RingError

pytestmark = pytest.mark.kernel

THERE, BACK = (RIGHT, PORT), (LEFT, PORT)


class Keeps(NetDriver):
    """Keeps IPv4 datagrams, to be answered later; the rest goes on."""

    def __init__(self) -> None:
        self.kept: list[tuple[Batch, np.ndarray]] = []

    def serve(self, batch: Batch) -> None:
        datagram = np.array([frame[23] == 17 and frame[12] == 8 for frame in batch.frames])
        datagram &= batch.frames.head(14)[:, 13] == 0  # no ARP
        batch.forward(~datagram, 1 - batch.source[~datagram])
        if datagram.any():
            self.kept.append((batch, np.flatnonzero(datagram)))


@pytest.mark.parametrize("offload", [True, False])
def test_datagrams_pass_both_ways_in_order(offload: bool) -> None:
    with net(offload=offload) as pair, served(pair, Cable()) as server:
        left, right = pair.udp(0), pair.udp(1)
        left.sendto(b"first", THERE)
        assert right.recv(100) == b"first"
        for number in range(2_000):
            left.sendto(struct.pack("I", number) + bytes(number % 1400), THERE)
            if number % 200 == 199:  # no more than the interface's queue holds
                for expected in range(number - 199, number + 1):
                    data = right.recv(2048)
                    assert data == struct.pack("I", expected) + bytes(expected % 1400)
        right.sendto(b"back", BACK)
        assert left.recv(100) == b"back"
        wait_until(lambda: server.in_flight == 0, "all are gone")
        here, there = server.counts
        assert here.received == there.sent >= 2_001
        assert there.received == here.sent >= 1
        assert here.overflow + here.dropped + there.refused == 0


def test_each_frame_is_late_by_what_was_asked_and_not_early() -> None:
    with net() as pair, served(pair, Cable(20_000_000)):
        left, right = pair.udp(0), pair.udp(1)
        late = []
        for _ in range(20):
            before = time.time_ns()
            left.sendto(b"x", THERE)
            late.append(arrival(right)[1] - before)
        assert min(late) >= 20_000_000
        assert np.median(late) < 40_000_000


@pytest.mark.parametrize("offload", [True, False])
def test_a_tcp_stream_arrives_whole(offload: bool) -> None:
    data = os.urandom(1 << 20)
    times = 16
    with net(offload=offload) as pair, served(pair, Cable(100_000)) as server:
        left, right = pair.tcp()

        def send() -> None:
            for _ in range(times):
                left.sendall(data)
            left.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        received, whole = hashlib.sha256(), hashlib.sha256()
        while part := right.recv(1 << 20):
            received.update(part)
        sender.join(ENOUGH_S)
        for _ in range(times):
            whole.update(data)
        assert received.digest() == whole.digest()
        mean = server.counts[0].received_bytes / server.counts[0].received
        assert mean > 3_000 if offload else mean < 1_515


def test_frames_that_nobody_answers_stay_and_more_are_dropped_and_counted() -> None:
    driver = Keeps()
    with net() as pair, served(pair, driver, depth=8) as server:
        left, right = pair.udp(0), pair.udp(1)
        for number in range(30):
            left.sendto(bytes([number]), THERE)
        wait_until(lambda: server.counts[0].overflow == 22, "what is over the bound")
        assert server.in_flight == 8
        # Answered by another thread than the server's, the last first, and late.
        for batch, which in driver.kept[::-1]:
            batch.delay(which[1:], 1_000_000)
            batch.forward(which[::-1], 1)
        got = {right.recv(100)[0] for _ in range(8)}
        assert got == set(range(8))
        wait_until(lambda: server.in_flight == 0, "they are gone")
        left.sendto(b"again", THERE)
        wait_until(lambda: server.in_flight == 1, "there is room again")


class Raises(Cable):
    def serve(self, batch: Batch) -> None:
        if any(b"bad" in bytes(frame) for frame in batch.frames):
            raise RuntimeError("an author's mistake")
        super().serve(batch)


def test_a_driver_that_raises_loses_its_batch_and_goes_on() -> None:
    errors: list[Exception] = []
    with net() as pair, served(pair, Raises(), errors=errors) as server:
        left, right = pair.udp(0), pair.udp(1)
        left.sendto(b"good", THERE)
        assert right.recv(100) == b"good"
        left.sendto(b"bad", THERE)
        wait_until(lambda: server.counts[0].dropped == 1, "it is dropped")
        left.sendto(b"good again", THERE)
        assert right.recv(100) == b"good again"
        assert [str(error) for error in errors] == ["an author's mistake"]
        wait_until(lambda: server.in_flight == 0, "all are gone")


def test_frames_for_an_interface_that_is_down_are_refused_and_counted() -> None:
    with net() as pair:
        tap = Tap.open("third", pair.spaces[1])
        with tap, served(pair, To(2), extra=tap) as server:
            pair.udp(0).sendto(b"x", THERE)
            wait_until(lambda: server.counts[2].refused > 0, "refused")
            assert server.counts[2].sent == 0
            wait_until(lambda: server.in_flight == 0, "they are gone")


class To(NetDriver):
    """Sends all to one interface."""

    def __init__(self, to: int) -> None:
        self.to = to

    def serve(self, batch: Batch) -> None:
        batch.forward(np.arange(len(batch)), self.to)


def test_an_interface_that_somebody_deletes_ends_the_server_with_its_name() -> None:
    with net() as pair:
        server = NetServer(Cable(), pair.taps)
        failed: list[BaseException] = []

        def run() -> None:
            try:
                server.run()
            except RingError as error:
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        pair.spaces[1].call(lambda: delete("right"))
        thread.join(ENOUGH_S)
        assert not thread.is_alive()
        assert "right cannot be read" in str(failed[0])


def delete(name: str) -> None:
    """Do as ``ip link delete`` does."""
    index = socket.if_nametoindex(name)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as one:
        one.send(struct.pack("IHHII", 32, 17, 5, 1, 0) + struct.pack("BxHiII", 0, 0, index, 0, 0))
        assert struct.unpack_from("i", one.recv(4096), 16)[0] == 0
