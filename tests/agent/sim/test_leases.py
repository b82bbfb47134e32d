# SPDX-License-Identifier: Apache-2.0
"""Leases of simulated agents, beside those of the kernel."""

from pathlib import Path
from typing import Any

import pytest
from agent.both import HIGH, HOUR_NS, Pair, knobs, mostly, targets
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from kmind.agent.core.core import Core
from kmind.agent.sim.leases import SimLeases
from kmind.agent.types import Grant, Mode, Verdict

pytestmark = pytest.mark.kernel("syscall")


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
        real = self.core.leases.release(slot, knob, target)
        assert real == self.leases.release(slot, knob, target)
        self.core.approvals.disapprove(knob, target, slot)

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


@pytest.mark.usefixtures("each_shape")
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
                        agent.admission.grant(knob, target, each)
        for kind, slot, *rest in then:
            pair = crowd.pairs[slot - 1]
            if kind == "recommend":
                event(Verdict(pair.recommend(**rest[0])).name)
            elif kind == "release":
                crowd.release(slot, *rest)
            for agent in pair.both:
                if kind == "current":
                    agent.admission.set_current(*rest)
                elif kind == "grant":
                    agent.admission.grant(*rest)
                elif kind == "revoke":
                    agent.admission.revoke(*rest)
                elif kind == "mode":
                    agent.set_mode(rest[0])
            crowd.agree()
    finally:
        crowd.close()
