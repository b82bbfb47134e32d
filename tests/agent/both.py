# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of admission and its neighbours."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from agents import BareAgent, recommendation, write_slot
from hypothesis import strategies as st

from kmind.abi import layout
from kmind.agent.core.core import Core
from kmind.agent.sim.agent import SimAgent
from kmind.agent.sim.leases import SimLeases
from kmind.agent.types import Action

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
