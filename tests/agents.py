# SPDX-License-Identifier: Apache-2.0
"""Agents for tests: one without hooks on the real kernel, and recommendations as bytes."""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from programs import program

from kmind.abi import layout
from kmind.agent.kernel.agent import BpfAgent
from kmind.agent.sim.agent import SimAgent, SimDoorbell
from kmind.queue import Bell, Doorbell, Endpoint, Geometry
from kmind.queue.completion import check_words

__all__ = [
    "BARE",
    "REFUSED",
    "WORK",
    "BareAgent",
    "BareSim",
    "bell",
    "compile_bpf",
    "header_of",
    "recommendation",
    "sleep_on",
    "write_slot",
]

ROOT = Path(__file__).resolve().parent.parent
BARE = ROOT / "tests" / "kernel" / "bare.bpf.c"
WORK = np.dtype(
    [(name, "<u4") for name in ("pushes", "admits", "kind", "subject")]
    + [(name, "<u8") for name in ("value", "count", "gauge", "pushed")]
)
"""``struct bare_work`` of bare.bpf.c."""

# The helper is one that never was: an older kernel lacks those that came later, and one in
# lockdown=confidentiality those that read its memory, which cannot be entered for one test.
REFUSED = """
#include <kmind/agent.h>

SEC("tp_btf/block_rq_complete")
int BPF_PROG(on_complete, struct request *rq, int error, unsigned int bytes)
{
	long (*absent)(void) = (void *)9999;

	KM_USES_ARENA();
	return absent();
}
"""
"""An agent that the verifier refuses, in C."""


def compile_bpf(source: Path, target: Path, *more: str) -> Path:
    """Compile one BPF source as the build does, with more options, in each of its shapes."""
    sys.path.insert(0, str(ROOT))
    try:
        import hatch_build
    finally:
        sys.path.remove(str(ROOT))
    program("clang-19")
    command = [hatch_build.find_clang(), *hatch_build._flags(), *more]
    hatch_build.compile_shapes(source, target, command, None)
    return target


class BareAgent(BpfAgent):
    """The agent of bare.bpf.c. It does nothing by itself until ``start``."""

    def work(self, **words: int) -> int:
        """Do what a hook would do, on this CPU; how many records were pushed."""
        return int(self._call("bare_run", words)["pushed"])

    def interrupts(self, count: int) -> None:
        """Let a timer push ``count`` records of kind 66, on this CPU, meanwhile."""
        self._call("bare_interrupts", {"pushes": count})

    def _call(self, program: str, words: dict[str, int]) -> Any:
        work = np.zeros((), WORK)
        for name, value in words.items():
            work[name] = value
        return np.frombuffer(self.own.run(program, work.tobytes()), WORK)[0]


class BareSim(SimAgent):
    """The same on the simulated agent."""

    def __init__(self, **options: Any) -> None:
        super().__init__(gauges=(1,), nr_cpus=2, **options)

    def work(
        self,
        *,
        pushes: int = 0,
        admits: int = 0,
        kind: int = 0,
        subject: int = 0,
        value: int = 0,
        count: int = 0,
        gauge: int = 0,
    ) -> int:
        """Do what a hook would do; how many records were pushed."""
        # The gauge first: a window may close between the two, and tests wait for the count.
        self.gauge(1, gauge)
        self.count(0, count)
        pushed = sum(self.push(kind, subject, value + turn) for turn in range(pushes))
        for _ in range(admits):
            self.hook_end()
        return pushed


def bell(agent: BareAgent | BareSim) -> Bell:
    """The extension's end of the agent's doorbell."""
    if agent.backend == "sim":
        return SimDoorbell(agent.doorbell_fd)
    return Doorbell(agent.doorbell_fd)


def header_of(agent: BareAgent | BareSim) -> Any:
    """The arena's ``layout.HEADER``, one field of which can be read or written."""
    return agent.arena[: layout.HEADER.itemsize].view(layout.HEADER)[0]


def sleep_on(endpoint: Endpoint) -> None:
    """Sleep until the doorbell rings. It may ring late, once, for an earlier sleep."""
    began = time.monotonic()
    if not endpoint.wait(60):
        assert time.monotonic() - began < 60, "a record waits and nobody rang"


def recommendation(position: int, **words: int) -> Any:
    """A well-formed slot for that position of the queue: ``layout.RECOMMENDATION``."""
    entry = np.zeros((), layout.RECOMMENDATION)
    entry["commit"] = (position + 1) % (1 << 32)
    for name, value in words.items():
        entry[name] = value
    entry["check"] = check_words(np.frombuffer(entry.tobytes(), np.uint64))
    return entry


def write_slot(arena: Any, geometry: Geometry, position: int, entry: Any) -> None:
    """Put a slot's bytes where they belong, and move the queue's index behind it."""
    start = geometry.cq + position % layout.LIMIT["CQ_SLOTS"] * entry.itemsize
    arena[start : start + entry.itemsize] = np.frombuffer(entry.tobytes(), np.uint8)
    header = arena[: layout.HEADER.itemsize].view(layout.HEADER)
    header["cq_tail"] = (position + 1) % (1 << 32)
