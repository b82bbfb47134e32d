# SPDX-License-Identifier: Apache-2.0
"""The simulated agent by itself: what only a clock of one's own can show, to the nanosecond."""

import mmap
import os
import select
from collections.abc import Iterator

import numpy as np
import pytest
from agents import header_of, recommendation, write_slot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmind.agent.sim.agent import SimAgent, SimDoorbell
from kmind.agent.types import Cause, Grant, Mode, Verdict
from kmind.errors import KmindError
from kmind.queue import Endpoint

MS = 1_000_000


@pytest.fixture
def agent() -> Iterator[SimAgent]:
    made = SimAgent(realtime=False, now_ns=0, gauges=(3,), hooks=("on_x",), sq_slots=16)
    made.set_mode(Mode.AUTO)
    made.start()
    yield made
    made.close()


def admit(agent: SimAgent, now_ns: int, rec_id: int, **words: int) -> int:
    position = int(header_of(agent)["cq_head"])
    words = {"knob": 1, "target": 1, "type": 1, "expires_ns": 1 << 63, **words}
    write_slot(agent.arena, agent.geometry, position, recommendation(position, id=rec_id, **words))
    agent.step(now_ns)
    return int(next(a.verdict for a in agent.poll(0) if a.kind == "verdict") or 0)


def test_a_recommendation_expires_to_the_nanosecond(agent: SimAgent) -> None:
    agent.admission.grant(1, 1, Grant(0, 100, 0))
    assert admit(agent, 999, 1, value=1, expires_ns=1000) == Verdict.APPROVED
    assert admit(agent, 1000, 2, value=2, expires_ns=1000) == Verdict.EXPIRED


def test_the_rate_is_kept_to_the_nanosecond(agent: SimAgent) -> None:
    """Two at once, then one each 100 ms; a refusal costs nothing."""
    agent.admission.grant(1, 1, Grant(0, 100, 0, interval_ns=100 * MS, burst=2))
    times = [1, 1, 1, 100 * MS, 100 * MS + 1, 100 * MS + 1, 900 * MS, 900 * MS, 900 * MS]
    verdicts = [admit(agent, now, n, value=n) for n, now in enumerate(times, 1)]
    good, bad = Verdict.APPROVED, Verdict.RATE
    assert verdicts == [good, good, bad, bad, good, bad, good, good, bad]


def test_the_watchdog_counts_from_the_last_beat(agent: SimAgent) -> None:
    header = header_of(agent)
    agent.step(500 * MS)
    header["heartbeat"] += 1
    agent.step(600 * MS)
    agent.step(1600 * MS)
    assert header["mode"] == Mode.AUTO
    agent.step(1600 * MS + 1)
    assert header["mode"] == Mode.EMERGENCY
    assert [(a.mode, a.cause, a.time_ns) for a in agent.poll(0)] == [
        (Mode.AUTO, Cause.ASKED, 0),
        (Mode.EMERGENCY, Cause.STALLED, 1600 * MS + 1),
    ]
    # The admin's word counts as a beat.
    agent.set_mode(Mode.CANARY)
    agent.step(2600 * MS + 1)
    assert header["mode"] == Mode.CANARY
    agent.step(2600 * MS + 2)
    assert header["mode"] == Mode.EMERGENCY


def test_windows_close_when_they_are_due(agent: SimAgent) -> None:
    endpoint = Endpoint(agent.arena, SimDoorbell(agent.doorbell_fd))
    agent.count(0, 5)
    agent.count(0)
    agent.gauge(3, 70)
    agent.step(100 * MS - 1)
    assert len(endpoint.windows) == 0
    agent.step(103 * MS)
    agent.count(0, (1 << 64) - 1)
    agent.step(203 * MS)
    windows = endpoint.windows.peek()
    assert windows["start_ns"].tolist() == [0, 103 * MS]
    assert windows["end_ns"].tolist() == [103 * MS, 203 * MS]
    assert windows["value"][:, 0].tolist() == [6, (1 << 64) - 1]
    assert windows["value"][:, 3].tolist() == [70, 70]
    assert set(windows["mode"]) == {Mode.AUTO}


def test_what_others_map(agent: SimAgent) -> None:
    """Arena, doorbell and actions are descriptors, of use to a process or a selector."""
    other = np.frombuffer(mmap.mmap(agent.arena_fd, agent.arena_size), np.uint8)
    endpoint = Endpoint(other, SimDoorbell(os.dup(agent.doorbell_fd)))
    agent.push(64, 1, 42)
    assert endpoint.records[0].peek()["value"].tolist() == [Mode.AUTO, 42]
    assert endpoint.mode == Mode.AUTO
    assert select.select([agent.action_fd], [], [], 0)[0]
    assert [a.kind for a in agent.poll(0)] == ["mode"]
    assert not select.select([agent.action_fd], [], [], 0)[0]
    assert agent.poll(0.01) == []
    assert (agent.arena_address, agent.backend) == (0, "sim")
    assert (agent.hooks.attached(), agent.hooks.missing()) == ({"on_x": 0}, {})


def test_it_holds_as_many_grants_as_the_kernel(agent: SimAgent) -> None:
    for knob in range(256):
        agent.admission.grant(knob, 1, Grant(0, 1, 0))
    agent.admission.grant(255, 1, Grant(0, 2, 0))
    with pytest.raises(KmindError, match="256 grants"):
        agent.admission.grant(256, 1, Grant(0, 1, 0))


def test_closed(agent: SimAgent) -> None:
    agent.close()
    with pytest.raises(KmindError, match="closed"):
        agent.poll(0)


@given(seed=st.integers(0, 1 << 32), rounds=st.integers(1, 30))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_noise_in_the_arena_harms_nobody(agent: SimAgent, seed: int, rounds: int) -> None:
    noise = np.random.default_rng(seed)
    agent.admission.grant(1, 1, Grant(0, 100, 0))
    before = agent.account()
    for turn in range(rounds):
        agent.arena[:] = noise.integers(0, 256, agent.arena_size, np.uint8)
        header_of(agent)["cq_tail"] = noise.integers(0, 100)
        agent.push(64, turn, turn)
        agent.step(before["heartbeat_ns"] + turn * 60 * MS)
        assert all(a.verdict != Verdict.APPROVED for a in agent.poll(0))
    after = agent.account()
    assert all(after[name] >= count for name, count in before.items())
    assert after["verdict_approved"] == 0
    assert header_of(agent)["agent_ns"] == agent._now
