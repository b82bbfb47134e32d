# SPDX-License-Identifier: Apache-2.0
"""The I/O latency module on the real kernel: features, predictions, scores, abstention."""

import mmap
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from agents import compile_bpf
from modules.disks import UNSEEN, agent_of, direct, direct_until, loop
from modules.iolat_streams import EVENT, bursts, events_of

from kmind.agent.kernel.agent import BpfAgent
from kmind.extension import find_module
from kmind.infer import Feature, ModelFile, from_sklearn, quantise
from kmind.modules.iolat.recipe import COLUMNS, columns_of, log_of
from kmind.queue import Doorbell, Endpoint

pytestmark = pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf")

MODULE = find_module("iolat")
FEATURE = MODULE.manifest.columns
STATE = np.dtype(
    [("publishing", "<u4"), ("predicted", "<u4")]
    + [(name, "<u8") for name in ("slow_ns", "updated_ns", "version")]
    + [("accuracy", "<u4"), ("last_accuracy", "<u4")]
)
"""``struct iol_state``: what others can read."""
SMALL, LARGE = 4096, 1 << 19
OUTCOMES = ("fast_as_fast", "fast_as_slow", "slow_as_fast", "slow_as_slow")


def tree_on(name: str, above: int) -> ModelFile:
    """Slow if that feature is above that; learnt, quantised and written as any other."""
    from sklearn.tree import DecisionTreeClassifier

    rng = np.random.default_rng(0)
    x = rng.integers(0, 2 * above + 2, (2000, len(COLUMNS)))
    column = [each.name for each in COLUMNS].index(name)
    y = (x[:, column] > above).astype(int)
    tree = DecisionTreeClassifier(max_depth=1).fit(x, y)
    features = [Feature(each.name, each.unit) for each in COLUMNS]
    return quantise(from_sklearn(tree), x, (x, y), features=features)


def state(agent: BpfAgent) -> Any:
    held = agent._generation.maps["iolat_state"].lookup(bytes(4))
    assert held is not None
    return np.frombuffer(held, STATE)[0]


def counts(agent: BpfAgent, *names: str) -> list[int]:
    return [agent.feature(FEATURE[name]) for name in names]


def gauge(agent: BpfAgent, name: str) -> int:
    """In the next window that closes."""
    ring = Endpoint(agent.arena, Doorbell(agent.doorbell_fd)).windows
    ring.release(len(ring.peek()))
    end = time.monotonic() + 60
    while not len(windows := ring.peek()) and time.monotonic() < end:
        time.sleep(0.05)
    return int(windows["value"][-1, FEATURE[name]])


def recorded(node: str, **load: int) -> npt.NDArray[np.void]:
    """Requests as blockio records them, in the order of their issue: fields as in `bursts`."""
    with agent_of("blockio", node) as agent:
        endpoint = Endpoint(agent.arena, Doorbell(agent.doorbell_fd))
        direct(node, **load)
        records = np.concatenate([ring.peek() for ring in endpoint.records])
    records = records[records["kind"] >= 64]
    records = records[np.argsort(records["time_ns"], kind="stable")]
    found = np.zeros(len(records), bursts(1).dtype)
    found["issue"] = records["time_ns"]
    found["latency"] = records["value"] & np.uint64((1 << 40) - 1)
    found["depth"] = records["value"] >> np.uint64(40) & np.uint64(0xFFFF)
    found["sectors"] = records["subject"] & 0xFFFF
    found["write"] = records["kind"] - 64
    return found


def usual_us(node: str, size: int) -> float:
    """Return the median duration of such reads here, one at a time."""
    return float(np.median(recorded(node, reads=100, size=size)["latency"])) / 1e3


def feed(agent: BpfAgent, events: npt.NDArray[np.void]) -> npt.NDArray[np.int64]:
    rows = [np.frombuffer(agent.own.run("feed", each.tobytes()), EVENT)[0] for each in events]
    made = np.array(rows)
    return np.asarray(made["x"][made["done"] == 0])


@pytest.fixture(scope="module")
def feeder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Path(__file__).parents[1] / "iolat_feed.bpf.c"
    return compile_bpf(source, tmp_path_factory.mktemp("feed") / "feed.bpf.o")


def test_the_kernels_features_are_the_recipes(feeder: Path, tmp_path: Path) -> None:
    """Of a made-up stream, and of what blockio recorded of a real disk."""
    names = ("issue", "latency", "depth", "sectors", "write")
    made = bursts(1500, 3)
    with loop(tmp_path) as node:
        real = recorded(node, reads=200, writes=100)
    assert len(real) >= 300 * (1 - UNSEEN)
    for requests in (made, real):
        agent = BpfAgent(feeder)
        try:
            there = feed(agent, events_of(requests, 1_000_000))
        finally:
            agent.close()
        assert np.array_equal(there, columns_of(*(requests[name] for name in names)))


def test_what_a_model_says_is_scored_and_published_once_it_is_better(tmp_path: Path) -> None:
    """Large reads take longer than small ones, and come at random: only size tells."""
    with loop(tmp_path) as node:
        small, large = usual_us(node, SMALL), usual_us(node, LARGE)
        assert large > 1.5 * small, "no disk to tell sizes apart on"
        between = int(np.sqrt(small * large))
        words = (f"slow_us={between}", "judge_every=128", "records=1000", "min_accuracy=650")
        with agent_of("iolat", node, *words) as agent:
            mixed(node, 40)
            assert sum(counts(agent, "fast", "slow")) >= 40 * (1 - UNSEEN)
            assert counts(agent, *OUTCOMES, "published") == [0] * 5  # no model
            assert not state(agent)["publishing"]
            agent.models.deploy(tree_on("sectors", LARGE // 1024).slot())
            before = counts(agent, "fast", "slow")
            mixed(node, 600)
            right, outcomes = counts(agent, "fast", "slow"), counts(agent, *OUTCOMES)
            fast, slow = (after - was for after, was in zip(right, before, strict=True))
            # Each request that was decided is in one field of the matrix.
            assert outcomes[0] + outcomes[1] == fast
            assert outcomes[2] + outcomes[3] == slow
            assert outcomes[0] > outcomes[1]
            assert outcomes[3] > outcomes[2]
            told = state(agent)
            assert told["publishing"]
            assert told["accuracy"] > told["last_accuracy"] + 20
            assert told["version"] == 1
            assert told["slow_ns"] == between * 1000
            assert 0.2 < told["predicted"] / 65536 < 0.8
            endpoint = Endpoint(agent.arena, Doorbell(agent.doorbell_fd))
            records = np.concatenate([ring.peek() for ring in endpoint.records])
            records = records[records["kind"] == 64]
            (published,) = counts(agent, "published")
            assert 50 < len(records) <= published
            assert (records["subject"] >> 16 == LARGE // 512).all()
            direct(node, reads=10, size=SMALL)
            assert gauge(agent, "abstaining") == 0
            # Another model has to show anew what it is worth.
            agent.models.deploy(tree_on("sectors", 1 << 15).slot())
            mixed(node, 20)
            assert not state(agent)["publishing"]
            assert state(agent)["predicted"] == 0
            direct(node, reads=10, size=SMALL)
            assert gauge(agent, "abstaining") == 1


@pytest.mark.parametrize("slow", ["rare", "at random"])
def test_on_a_homogeneous_load_it_abstains(tmp_path: Path, slow: str) -> None:
    """Reads of one size, one after the other: what is slow among them nothing foretells."""
    with loop(tmp_path) as node:
        limit = int(usual_us(node, SMALL) * (20 if slow == "rare" else 1))
        # A busy neighbour makes reads slow for a while: one foretells the next then, not always.
        assert any(abstains(node, limit) for _ in range(3))


def abstains(node: str, limit: int) -> bool:
    """True if an agent whose model never predicts publishes no prediction."""
    with agent_of("iolat", node, f"slow_us={limit}", "judge_every=256") as agent:
        agent.models.deploy(tree_on("latency_4", int(log_of(np.array(limit * 1000)))).slot())

        def judged() -> bool:
            """Three times, or it has published."""
            return bool(state(agent)["publishing"]) or sum(counts(agent, *OUTCOMES)) >= 3 * 256

        direct_until(judged, node, at_most=5000, reads=100, size=SMALL)
        if state(agent)["publishing"]:
            return False
        assert counts(agent, "published") == [0]
        assert state(agent)["predicted"] == 0
        direct(node, reads=10, size=SMALL)
        assert gauge(agent, "abstaining") == 1
        return True


def mixed(node: str, reads: int) -> None:
    """Small and large reads, in random order, at random places."""
    choose = random.Random(2)
    fd = os.open(node, os.O_DIRECT | os.O_RDONLY)
    try:
        end = os.lseek(fd, 0, os.SEEK_END)
        with mmap.mmap(-1, LARGE) as buffer, memoryview(buffer) as view:
            for _ in range(reads):
                size = choose.choice((SMALL, LARGE))
                os.preadv(fd, [view[:size]], choose.randrange(end // LARGE) * LARGE)
    finally:
        os.close(fd)


def test_reads_are_told_apart_by_the_writes_beside_them(tmp_path: Path) -> None:
    """Writes of a thread of its own, and reads before and meanwhile."""
    with loop(tmp_path) as node, agent_of("iolat", node, "slow_us=1000000") as agent:

        def read_alone(wanted: int) -> int:
            before = counts(agent, "reads")[0]
            return direct_until(
                lambda: counts(agent, "reads")[0] >= before + wanted, node, at_most=1000, reads=50
            )

        asked = read_alone(40)
        alone, *others = counts(agent, "reads", "reads_beside", "slow_reads", "slow_reads_beside")
        assert 40 <= alone <= asked
        assert others == [0, 0, 0]
        done = threading.Event()

        def write() -> None:
            while not done.is_set():
                direct(node, reads=0, writes=8, size=LARGE)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            # Beside a busy neighbour the writer may be on the CPU seldom: as long as it takes.
            while asked < 20_000 and counts(agent, "reads_beside")[0] <= 50:
                direct(node, reads=100)
                asked += 100
        finally:
            done.set()
            writer.join()
        reads, beside, untimed = counts(agent, "reads", "reads_beside", "untimed")
        assert (1 - UNSEEN) * asked <= reads + beside + untimed <= asked + untimed
        assert beside > 50
        asked = read_alone(40)
        alone, still_beside = counts(agent, "reads", "reads_beside")
        assert still_beside == beside
        assert reads + 40 <= alone <= reads + asked
