# SPDX-License-Identifier: Apache-2.0
"""Admission in the kernel and in Python decide alike, whatever an extension writes."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agent.both import (
    HIGH,
    HOUR_NS,
    LOW,
    NAN,
    SLOTS,
    Pair,
    knobs,
    mostly,
    targets,
    values,
    words,
)
from agents import recommendation
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from kmind.abi import layout
from kmind.agent.types import Grant, Mode, Rule, Verdict

pytestmark = pytest.mark.kernel("syscall")


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
            agent.admission.set_model(rest[0])
        elif kind == "current":
            agent.admission.set_current(*rest)
        elif kind == "grant":
            agent.admission.grant(*rest)


@pytest.mark.usefixtures("each_shape")
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
                agent.admission.grant(number // 2 + 1, number % 2 + 1, each)
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


# What each verdict is for, one by one.


def test_each_verdict(pair: Pair) -> None:
    now = time.monotonic_ns()
    assert pair.recommend(knob=1, target=1, value=5) == Verdict.EMERGENCY  # no mode was set
    for agent in pair.both:
        agent.admission.grant(1, 1, Grant(0, 64, 8, step=16, grid=4))
        agent.admission.grant(2, 1, Grant(0, 9, 1, "enum", choices=0b1011))
        agent.admission.grant(3, 1, Grant(0, 100, 0, interval_ns=HOUR_NS, burst=2))
        agent.admission.grant(4, 1, Grant(0, 100, 50, rules=(Rule("<", 1),)))
        agent.admission.grant(5, 1, Grant(0, 100, 50, rules=(Rule("<", 99),)))
        agent.admission.grant(6, 1, Grant(0, 1 << 20, 100, step_percent=400))
        agent.admission.grant(7, 1, Grant(0, 9, 0, hold_ms=1000))
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
        agent.admission.set_model(7)
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
        agent.admission.grant(1, 1, Grant(LOW, HIGH, LOW, step=10))
        agent.admission.grant(2, 1, Grant(0, HIGH, 1, step_percent=400))
        agent.admission.grant(3, 1, Grant(LOW, HIGH, HIGH, rules=(Rule("<", 3, HIGH),)))
        agent.admission.grant(4, 1, Grant(LOW, HIGH, 0, grid=3))
        agent.admission.grant(5, 1, Grant(0, 100, 0, "enum", choices=1))
        agent.admission.grant(6, 1, Grant(LOW, HIGH, HIGH - 1, step_percent=200))
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
            agent.admission.grant(1, 1, grant)


def test_torn_and_replayed(pair: Pair) -> None:
    for agent in pair.both:
        agent.admission.grant(1, 1, Grant(0, HIGH, 0))
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
        agent.admission.grant(1, 1, Grant(0, 1 << 30, 0))
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
