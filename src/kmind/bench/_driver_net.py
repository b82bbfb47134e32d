# SPDX-License-Identifier: Apache-2.0
"""A link of two interfaces that a Python process serves, between two network namespaces.

Small frames as fast as they go, from this process on one CPU through the link on another, by the
clock and by the processor time of the link, which others on its CPU do not lessen; TCP, with
segmentation left to the last end and without; frames at 5,000 a second that are to be 10 ms late;
and a flood into a link of 100 Mbit/s. Times are the kernel's, of the frame on its way into the one
interface, and out of the other. All take turns in an order that is drawn anew each round.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kmind.bench._net_server import LinkProcess
from kmind.bench._results import Metric, interleaved
from kmind.driver.net.namespace import Namespace
from kmind.driver.net.tap import Address, Tap
from kmind.errors import KmindError
from kmind.uring import Ring, prepare

__all__ = ["measure_net"]

_LEFT, _RIGHT, _PORT = "10.98.0.1", "10.98.0.2", 4000
_ROUNDS, _QUICK_ROUNDS = 10, 2
_PIECE_S, _QUICK_PIECE_S = 1.0, 0.2
_DELAY, _PER_S = 10_000_000, 5000
_RATE, _FRAME = 100_000_000, 1514
_BURST = 256
_WAIT_S = 20.0
_ALL, _TIMESTAMPNS, _RCVBUFFORCE = 3, 35, 33  # ETH_P_ALL, SO_...
_PACKET, _QDISC_BYPASS = 263, 20  # SOL_PACKET, PACKET_QDISC_BYPASS
_OUTGOING = 4  # PACKET_OUTGOING
_HEADERS = 42  # Ethernet, IPv4, UDP
_PR_SET_TIMERSLACK = 29

_Times = dict[int, int]  # by sequence number, in ns


def measure_net(*, quick: bool = False) -> list[Metric]:
    """The bench's numbers: frames and bits a second, milliseconds late, shares of a rate.

    Raises NotSupportedError without TAP, PrivilegeError without root.
    """
    rounds, piece = (_QUICK_ROUNDS, _QUICK_PIECE_S) if quick else (_ROUNDS, _PIECE_S)
    arms: dict[str, Callable[[float], float | npt.NDArray[np.float64]]] = {
        "frames": lambda s: _flood(s, 0),
        "frames_late": lambda s: _flood(s, 1_000_000),
        "tcp_gbit": lambda s: _tcp(s, offload=True),
        "tcp_without_offload_gbit": lambda s: _tcp(s, offload=False),
        "late": _late,
        "rate": _rate,
    }
    got: dict[str, list[float | npt.NDArray[np.float64]]] = {name: [] for name in arms}
    for order in interleaved(list(arms), rounds):
        for name in order:
            got[name].append(arms[name](piece))
    late = [np.asarray(one) for one in got.pop("late")]
    rates = np.array(got.pop("rate"), np.float64)
    floods = {name: np.array(got.pop(name)) for name in ("frames", "frames_late")}
    return [
        *(Metric(f"net_{name}_per_s", floods[name][:, 0]) for name in floods),
        *(Metric(f"net_{name}_per_cpu_s", floods[name][:, 1]) for name in floods),
        *(Metric(f"net_{name}", np.array(got[name], np.float64)) for name in got),
        Metric("net_late_ms", [float(np.percentile(one, 50)) for one in late]),
        Metric("net_late_p99_ms", [float(np.percentile(one, 99)) for one in late]),
        Metric("net_late_worst_ms", [float(max(one.max() for one in late))]),
        Metric("net_rate_of_asked", rates),
    ]


class _Ends:
    """Two namespaces with an interface each, and sockets in them."""

    def __init__(self, spaces: list[Namespace], taps: list[Tap], stack: ExitStack) -> None:
        self.spaces, self.taps, self._stack = spaces, taps, stack

    def udp(self, side: int) -> socket.socket:
        def make() -> socket.socket:
            one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            one.bind(((_LEFT, _RIGHT)[side], _PORT))
            return _stamped(one)

        return self._stack.enter_context(self.spaces[side].call(make))

    def raw(self, side: int, protocol: int) -> socket.socket:
        def make() -> socket.socket:
            one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
            one.bind((self.taps[side].name, protocol))
            return _stamped(one)

        return self._stack.enter_context(self.spaces[side].call(make))

    def tcp(self) -> tuple[socket.socket, socket.socket]:
        with self.spaces[1].call(lambda: socket.create_server((_RIGHT, _PORT))) as server:
            server.settimeout(_WAIT_S)
            there = (_RIGHT, _PORT)
            left = self.spaces[0].call(lambda: socket.create_connection(there, _WAIT_S))
            self._stack.enter_context(left)
            right, _ = server.accept()
            return left, self._stack.enter_context(right)

    def written(self, side: int) -> int:
        """Frames that the kernel has got from the link at that end."""

        def read() -> int:
            for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
                name, _, words = line.partition(":")
                if name.strip() == self.taps[side].name:
                    return int(words.split()[1])
            raise KmindError("the interface is gone")

        return self.spaces[side].call(read)


def _stamped(one: socket.socket) -> socket.socket:
    one.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 64 << 20)
    one.setsockopt(socket.SOL_SOCKET, _TIMESTAMPNS, 1)
    one.settimeout(_WAIT_S)
    return one


@contextmanager
def _ends(*, offload: bool) -> Iterator[_Ends]:
    with ExitStack() as stack:
        spaces = [stack.enter_context(Namespace.new()) for _ in range(2)]
        taps = []
        for space, name, address in zip(spaces, ("left", "right"), (_LEFT, _RIGHT), strict=True):
            tap = stack.enter_context(Tap.open(name, space, offload=offload))
            with suppress(FileNotFoundError):  # no IPv6, which would send frames of its own
                space.call(lambda name=name: _without_ipv6(name))  # type: ignore[misc]
            tap.up(space, Address(address))
            taps.append(tap)
        yield _Ends(spaces, taps, stack.enter_context(ExitStack()))


def _without_ipv6(name: str) -> None:
    Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")


def _flood(seconds: float, delay: int) -> npt.NDArray[np.float64]:
    # Frames through a link on a CPU of its own: a second, and a second of its processor time. This
    # process makes more than it takes.
    cpus = sorted(os.sched_getaffinity(0))
    with _ends(offload=False) as ends:
        raw = ends.raw(0, 0)  # of protocol 0 it hears nothing
        raw.setsockopt(_PACKET, _QDISC_BYPASS, 1)
        frame = np.zeros(60, np.uint8)
        frame[:14] = [*[255] * 6, 2, 0, 0, 0, 0, 1, 0x88, 0xB5]  # for experiments: nobody takes it
        ids = np.arange(_BURST)
        entries = prepare.write(raw.fileno(), 0, frame.ctypes.data, len(frame), ids)
        with LinkProcess(ends.taps, delay=delay, cpu=cpus[-1]) as link, Ring(_BURST) as ring:
            os.sched_setaffinity(0, set(cpus[:-1]) or set(cpus))
            try:
                _push_for(ring, entries, seconds / 4)
                first, began, used = ends.written(1), time.perf_counter(), link.cpu_ns
                _push_for(ring, entries, seconds)
                count, ended = ends.written(1) - first, time.perf_counter()
                used = link.cpu_ns - used
            finally:
                os.sched_setaffinity(0, cpus)
    return np.array([count / (ended - began), count * 1e9 / max(used, 1)])


def _push_for(ring: Ring, entries: prepare.Entries, seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        ring.push(entries)
        ring.submit(_BURST, _WAIT_S)
        ring.reap()


def _tcp(seconds: float, *, offload: bool) -> float:
    # Gbit/s of payload.
    with _ends(offload=offload) as ends, LinkProcess(ends.taps):
        left, right = ends.tcp()
        left.settimeout(None)
        child = os.fork()
        if not child:
            with suppress(BaseException):
                right.close()
                block = bytes(1 << 20)
                while True:
                    left.sendall(block)
            os._exit(0)
        left.close()
        try:
            memory = memoryview(bytearray(1 << 20))
            _receive_for(right, memory, seconds / 4)  # slow start
            began = time.perf_counter()
            count = _receive_for(right, memory, seconds)
            ended = time.perf_counter()
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
    return count * 8e-9 / (ended - began)


def _receive_for(one: socket.socket, memory: memoryview, seconds: float) -> int:
    until, count = time.perf_counter() + seconds, 0
    while time.perf_counter() < until:
        count += one.recv_into(memory)
    return count


def _late(seconds: float) -> npt.NDArray[np.float64]:
    # Milliseconds beyond the delay that was asked, of each frame.
    count = int(seconds * _PER_S)
    with _ends(offload=True) as ends, LinkProcess(ends.taps, delay=_DELAY):
        left, right = ends.udp(0), ends.udp(1)
        left.sendto(bytes(4), (_RIGHT, _PORT))  # learns the address
        right.recv(100)
        seen = ends.raw(0, _ALL)
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
        began = time.perf_counter()
        for number in range(1, count + 1):
            time.sleep(max(began + number / _PER_S - time.perf_counter(), 0))
            left.sendto(struct.pack("I", number), (_RIGHT, _PORT))
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 0, 0, 0, 0)  # the default again
        came = _stamps(right, count, 0)
        went = _stamps(seen, count, _HEADERS)
    if set(came) != set(went):
        raise KmindError(f"{len(came)} of {len(went)} frames came through the link")
    return np.array([came[one] - went[one] - _DELAY for one in sorted(came)]) / 1e6


def _stamps(one: socket.socket, count: int, offset: int) -> _Times:
    # The kernel's time of each datagram, by the number that it carries.
    times: _Times = {}
    while len(times) < count:
        data, more, _, sender = one.recvmsg(2048, 64)
        if offset and (sender[2] != _OUTGOING or len(data) != offset + 4):
            continue
        seconds, ns = struct.unpack("qq", more[0][2])
        times[struct.unpack_from("I", data, offset)[0]] = seconds * 10**9 + ns
    return times


def _rate(seconds: float) -> float:
    # The share of the rate that passes: bytes of frames between the first and the last of them.
    payload = bytes(_FRAME - _HEADERS)
    with _ends(offload=False) as ends, LinkProcess(ends.taps, rate=_RATE):
        left, right = ends.udp(0), ends.udp(1)
        began = time.perf_counter()
        sent = 0
        while (now := time.perf_counter() - began) < seconds:
            while sent * _FRAME * 8 < 1.5 * _RATE * now:
                left.sendto(payload, (_RIGHT, _PORT))
                sent += 1
            time.sleep(0.002)
        right.settimeout(0.5)
        times = []
        with suppress(TimeoutError):
            while True:
                more = right.recvmsg(2048, 64)[1]
                whole, ns = struct.unpack("qq", more[0][2])
                times.append(whole * 10**9 + ns)
    if len(times) < 2:
        raise KmindError("no frames came through the link")
    bits = (len(times) - 1) * _FRAME * 8
    return float(bits / _RATE / ((times[-1] - times[0]) / 1e9))
