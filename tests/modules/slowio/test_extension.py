# SPDX-License-Identifier: Apache-2.0
"""The slow I/O module: what it suspects, on made-up streams and on real disks."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from modules.disks import UNSEEN, agent_of, brake, direct, disk_of, memory_disk

from kmind.agent.kernel.agent import BpfAgent
from kmind.agent.sim.agent import SimAgent, SimDoorbell
from kmind.agent.types import Mode
from kmind.extension import Context, Dispatcher, Given, Outlets, find_module, parse_parameters
from kmind.modules.slowio.extension import SlowIo, median_ratio
from kmind.queue import Doorbell, Endpoint
from kmind.testing.contract import CHECKS, Check

MODULE = find_module("slowio")
COLUMNS = MODULE.manifest.columns
FIRST_BIN = COLUMNS["ratio_00"]
EDGES = np.array([16, 32, 45, 54, 64, 76, 91, 128, 181, 256, 512]) / 64
NEEDS = ("libbpf", "btf", "bpf_timer", "tp_btf")


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_contract(check: Check) -> None:
    check("slowio")


# The extension, behind a simulated agent.


def test_the_median_of_binned_ratios_is_near_the_real_one() -> None:
    choose = np.random.default_rng(3)
    for true in (0.6, 1.0, 1.3, 2.5, 6.0):
        ratios = true * np.exp(choose.normal(0, 0.4, 4000))
        level = median_ratio(_binned(ratios).astype(np.float64))
        assert 2**level == pytest.approx(true, rel=0.1)
    assert median_ratio(np.zeros(12)) == 0.0


def _binned(ratios: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    return np.bincount(np.searchsorted(EDGES, ratios, side="right"), minlength=12)


class _Stream:
    """Requests of a made-up disk, through the rings to the extension, in virtual time."""

    def __init__(self, seed: int) -> None:
        self.now = 1000.0
        self.log: list[str] = []
        self.handed_over: list[tuple[str, dict[str, Any]]] = []
        self._choose = np.random.default_rng(seed)
        self.agent = SimAgent(realtime=False, now_ns=int(self.now * 1e9))
        endpoint = Endpoint(self.agent.arena, SimDoorbell(self.agent.doorbell_fd))
        self.context = Context(
            Given(
                module="slowio",
                target="sim0",
                params=parse_parameters(MODULE.manifest, []),
                features=COLUMNS,
                knobs={},
                findings=[part.name for part in MODULE.manifest.findings],
            ),
            Outlets(
                port=endpoint.cq,
                now=lambda: self.now,
                write_log=self.log.append,
                hand_over=self._hand_over,
            ),
        )
        self.agent.set_mode(Mode.OBSERVE)
        self.extension = SlowIo(self.context)
        self._dispatcher = Dispatcher(endpoint, self.extension, self.context)
        self._dispatcher.start()
        self.agent.start()

    def _hand_over(self, what: str, text: bytes) -> None:
        self.handed_over.append((what, json.loads(text)))

    def run(self, seconds: float, *, slower: float = 1.0, requests: int = 20) -> str:
        """Windows of 100 ms with so many requests each; what is thought of the disk then."""
        for _ in range(round(seconds * 10)):
            ratios = slower * np.exp(self._choose.normal(0, 0.5, requests))
            for number, count in enumerate(_binned(ratios)):
                self.agent.count(FIRST_BIN + number, int(count))
            self.agent.count(COLUMNS["reads"], requests)
            self.agent.count(COLUMNS["device_ns"], int(ratios.sum() * 1e5))
            self.now += 0.1
            self.agent.step(int(self.now * 1e9))
            self._dispatcher.step(0)
        return str(self.extension.status()["health"])


@contextlib.contextmanager
def _stream(seed: int = 1) -> Iterator[_Stream]:
    stream = _Stream(seed)
    try:
        yield stream
    finally:
        stream.agent.close()


def test_a_slow_disk_is_told_with_evidence_and_cleared_when_it_recovers() -> None:
    with _stream() as stream:
        assert stream.run(10).startswith("learning")
        assert stream.run(40) == "normal"
        assert stream.run(20, slower=2.5).startswith("fail-slow suspected")
        shown = stream.extension.status()
        assert shown["recent_ratio"] == pytest.approx(2.5, rel=0.15)
        assert shown["score"] > shown["score_limit"]
        assert shown["requests_since"] > 100
        assert shown["suspected_for_s"] > 1
        what, note = stream.handed_over[-1]
        assert (what, note["kind"], note["part"]) == ("finding", "fail_slow", "")
        assert note["score"] == pytest.approx(2.5, rel=0.15)
        assert note["title"] == f"Requests take {note['score']:.1f} times as long as usual."
        assert note["evidence"]["shift"] > note["evidence"]["shift_limit"]
        assert note["causes"] == []  # nothing else was unusual
        assert stream.run(60) == "normal"
        told = [what for what, _ in stream.handed_over]
        assert told[-1] == "cleared"
        assert set(told[:-1]) == {"finding"}
        assert stream.log == []


def test_failed_and_slow_single_requests_are_hints_at_the_cause() -> None:
    with _stream() as stream:
        stream.run(50)
        for _ in range(40):
            stream.agent.count(COLUMNS["errors"], 1)
            stream.agent.count(COLUMNS["outliers"], 10)
            stream.run(1, slower=2.5)
        causes = stream.handed_over[-1][1]["causes"]
        assert "errors" in causes[0]["hint"]
        assert causes[0]["evidence"]["errors"] > 0
        assert causes[1]["evidence"]["outliers"] > 0.02 * causes[1]["evidence"]["requests"]


def test_one_burst_is_no_suspicion() -> None:
    with _stream() as stream:
        stream.run(50)
        assert stream.run(3, slower=30.0) == "normal"
        assert stream.run(30) == "normal"
        assert stream.handed_over == []


def test_a_stream_that_stays_is_never_suspected() -> None:
    for seed in range(10):
        with _stream(seed) as stream:
            stream.run(120)
            assert stream.handed_over == [], seed


def test_few_requests_make_longer_rounds() -> None:
    with _stream() as stream:
        # 10 a second: a round of 32 takes 3.2 s, and 30 rounds a minute and a half.
        assert stream.run(80, requests=1).startswith("learning")
        assert stream.run(40, requests=1) == "normal"


def test_the_worst_outlier_is_shown_for_a_while() -> None:
    with _stream() as stream:
        stream.run(1)
        # A write of up to 64 KiB among 4: 250 ms, where 800 us are usual.
        number = 1 | 1 << 1 | 1 << 3
        stream.agent.push(64, number, 250_000 << 32 | 800, int(stream.now * 1e9))
        stream.agent.push(64, 0, 90_000 << 32 | 100, int(stream.now * 1e9))
        stream.run(1)
        worst = stream.extension.status()["worst"]
        assert worst == "write of up to 64 KiB, among 4: 250,000 us, usual are 800"
        stream.run(70)
        assert "worst" not in stream.extension.status()


# The agent, on real disks.


def _stat(disk: str) -> dict[str, int]:
    # Documentation/block/stat.rst
    words = [int(word) for word in Path(f"/sys/block/{disk}/stat").read_text().split()]
    shown = {"reads": words[0], "writes": words[4], "bytes": 512 * (words[2] + words[6])}
    return shown | {"in flight": words[8]}


def _counted(agent: BpfAgent) -> dict[str, int]:
    names = ("reads", "writes", "others", "bytes")
    return {name: agent.feature(COLUMNS[name]) for name in names}


@pytest.mark.kernel(*NEEDS)
def test_requests_and_bytes_are_those_that_the_kernel_counts(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(os.urandom(16 << 20))
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
    disk = disk_of(file)
    with agent_of("slowio", disk) as agent:
        limit = time.monotonic() + 30  # what was in the disk at the start comes back first
        while _stat(disk)["in flight"] and time.monotonic() < limit:
            time.sleep(0.001)
        # Others use the disk too: what the kernel counts brackets what the agent counts.
        outer, first, inner = _stat(disk), _counted(agent), _stat(disk)
        direct(file, reads=400, writes=100)
        inner_end, last, outer_end = _stat(disk), _counted(agent), _stat(disk)
        untimed = agent.feature(COLUMNS["untimed"])
        timed = agent.feature(COLUMNS["learning"])
    # Requests on their way between the two counts, on each CPU: beside a busy neighbour, a few.
    way = 10 * (os.cpu_count() or 1)
    # The kernel takes a flush for a write without data; the agent counts it as another.
    empty = {"reads": 0, "writes": last["others"] - first["others"]}
    seen = 1 - UNSEEN
    for name in ("reads", "writes"):
        counted = last[name] - first[name]
        assert counted + empty[name] >= (inner_end[name] - inner[name]) * seen - way, name
        assert counted <= outer_end[name] - outer[name] + way, name
    assert last["reads"] - first["reads"] >= 400 * seen - way
    assert last["writes"] - first["writes"] >= 100 * seen - way
    counted = last["bytes"] - first["bytes"]
    assert counted >= (inner_end["bytes"] - inner["bytes"]) * seen - way * (1 << 20)
    assert counted <= outer_end["bytes"] - outer["bytes"] + way * (1 << 20)
    assert timed >= 500 * seen - 2 * way
    assert untimed <= timed / 100


@pytest.mark.kernel(*NEEDS)
def test_a_disk_that_is_slowed_down_shows_in_ratios_and_records() -> None:
    with (
        memory_disk() as (disk, below),
        brake(below) as hold,
        agent_of("slowio", disk, "learn=1") as agent,
    ):
        node = f"/dev/{disk}"
        endpoint = Endpoint(agent.arena, Doorbell(agent.doorbell_fd))
        while not _bins(agent).sum():
            direct(node, reads=100, size=4096)
        assert agent.feature(COLUMNS["learning"]) >= 256
        usual = _judged(agent, node, 200)
        outliers = agent.feature(COLUMNS["outliers"])
        for ring in endpoint.records:
            ring.release(len(ring.peek()))
        hold(10)  # 100 ms each, where some 0.1 ms are usual
        slow = _judged(agent, node, 30)
        assert 2 ** median_ratio(slow) > 4
        assert median_ratio(slow) > median_ratio(usual) + 1
        assert agent.feature(COLUMNS["outliers"]) - outliers >= 20
        records = np.concatenate([ring.peek() for ring in endpoint.records])
        records = records[records["kind"] >= 64]
        assert len(records) >= 20
        took, usual_us = records["value"] >> np.uint64(32), records["value"] & np.uint64(0xFFFFFFFF)
        assert np.median(took) > 2000
        assert (took > 2 * usual_us).all()
        assert set(records["subject"]) == {0}  # a small read, alone


def _judged(agent: BpfAgent, node: str, wanted: int) -> npt.NDArray[np.float64]:
    """Read until that many requests were judged; into which bins they fell.

    Where a completion is missed (see `UNSEEN`), its request counts as in the disk until its tag is
    used again, and those meanwhile are of a class that still learns.
    """
    first, read = _bins(agent), 0
    while (judged := _bins(agent) - first).sum() < wanted:
        direct(node, reads=10, size=4096)
        read += 10
        assert read <= 10 * wanted, judged
    return judged


def _bins(agent: BpfAgent) -> npt.NDArray[np.float64]:
    return np.array([float(agent.feature(FIRST_BIN + number)) for number in range(12)])
