# SPDX-License-Identifier: Apache-2.0
"""A link between two namespaces, on the real kernel: late, lossy and slow as asked."""

import contextlib
import socket
import struct
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from driver.net.nets import LEFT, PORT, RIGHT, Net, net, require_tap, served, wait_until

from kmind.driver.net.namespace import Namespace
from kmind.driver.net.pair import Pair
from kmind.modules.link.link import Link
from kmind.modules.link.loss import Loss
from kmind.modules.link.path import Conditions
from kmind.modules.link.trace import read_deliveries

ROOT = Path(__file__).resolve().parents[3]
MS = 1_000_000
THERE, BACK = (RIGHT, PORT), (LEFT, PORT)


class Batch:
    """Frames without a kernel."""

    def __init__(self, source: list[int], arrival: int) -> None:
        self.source, self.arrival = np.array(source), arrival
        self.packets = np.ones(len(source), np.int64)
        self.wire = np.full(len(source), 100)
        self.to: dict[int, int] = {}
        self.late: dict[int, int] = {}
        self.dropped: list[int] = []

    def __len__(self) -> int:
        return len(self.source)

    def forward(self, which: np.ndarray, to: int) -> None:
        self.to |= dict.fromkeys(which.tolist(), to)

    def delay(self, which: np.ndarray, ns: np.ndarray) -> None:
        self.late |= dict(zip(which.tolist(), ns.tolist(), strict=True))

    def drop(self, which: np.ndarray) -> None:
        self.dropped += which.tolist()


def test_each_direction_has_conditions_of_its_own() -> None:
    link = Link(Conditions(delay=5 * MS), Conditions(loss=Loss(1.0)))
    batch = Batch([0, 1, 1, 0], time.monotonic_ns())
    link.serve(batch)
    assert (batch.to, batch.late) == ({0: 1, 3: 1}, {0: 5 * MS, 3: 5 * MS})
    assert batch.dropped == [1, 2]
    assert [(tally.sent, tally.lost) for tally in link.tallies] == [(2, 0), (0, 2)]


def test_what_is_lost_follows_from_the_seed_and_differs_by_direction() -> None:
    def lost(seed: int) -> list[list[int]]:
        link = Link(Conditions(loss=Loss(0.5)), seed=seed)
        found = []
        for side in (0, 1):
            batch = Batch([side] * 64, time.monotonic_ns())
            link.serve(batch)
            found.append(batch.dropped)
        return found

    assert lost(1) == lost(1)
    assert lost(1) != lost(2)
    assert lost(1)[0] != lost(1)[1]


@contextlib.contextmanager
def linked(link: Link, *, offload: bool = False, depth: int = 0) -> Iterator[Net]:
    with net(offload=offload) as pair, served(pair, link, depth=depth):
        yield pair


@pytest.mark.kernel
def test_a_ping_takes_both_delays() -> None:
    with linked(Link(Conditions(delay=20 * MS), Conditions(delay=10 * MS))) as pair:
        left, right = pair.udp(0), pair.udp(1)
        taken = []
        for _ in range(10):
            began = time.monotonic()
            left.sendto(b"ping", THERE)
            right.sendto(right.recv(100), BACK)
            assert left.recv(100) == b"ping"
            taken.append(time.monotonic() - began)
        assert min(taken) >= 0.030
        assert sorted(taken)[3] < 0.060


@pytest.mark.kernel
def test_the_share_that_is_lost_is_gone_and_counted_and_the_rest_is_in_order() -> None:
    link = Link(Conditions(loss=Loss(0.0, 0.02, 0.2), jitter=MS, delay=MS), Conditions())
    with linked(link) as pair:
        left, right = pair.udp(0), pair.udp(1)
        got: list[int] = []
        sent = 0
        for _ in range(20):
            for _ in range(100):
                left.sendto(struct.pack("I", sent), THERE)
                sent += 1
            wait_until(lambda: link.tallies[0].packets == sent, "all came")  # noqa: B023
        tally = link.tallies[0]
        right.settimeout(1)
        with contextlib.suppress(TimeoutError):
            while True:
                got.append(struct.unpack("I", right.recv(100))[0])
        assert got == sorted(got)
        assert 0 < tally.lost < sent
        assert len(got) == tally.sent
        assert tally.packets == tally.sent + tally.lost
        assert tally.full == 0


@pytest.mark.kernel
@pytest.mark.parametrize("by", ["rate", "trace"])
def test_a_bottleneck_lets_its_rate_through_and_drops_what_its_buffer_cannot_hold(
    by: str, tmp_path: Path
) -> None:
    # 1,514 bytes a millisecond.
    bits = 1514 * 8 * 1000
    (tmp_path / "trace").write_text("".join(f"{ms}\n" for ms in range(1, 101)))
    how = {"rate": bits} if by == "rate" else {"trace": read_deliveries(tmp_path / "trace")}
    link = Link(Conditions(buffer=100 * 1514, **how), Conditions())  # type: ignore[arg-type]
    with linked(link) as pair:
        left, right = pair.udp(0), pair.udp(1)
        for _ in range(300):
            left.sendto(bytes(1472), THERE)  # a frame of 1,514
        began = time.monotonic()
        right.settimeout(1)
        count = 0
        with contextlib.suppress(TimeoutError):
            while True:
                right.recv(2048)
                count += 1
                ended = time.monotonic()
        tally = link.tallies[0]
        assert count + tally.full == 300
        assert 100 <= count < 300
        assert ended - began >= (count - 100) / 1000  # some went while the others were sent
        assert tally.lost == 0


@pytest.mark.kernel
def test_a_tcp_stream_arrives_over_a_lossy_slow_link() -> None:
    link = Link(Conditions(delay=2 * MS, rate=50_000_000, loss=Loss(0.01)), seed=4)
    with linked(link) as pair:
        left, right = pair.tcp()
        data = bytes(range(256)) * 4096
        sender = threading.Thread(target=left.sendall, args=(data,))
        sender.start()
        got = bytearray()
        while len(got) < len(data):
            got += right.recv(1 << 20)
        sender.join()
        assert bytes(got) == data
        assert link.tallies[0].lost > 0


@pytest.mark.kernel
def test_the_example_of_the_page_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its two namespaces are nameless here; what it does with the link is a datagram."""
    require_tap()
    page = (ROOT / "docs/link.md").read_text()
    code = textwrap.dedent(
        page[page.index("    from kmind") : page.index("`Namespace.find` takes")]
    )
    spaces = {name: Namespace.new() for name in ("one", "two")}
    monkeypatch.setattr(Namespace, "find", spaces.__getitem__)

    def use(pair: Pair) -> None:
        def socket_at(address: str) -> socket.socket:
            one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            one.bind((address, PORT))
            one.settimeout(20)
            return one

        left = spaces["one"].call(lambda: socket_at("10.0.0.1"))
        right = spaces["two"].call(lambda: socket_at("10.0.0.2"))
        with left, right:
            left.sendto(b"x", ("10.0.0.2", PORT))
            assert right.recv(10) == b"x"
        assert not pair.errors

    try:
        scope: dict[str, object] = {"use": use}
        exec(code, scope)
    finally:
        for space in spaces.values():
            space.close()
