# SPDX-License-Identifier: Apache-2.0
"""In a guest: the kernel's netem and the link of kmind, asked for the same delay by turns."""

import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from driver.net.nets import LEFT, PORT, RIGHT, arrival, net

from kmind.bench._net_server import LinkProcess
from kmind.driver.net.namespace import Namespace

DELAY = 10_000_000
PER_S, COUNT, TURNS = 100, 200, 3


def main() -> dict[str, dict[str, list[float]]]:
    """Milliseconds beyond the delay, of each datagram from before it is sent to its arrival."""
    late: dict[str, list[float]] = {"netem": [], "link": []}
    lost = {"netem": 0, "link": 0}
    for _ in range(TURNS):
        for name, make in (("netem", netem), ("link", link)):
            with make() as (left, right):
                found = measured(left, right)
                late[name] += found
                lost[name] += COUNT - len(found)
    return {name: {"late": sorted(late[name]), "lost": [lost[name]]} for name in late}


def measured(left: socket.socket, right: socket.socket) -> list[float]:
    left.sendto(struct.pack("I", COUNT), (RIGHT, PORT))  # learns addresses, and warms up
    arrival(right)
    sent = []
    began = time.perf_counter()
    for number in range(COUNT):
        time.sleep(max(began + number / PER_S - time.perf_counter(), 0))
        sent.append(time.time_ns())
        left.sendto(struct.pack("I", number), (RIGHT, PORT))
    right.settimeout(5)
    late = []
    try:
        while len(late) < COUNT:
            data, came = arrival(right)
            late.append((came - sent[struct.unpack("I", data)[0]] - DELAY) / 1e6)
    except TimeoutError:
        pass
    return late


@contextmanager
def link() -> Iterator[tuple[socket.socket, socket.socket]]:
    with net() as pair, LinkProcess(pair.taps, delay=DELAY):
        yield pair.udp(0), pair.udp(1)


@contextmanager
def netem() -> Iterator[tuple[socket.socket, socket.socket]]:
    names = ("netem-left", "netem-right")
    try:
        for name in names:
            ip("netns", "add", name)
        ends = [["left", "netns", names[0]], ["right", "netns", names[1]]]
        ip("link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        for name, end, address in zip(names, ("left", "right"), (LEFT, RIGHT), strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
        words = f"qdisc add dev left root netem delay {DELAY // 1_000_000}ms limit 10000"
        subprocess.run(["tc", "-n", names[0], *words.split()], check=True)
        with Namespace.find(names[0]) as one, Namespace.find(names[1]) as two:
            left, right = one.call(lambda: udp(LEFT)), two.call(lambda: udp(RIGHT))
            with left, right:
                yield left, right
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False)


def udp(address: str) -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.setsockopt(socket.SOL_SOCKET, 35, 1)  # SO_TIMESTAMPNS
    one.settimeout(60)
    one.bind((address, PORT))
    return one


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
