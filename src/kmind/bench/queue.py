# SPDX-License-Identifier: Apache-2.0
"""Measure pushes, reads and round trips of the queues, beside a ring buffer's.

Everything runs in one process on one machine at one time, the two sides of a
comparison in turns. Pushes are timed in the kernel around many of them, less
the same loop without; reads are timed in Python around full rings.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from kmind.abi import layout
from kmind.agent.kernel.agent import BpfAgent
from kmind.agent.types import Grant, Mode
from kmind.bench._results import Metric, describe_machine
from kmind.bpf import RingBuffer, map_arena
from kmind.command import Flag, Option
from kmind.errors import KmindError
from kmind.queue import Doorbell, Endpoint

__all__ = ["OPTIONS", "SCHEMA", "run_queue_bench"]

OPTIONS: tuple[Option | Flag, ...] = ()
"""Options of its own, besides --quick and --json."""

SCHEMA = "kmind.bench.queue/1"

_UNROLL = 16  # as in queue.bpf.c
_SLOTS = 65536
_ARGS = np.dtype([("what", "<u4"), ("turns", "<u4"), ("ns", "<u8"), ("failed", "<u8")])
_EMPTY, _ARENA, _RINGBUF = 0, 1, 2
_KNOB, _TARGET = 1, 0
_PAGE = 4096
_EVERY = 16  # hooks a record
_GAP_S = 20e-6  # between hooks: 50,000 a second, a fast disk's
_OBJECT = Path(__file__).with_name("queue.bpf.o")


class _Summing(RingBuffer):
    # The cheapest callback that reads one field: no copy, one Python object.

    def __init__(self, map_fd: int) -> None:
        super().__init__(map_fd, bytes)
        self.total = 0

    def _sample(self, context: int, data: int, size: int) -> int:
        self.total += ctypes.c_uint64.from_address(data + 24).value
        return 0


def run_queue_bench(*, quick: bool = False) -> dict[str, Any]:
    """Measure; the object that ``kmind bench queue --json`` prints."""
    rounds = 9 if quick else 41
    metrics = [*_pushes(rounds), *_drains(rounds)]
    result: dict[str, Any] = {"schema": SCHEMA, "quick": quick, "machine": describe_machine()}
    for metric in metrics:
        result |= metric.as_json()
    result |= _round_trips(2_000 if quick else 20_000)
    return result


def _bench(agent: BpfAgent, what: int, turns: int) -> float:
    args = np.zeros((), _ARGS)
    args["what"], args["turns"] = what, turns
    done = np.frombuffer(agent.own.run("bench_push", args.tobytes()), _ARGS)[0]
    assert not done["failed"], "a ring was full: drain it first"
    return float(done["ns"])


def _skip(endpoint: Endpoint) -> None:
    for reader in endpoint.records:
        while len(batch := reader.peek()):
            reader.release(len(batch))


def _pushes(rounds: int) -> list[Metric]:
    agent = BpfAgent(_OBJECT, sq_slots=_SLOTS)
    turns = 1000
    times: dict[int, list[float]] = {_EMPTY: [], _ARENA: [], _RINGBUF: []}
    try:
        endpoint = Endpoint(agent.arena, Doorbell(agent.doorbell_fd))
        with RingBuffer(agent.own.map_fd("bench_ringbuf"), lambda sample: None) as ring:
            for _ in range(rounds + 1):
                for what, seen in times.items():
                    seen.append(_bench(agent, what, turns) / (turns * _UNROLL))
                    _skip(endpoint)
                    ring.consume()
    finally:
        agent.close()
    # The first round warms caches and page tables.
    loop, arena, ringbuf = (np.array(times[what][1:]) for what in (_EMPTY, _ARENA, _RINGBUF))
    return [
        Metric("push_ns", arena - loop),
        Metric("ringbuf_push_ns", ringbuf - loop),
        Metric("push_ratio", (arena - loop) / (ringbuf - loop)),
    ]


def _drains(rounds: int) -> list[Metric]:
    agent = BpfAgent(_OBJECT, sq_slots=_SLOTS)
    turns = 3900  # 62,400 records: nearly full
    arena: list[float] = []
    ringbuf: list[float] = []

    expected = turns * sum(range(_UNROLL))
    try:
        endpoint = Endpoint(agent.arena, Doorbell(agent.doorbell_fd))
        with _Summing(agent.own.map_fd("bench_ringbuf")) as ring:
            for _ in range(rounds + 1):
                _bench(agent, _ARENA, turns)
                start = time.perf_counter()
                summed = 0
                for reader in endpoint.records:
                    while len(batch := reader.peek()):
                        summed += int(batch["value"].sum())
                        reader.release(len(batch))
                arena.append(turns * _UNROLL / (time.perf_counter() - start))
                assert summed == expected
                for _ in range(3):
                    _bench(agent, _RINGBUF, turns // 3)
                ring.total = 0
                start = time.perf_counter()
                ring.consume()
                ringbuf.append(turns * _UNROLL / (time.perf_counter() - start))
                assert ring.total == 3 * (turns // 3) * sum(range(_UNROLL))
    finally:
        agent.close()
    return [
        Metric("drain_events_per_s", np.array(arena[1:])),
        Metric("ringbuf_drain_events_per_s", np.array(ringbuf[1:])),
        Metric("drain_ratio", np.array(arena[1:]) / np.array(ringbuf[1:])),
    ]


def _answer_all(agent: BpfAgent, seen: npt.NDArray[np.uint64]) -> None:
    # The extension, awake: for each record one recommendation, whose value is the record's time.
    # A fork does not inherit an arena's mapping.
    arena = map_arena(agent.arena_fd, agent.arena_address, agent.arena_size // _PAGE)
    endpoint = Endpoint(arena.buffer, Doorbell(agent.doorbell_fd))
    made: dict[int, int] = {}
    answered = 0
    while answered < len(seen):
        endpoint.beat()
        for reader in endpoint.records:
            batch = reader.peek()
            own = batch["time_ns"][batch["kind"] == layout.KIND["MODULE"]].tolist()
            if len(batch):
                reader.release(len(batch))
            for pushed in own:
                rec_id = endpoint.cq.submit(
                    _KNOB,
                    _TARGET,
                    pushed,
                    type=layout.TYPE["INT"],
                    expires_ns=pushed + 10**9,
                    hold_ms=1,
                )
                if rec_id is not None:
                    made[rec_id] = pushed
        for rec_id, _ in endpoint.cq.answers():
            if answered < len(seen):
                seen[answered] = time.monotonic_ns() - made.pop(rec_id)
                answered += 1


def _pin(which: int) -> None:
    # Both sides are always awake: on one CPU they would measure the scheduler.
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[which]})


def _child(agent: BpfAgent, seen: npt.NDArray[np.uint64]) -> NoReturn:
    status = 1
    try:
        _pin(-1)
        _answer_all(agent, seen)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _round_trips(count: int) -> dict[str, Any]:
    # Hooks come at a steady pace, as they do under a load of that many events a second.
    agent = BpfAgent(
        _OBJECT,
        hooks={"on_call": "sys_enter"},
        parameters={"pid": os.getpid(), "every": _EVERY},
        deadline_s=10.0,
    )
    verdicts: list[int] = []
    allowed = os.sched_getaffinity(0)
    # Both processes see it; a pipe would fill up while nobody reads.
    seen = np.frombuffer(mmap.mmap(-1, 8 * count), np.uint64)
    try:
        agent.admission.grant(_KNOB, _TARGET, Grant(0, (1 << 62), 0))
        agent.set_mode(Mode.OBSERVE)
        agent.start()
        child = os.fork()
        if child == 0:
            _child(agent, seen)
        _pin(0)
        header = agent.arena[: layout.HEADER.itemsize].view(layout.HEADER)
        ended = (0, 0)
        while not ended[0] and not header["heartbeat"][0]:
            time.sleep(0.01)
            ended = os.waitpid(child, os.WNOHANG)
        calls = 0
        start = time.monotonic()
        while not ended[0]:
            os.getppid()
            calls += 1
            if calls % 64 == 0:
                verdicts += _delays(agent)
                ended = os.waitpid(child, os.WNOHANG)
            while time.monotonic() - start < calls * _GAP_S:
                pass
        if ended[1]:
            raise KmindError("the process that answers has failed")
        verdicts += _delays(agent)
        rate = calls / (time.monotonic() - start)
    finally:
        os.sched_setaffinity(0, allowed)
        agent.close()
    decided = np.array(verdicts, float) / 1e3
    return {
        "roundtrip_us": _quantiles(decided),
        "roundtrip_us_spread": _halves(decided),
        "roundtrip_seen_us": _quantiles(seen.astype(float) / 1e3),
        "roundtrip_hooks_per_s": round(rate),
    }


def _delays(agent: BpfAgent) -> list[int]:
    return [action.time_ns - action.value for action in agent.poll(0) if action.kind == "verdict"]


def _quantiles(values: npt.NDArray[np.float64]) -> dict[str, float]:
    p50, p99 = np.quantile(values, [0.5, 0.99])
    return {"p50": round(float(p50), 1), "p99": round(float(p99), 1)}


def _halves(values: npt.NDArray[np.float64]) -> float:
    # Spread of the median over ten slices of the run, as half its range in percent.
    medians = [float(np.median(part)) for part in np.array_split(values, 10)]
    return round((max(medians) - min(medians)) / 2 / float(np.median(values)) * 100, 1)
