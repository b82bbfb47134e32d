# SPDX-License-Identifier: Apache-2.0
"""The completion queue: recommendations and their answers."""

import time

from agents import (
    recommendation,
    write_slot,
)
from ring_agents import Make, reader_of, until

from kmind.abi import layout
from kmind.agent.types import Grant, Mode, Verdict


def test_answers_come_from_the_tick_and_from_hooks(make: Make, one_cpu: int) -> None:
    agent = make(tick_s=0.001)
    endpoint, _ = reader_of(agent, one_cpu)
    agent.admission.grant(1, 1, Grant(0, 100, 0))
    agent.set_mode(Mode.CANARY)
    words = {"type": 1, "hold_ms": 250, "expires_ns": time.monotonic_ns() + 10**11}
    note = b'{"reason":"So."}'
    assert endpoint.cq.submit(1, 1, 5, **words, note=note) == 1
    assert endpoint.cq.answers() == []  # no tick runs yet, and no hook
    agent.work(admits=1)
    assert endpoint.cq.answers() == [(1, Verdict.APPROVED)]
    (action,) = [a for a in agent.poll(1) if a.kind == "verdict"]
    assert (action.id, action.value, action.current, action.hold_ms) == (1, 5, 0, 250)
    assert (action.note, action.mode) == (note, Mode.CANARY)
    agent.start()
    assert endpoint.cq.submit(1, 1, 101, **words) == 2
    until(lambda: endpoint.cq.answers() == [(2, Verdict.RANGE)])


def test_the_queue_takes_no_more_than_it_holds(make: Make, one_cpu: int) -> None:
    agent = make()
    endpoint, _ = reader_of(agent, one_cpu)
    agent.set_mode(Mode.AUTO)
    words = {"type": 1, "hold_ms": 1, "expires_ns": 1}
    most = layout.LIMIT["CQ_SLOTS"]
    assert [endpoint.cq.submit(1, 1, 5, **words) for _ in range(most)] == list(range(1, most + 1))
    assert endpoint.cq.submit(1, 1, 5, **words) is None
    agent.work(admits=most)
    assert endpoint.cq.answers() == [(n, Verdict.UNKNOWN) for n in range(1, most + 1)]
    assert endpoint.cq.submit(1, 1, 5, **words) == most + 1


def test_before_any_mode_is_set_all_is_refused(make: Make, one_cpu: int) -> None:
    agent = make()
    agent.admission.grant(1, 1, Grant(0, 100, 0))
    entry = recommendation(0, id=1, knob=1, target=1, value=5, type=1, expires_ns=1 << 63)
    write_slot(agent.arena, agent.geometry, 0, entry)
    agent.work(admits=1)
    assert [a.verdict for a in agent.poll(1)] == [Verdict.EMERGENCY]
