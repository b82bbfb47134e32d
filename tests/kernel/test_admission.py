# SPDX-License-Identifier: Apache-2.0
"""Admission in the kernel and in Python decide alike, whatever an extension writes."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agents import BareAgent, compile_bpf, recommendation, write_slot
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from kmind.abi import layout
from kmind.agent.core.core import Core
from kmind.agent.sim.agent import SimAgent
from kmind.agent.sim.leases import SimLeases
from kmind.agent.types import Action, Grant, Mode, Rule, Verdict

pytestmark = pytest.mark.kernel("arena", "syscall")

HOUR_NS = 3600 * 10**9
LOW, HIGH = -(1 << 63), (1 << 63) - 1
SLOTS = layout.LIMIT["CQ_SLOTS"]
NAN = 0x7FF8 << 48  # as the bits of a double


class Pair:
    """One agent of each kind, which are told the same."""

    def __init__(
        self,
        path: Path,
        core: Core | None = None,
        leases: SimLeases | None = None,
        slot: int = 0,
    ) -> None:
        if core is not None:
            assert core.register(f"bare@{slot}", "bare", "tuner") == slot
        self.bpf = BareAgent(path, sq_slots=64, core=core, slot=slot)
        nr_cpus = self.bpf.geometry.nr_cpus
        self.sim = SimAgent(realtime=False, nr_cpus=nr_cpus, sq_slots=64, leases=leases, slot=slot)
        self.both = (self.bpf, self.sim)
        self.next_id = 1

    def close(self) -> None:
        for agent in self.both:
            agent.close()

    def position(self) -> int:
        header = self.sim.arena[: layout.HEADER.itemsize].view(layout.HEADER)
        return int(header["cq_head"][0])

    def write(self, position: int, entry: Any) -> None:
        for agent in self.both:
            write_slot(agent.arena, agent.geometry, position, entry)

    def set_tail(self, tail: int) -> None:
        for agent in self.both:
            agent.arena[: layout.HEADER.itemsize].view(layout.HEADER)["cq_tail"] = tail

    def admit(self, times: int = 1) -> None:
        self.bpf.work(admits=times)
        self.sim.step(time.monotonic_ns())
        for _ in range(times):
            self.sim.hook_end()

    def recommend(self, **words: int) -> int:
        """One well-formed recommendation; the verdict on which both agree."""
        words = {"type": 1, "expires_ns": time.monotonic_ns() + HOUR_NS, **words}
        position = self.position()
        self.write(position, recommendation(position, id=self.next_id, **words))
        self.next_id += 1
        self.admit()
        self.agree()
        answer = self.queue(self.sim)[position % SLOTS]
        assert answer["answered"] == self.next_id - 1
        return int(answer["verdict"])

    @staticmethod
    def queue(agent: BareAgent | SimAgent) -> Any:
        size = SLOTS * layout.RECOMMENDATION.itemsize
        start = agent.geometry.cq
        return agent.arena[start : start + size].view(layout.RECOMMENDATION)

    def agree(self) -> None:
        """Fail where anything is different that can be seen from outside."""
        assert self.queue(self.bpf).tobytes() == self.queue(self.sim).tobytes()
        heads = [a.arena[: layout.HEADER.itemsize].view(layout.HEADER) for a in self.both]
        for name in ("mode", "cq_head", "cq_tail"):
            assert heads[0][name] == heads[1][name], name
        told = [[timeless(action) for action in agent.poll(0)] for agent in self.both]
        assert told[0] == told[1]

    def counters(self) -> list[dict[str, int]]:
        return [
            {n: c for n, c in agent.account().items() if n not in ("heartbeat_ns", "hook_ns")}
            for agent in self.both
        ]


def timeless(action: Action) -> Action:
    return replace(action, time_ns=0)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bare")
    return compile_bpf(Path(__file__).with_name("bare.bpf.c"), folder / "bare.bpf.o")


@pytest.fixture
def pair(bare: Path) -> Iterator[Pair]:
    made = Pair(bare)
    yield made
    made.close()


def mostly(usual: Any, *rare: Any) -> st.SearchStrategy[Any]:
    """The usual value four times in five."""
    return st.integers(0, 4).flatmap(lambda n: st.sampled_from(rare) if n == 0 else st.just(usual))


values = st.one_of(
    st.integers(-3, 70),
    st.sampled_from([12, 24, 48, 60]),
    st.sampled_from([LOW, LOW + 1, HIGH, HIGH - 1, NAN, 1 << 62, -(1 << 62), HIGH // 100 + 1]),
    st.integers(LOW, HIGH),
)
knobs = st.integers(1, 3)
targets = st.integers(1, 2)
grants = st.builds(
    Grant,
    minimum=st.sampled_from([LOW, LOW, 0, 1, -100]),
    maximum=st.sampled_from([HIGH, HIGH, 63, 64, 1000]),
    current=values,
    type=mostly("int", "enum"),
    step=mostly(0, 1, 64, 1 << 62, HIGH),
    step_percent=mostly(0, 1, 100, 150, 400, (1 << 32) - 1),
    grid=mostly(0, 1, 3, 4, (1 << 32) - 1),
    choices=st.one_of(st.just((1 << 64) - 1), st.integers(0, (1 << 64) - 1)),
    # Over at once, or not within this test.
    interval_ns=mostly(0, 1, HOUR_NS),
    burst=st.integers(0, 3),
    hold_ms=mostly(0, 1, 1000, 1 << 31, (1 << 32) - 1),
    rules=mostly(0, 1, 1, 2).flatmap(
        lambda count: st.tuples(
            *[
                st.builds(
                    Rule,
                    st.sampled_from(["<", "<=", ">", ">="]),
                    st.integers(1, 4),
                    st.just(0) | values,
                )
            ]
            * count
        )
    ),
)
words = st.fixed_dictionaries(
    {
        "knob": st.sampled_from([1, 2, 3] * 5 + [9]),
        "target": targets,
        "value": values,
        "type": st.sampled_from([1] * 12 + [2, 2, 0, 0xFFFF]),
        "flags": st.sampled_from([0] * 15 + [1]),
        "model": st.sampled_from([0, 7]),
        "expires_ns": st.sampled_from([HIGH] * 12 + [(1 << 64) - 1, 0, 1]),
        "hold_ms": st.integers(0, (1 << 32) - 1),
        "note": st.sampled_from([0, 5, 1024, (1 << 32) - 1]),
    }
)
U32 = st.integers(0, (1 << 32) - 1)
operations = st.one_of(
    *[st.tuples(st.just("recommend"), words)] * 9,
    st.tuples(st.just("again"), words),
    st.tuples(st.just("number"), words, st.integers(0, 200)),
    st.tuples(st.just("tear"), words, st.integers(0, 55), st.integers(1, 255)),
    st.tuples(st.just("noise"), st.binary(min_size=64, max_size=64)),
    st.tuples(st.just("tail"), st.integers(0, SLOTS) | U32),
    st.tuples(st.just("mode"), mostly(Mode.AUTO, *Mode)),
    st.tuples(st.just("model"), mostly(0, 7, 8)),
    st.tuples(st.just("current"), knobs, targets, values),
    st.tuples(st.just("grant"), knobs, targets, grants),
)


def carry_out(pair: Pair, operation: Any) -> None:
    kind, *rest = operation
    position = pair.position()
    if kind in ("recommend", "again", "number", "tear"):
        pair.next_id += kind in ("recommend", "tear")
        rec_id = rest[1] if kind == "number" else pair.next_id
        entry = np.frombuffer(
            recommendation(position, id=rec_id, **rest[0]).tobytes(), np.uint8
        ).copy()
        if kind == "tear":
            entry[rest[1]] ^= rest[2]
        pair.write(position, entry.view(layout.RECOMMENDATION)[0])
        pair.next_id = max(pair.next_id, rec_id)
    elif kind == "noise":
        pair.write(position, np.frombuffer(rest[0], layout.RECOMMENDATION)[0])
    elif kind == "tail":
        pair.set_tail((position + rest[0]) % (1 << 32))
    for agent in pair.both:
        if kind == "mode":
            agent.set_mode(rest[0])
        elif kind == "model":
            agent.set_model(rest[0])
        elif kind == "current":
            agent.set_current(*rest)
        elif kind == "grant":
            agent.grant(*rest)


@given(
    first=st.tuples(*[grants] * 6),
    then=st.lists(operations, min_size=20, max_size=80),
)
@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_both_agents_decide_alike(bare: Path, first: tuple[Grant, ...], then: list[Any]) -> None:
    pair = Pair(bare)
    try:
        for agent in pair.both:
            agent.set_mode(Mode.AUTO)
            for number, each in enumerate(first):
                agent.grant(number // 2 + 1, number % 2 + 1, each)
        for operation in then:
            carry_out(pair, operation)
            pair.admit(2)
            pair.agree()
        bpf, sim = pair.counters()
        assert bpf == sim
        for name, count in sim.items():
            if count and name.startswith("verdict_"):
                event(name)
    finally:
        pair.close()


# Of several that share a core: who has the lease counts, too.


class Crowd:
    """Two instances of each kind, which share the leases of their kind."""

    def __init__(self, path: Path) -> None:
        self.core = Core.private()
        self.leases = SimLeases()
        self.pairs = [Pair(path, self.core, self.leases, slot) for slot in (1, 2)]

    def close(self) -> None:
        for pair in self.pairs:
            pair.close()
        self.core.close()

    def release(self, slot: int, knob: int, target: int) -> None:
        assert self.core.release(slot, knob, target) == self.leases.release(slot, knob, target)
        self.core.disapprove(knob, target, slot)

    def agree(self) -> None:
        for pair in self.pairs:
            pair.agree()


slots = st.integers(1, 2)
plain = st.fixed_dictionaries(
    {
        "knob": st.sampled_from([1, 2, 2, 2, 3]),
        "target": targets,
        "value": st.integers(0, 3),
        "type": st.just(1),
        "expires_ns": st.just(HIGH),
        "hold_ms": mostly(HOUR_NS // 10**6, 0),
    }
)
modest = st.builds(
    Grant,
    minimum=st.just(0),
    maximum=mostly(9, 2),
    current=st.integers(0, 3),
    interval_ns=mostly(0, HOUR_NS),
    burst=st.integers(1, 3),
    priority=st.sampled_from([100, 100, 100, 50]),
)
shared = st.one_of(
    *[st.tuples(st.just("recommend"), slots, plain)] * 9,
    st.tuples(st.just("release"), slots, knobs, targets),
    st.tuples(st.just("current"), slots, knobs, targets, st.integers(0, 3)),
    st.tuples(st.just("grant"), slots, knobs, targets, modest),
    st.tuples(st.just("revoke"), slots, knobs, targets),
    st.tuples(st.just("mode"), slots, mostly(Mode.AUTO, Mode.ADVISE)),
)


@given(first=st.tuples(*[modest] * 12), then=st.lists(shared, min_size=10, max_size=50))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_instances_that_share_knobs_are_judged_alike(
    bare: Path, first: tuple[Grant, ...], then: list[Any]
) -> None:
    crowd = Crowd(bare)
    try:
        grants_of = iter(first)
        for pair in crowd.pairs:
            for agent in pair.both:
                agent.set_mode(Mode.AUTO)
            for knob in (1, 2, 3):
                for target in (1, 2):
                    each = next(grants_of)
                    for agent in pair.both:
                        agent.grant(knob, target, each)
        for kind, slot, *rest in then:
            pair = crowd.pairs[slot - 1]
            if kind == "recommend":
                event(Verdict(pair.recommend(**rest[0])).name)
            elif kind == "release":
                crowd.release(slot, *rest)
            for agent in pair.both:
                if kind == "current":
                    agent.set_current(*rest)
                elif kind == "grant":
                    agent.grant(*rest)
                elif kind == "revoke":
                    agent.revoke(*rest)
                elif kind == "mode":
                    agent.set_mode(rest[0])
            crowd.agree()
    finally:
        crowd.close()


# What each verdict is for, one by one.


def test_each_verdict(pair: Pair) -> None:
    now = time.monotonic_ns()
    assert pair.recommend(knob=1, target=1, value=5) == Verdict.EMERGENCY  # no mode was set
    for agent in pair.both:
        agent.grant(1, 1, Grant(0, 64, 8, step=16, grid=4))
        agent.grant(2, 1, Grant(0, 9, 1, "enum", choices=0b1011))
        agent.grant(3, 1, Grant(0, 100, 0, interval_ns=HOUR_NS, burst=2))
        agent.grant(4, 1, Grant(0, 100, 50, rules=(Rule("<", 1),)))
        agent.grant(5, 1, Grant(0, 100, 50, rules=(Rule("<", 99),)))
        agent.grant(6, 1, Grant(0, 1 << 20, 100, step_percent=400))
        agent.grant(7, 1, Grant(0, 9, 0, hold_ms=1000))
        agent.set_mode(Mode.AUTO)
    one = {"knob": 1, "target": 1}
    assert pair.recommend(**one, value=16) == Verdict.APPROVED
    assert pair.recommend(**one, value=16) == Verdict.RENEWED
    assert pair.recommend(**one, value=36) == Verdict.STEP
    assert pair.recommend(**one, value=68) == Verdict.RANGE
    assert pair.recommend(**one, value=-4) == Verdict.RANGE
    assert pair.recommend(**one, value=18) == Verdict.GRID
    assert pair.recommend(**one, value=NAN) == Verdict.RANGE
    assert pair.recommend(**one, value=20, type=2) == Verdict.TYPE
    assert pair.recommend(**one, value=20, flags=1) == Verdict.TYPE
    assert pair.recommend(**one, value=20, expires_ns=now - 10**9) == Verdict.EXPIRED
    assert pair.recommend(knob=1, target=2, value=20) == Verdict.UNKNOWN
    assert pair.recommend(knob=2, target=1, value=3, type=2) == Verdict.APPROVED
    assert pair.recommend(knob=2, target=1, value=2, type=2) == Verdict.GRID
    assert [pair.recommend(knob=3, target=1, value=n) for n in (1, 2, 3)] == [
        Verdict.APPROVED,
        Verdict.APPROVED,
        Verdict.RATE,
    ]
    assert pair.recommend(knob=4, target=1, value=16) == Verdict.RULE
    assert pair.recommend(knob=4, target=1, value=15) == Verdict.APPROVED
    assert pair.recommend(knob=5, target=1, value=15) == Verdict.RULE
    assert pair.recommend(knob=7, target=1, value=5, hold_ms=1001) == Verdict.RANGE
    assert pair.recommend(knob=7, target=1, value=5, hold_ms=1000) == Verdict.APPROVED
    assert pair.recommend(knob=7, target=1, value=5, hold_ms=1001) == Verdict.RANGE  # no renewal
    assert pair.recommend(knob=6, target=1, value=401) == Verdict.STEP
    assert pair.recommend(knob=6, target=1, value=400) == Verdict.APPROVED
    assert pair.recommend(knob=6, target=1, value=99) == Verdict.STEP
    for agent in pair.both:
        agent.set_model(7)
    assert pair.recommend(**one, value=20) == Verdict.MODEL
    assert pair.recommend(**one, value=20, model=7) == Verdict.APPROVED
    for mode, verdict in (
        (Mode.OBSERVE, Verdict.SHADOWED),
        (Mode.ADVISE, Verdict.ADVISED),
        (Mode.CANARY, Verdict.APPROVED),
        (Mode.EMERGENCY, Verdict.EMERGENCY),
    ):
        for agent in pair.both:
            agent.set_mode(mode)
        assert pair.recommend(**one, value=24, model=7) == verdict


def test_nothing_overflows(pair: Pair) -> None:
    """Differences, ratios and bounds that do not fit in 64 bits refuse; they do not wrap."""
    for agent in pair.both:
        agent.grant(1, 1, Grant(LOW, HIGH, LOW, step=10))
        agent.grant(2, 1, Grant(0, HIGH, 1, step_percent=400))
        agent.grant(3, 1, Grant(LOW, HIGH, HIGH, rules=(Rule("<", 3, HIGH),)))
        agent.grant(4, 1, Grant(LOW, HIGH, 0, grid=3))
        agent.grant(5, 1, Grant(0, 100, 0, "enum", choices=1))
        agent.grant(6, 1, Grant(LOW, HIGH, HIGH - 1, step_percent=200))
        agent.set_mode(Mode.AUTO)
    assert pair.recommend(knob=1, target=1, value=HIGH) == Verdict.STEP
    assert pair.recommend(knob=1, target=1, value=0) == Verdict.STEP
    # 100 times that is 64 more than 2**64: a product of 64 bits would be small.
    assert pair.recommend(knob=2, target=1, value=(1 << 64) // 100 + 1) == Verdict.STEP
    assert pair.recommend(knob=2, target=1, value=HIGH) == Verdict.STEP
    assert pair.recommend(knob=3, target=1, value=-5) == Verdict.RULE
    assert pair.recommend(knob=4, target=1, value=-3) == Verdict.APPROVED
    assert pair.recommend(knob=4, target=1, value=-4) == Verdict.GRID
    assert pair.recommend(knob=5, target=1, value=64, type=2) == Verdict.GRID
    assert pair.recommend(knob=6, target=1, value=HIGH) == Verdict.APPROVED


@pytest.mark.parametrize(
    "grant",
    [
        Grant(0, 1, 0, step=-1),
        Grant(0, 1, 0, interval_ns=-1),
        Grant(0, 1, 0, hold_ms=1 << 32),
        Grant(0, 1, 0, interval_ns=1 << 61, burst=4),
        Grant(0, 1, 0, rules=(Rule("<", 1),) * 5),
    ],
)
def test_a_grant_that_the_agent_cannot_compute_with(pair: Pair, grant: Grant) -> None:
    for agent in pair.both:
        with pytest.raises(ValueError, match=r"out of range|5 rules"):
            agent.grant(1, 1, grant)


def test_torn_and_replayed(pair: Pair) -> None:
    for agent in pair.both:
        agent.grant(1, 1, Grant(0, HIGH, 0))
        agent.set_mode(Mode.AUTO)
    words = {"knob": 1, "target": 1, "type": 1, "expires_ns": HIGH}
    whole = recommendation(0, id=5, value=1, **words)
    for byte in range(56):
        torn = np.frombuffer(whole.tobytes(), np.uint8).copy()
        torn[byte] ^= 1
        position = pair.position()
        torn[:4] = np.frombuffer(np.uint32(position + 1).tobytes(), np.uint8) ^ torn[:4] ^ 1
        pair.write(position, torn.view(layout.RECOMMENDATION)[0])
        pair.admit()
        assert pair.queue(pair.bpf)[position % SLOTS]["verdict"] == Verdict.TORN
        pair.agree()
    for rec_id, verdict in ((5, "APPROVED"), (5, "REPLAYED"), (4, "REPLAYED"), (0, "REPLAYED")):
        position = pair.position()
        pair.write(position, recommendation(position, id=rec_id, value=1, **words))
        pair.admit()
        assert pair.queue(pair.bpf)[position % SLOTS]["verdict"] == Verdict[verdict]
        pair.agree()


def test_nothing_is_approved_that_the_owner_could_not_hear_of(pair: Pair) -> None:
    """Its queue is bounded: what does not fit into it is refused, busy, and changes nothing."""
    for agent in pair.both:
        agent.grant(1, 1, Grant(0, 1 << 30, 0))
        agent.set_mode(Mode.AUTO)
    verdicts = []
    for value in range(1, 4001):
        position = pair.position()
        words = {"knob": 1, "target": 1, "type": 1, "expires_ns": HIGH}
        pair.write(position, recommendation(position, id=value, value=value, **words))
        pair.admit()
        verdicts.append(int(pair.queue(pair.bpf)[position % SLOTS]["verdict"]))
        assert verdicts[-1] == pair.queue(pair.sim)[position % SLOTS]["verdict"]
    approved = verdicts.count(Verdict.APPROVED)
    assert verdicts == [Verdict.APPROVED] * approved + [Verdict.BUSY] * (4000 - approved)
    assert 0 < approved < 4000
    pair.agree()
    bpf, sim = pair.counters()
    assert bpf == sim
    assert bpf["actions_lost"] == 4000 - approved
    pair.next_id = 4001
    # The last one that passed stands, not the last one that was tried.
    assert pair.recommend(knob=1, target=1, value=approved) == Verdict.RENEWED
