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
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from kmind.abi import layout
from kmind.agent.kernel.agent import BpfAgent
from kmind.agent.types import Grant, Mode, Shape
from kmind.bench._results import Metric, describe_machine
from kmind.bench._shapes import SHARED, agents_of, asked_shapes
from kmind.bpf import RingBuffer, map_arena
from kmind.command import Flag, Option
from kmind.errors import KmindError
from kmind.queue import Doorbell, Endpoint

__all__ = ["OPTIONS", "SCHEMA", "run_queue_bench"]

OPTIONS: tuple[Option | Flag, ...] = (SHARED,)
"""Options of its own, besides --quick and --json."""

SCHEMA = "kmind.bench.queue/1"

_UNROLL = 16  # as in queue.bpf.c
_SLOTS = 32768  # an array holds no more for two CPUs
_ARGS = np.dtype([("what", "<u4"), ("turns", "<u4"), ("ns", "<u8"), ("failed", "<u8")])
_EMPTY, _SHARED, _RINGBUF = 0, 1, 2
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


def run_queue_bench(*, quick: bool = False, shared: str | None = None) -> dict[str, Any]:
    """Measure; the object that ``kmind bench queue --json`` prints.

    ``shared`` names the shape of the shared memory. Without it both are measured by turns, where
    the kernel has both: the array's numbers are ``array_...``, its ratios to the arena's
    ``array_..._ratio``, and those of the arena to itself ``..._aa``.
    """
    rounds = 9 if quick else 41
    shapes = asked_shapes(shared)
    metrics = [*_pushes(rounds, shapes), *_drains(rounds, shapes)]
    result: dict[str, Any] = {"schema": SCHEMA, "quick": quick, "machine": describe_machine()}
    result["shared"] = list(shapes)
    for metric in metrics:
        result |= metric.as_json()
    with agents_of(shapes[0]):
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


class _Arm:
    # An agent of one shape, and what it took, round by round.

    def __init__(self, shape: Shape) -> None:
        with agents_of(shape):
            self.agent = BpfAgent(_OBJECT, sq_slots=_SLOTS)
        self.shape = shape
        self.endpoint = Endpoint(self.agent.arena, Doorbell(self.agent.doorbell_fd))
        self.times: list[float] = []

    def push(self, turns: int) -> None:
        self.times.append(_bench(self.agent, _SHARED, turns) / (turns * _UNROLL))
        _skip(self.endpoint)

    def drain(self, turns: int) -> None:
        _bench(self.agent, _SHARED, turns)
        start = time.perf_counter()
        summed = 0
        for reader in self.endpoint.records:
            while len(batch := reader.peek()):
                summed += int(batch["value"].sum())
                reader.release(len(batch))
        self.times.append(turns * _UNROLL / (time.perf_counter() - start))
        assert summed == turns * sum(range(_UNROLL))

    def seen(self) -> npt.NDArray[np.float64]:
        # The first round warms caches and page tables.
        return np.array(self.times[1:])


def _arms(stack: ExitStack, shapes: tuple[Shape, ...]) -> list[_Arm]:
    # Of two shapes the first comes twice: how far the same differs from itself.
    arms = []
    for shape in shapes if len(shapes) == 1 else (*shapes, shapes[0]):
        arms.append(_Arm(shape))
        stack.callback(arms[-1].agent.close)
    return arms


def _in_turn(arms: list[_Arm], turn: int) -> list[_Arm]:
    # Each comes first as often as the others.
    first = turn % len(arms)
    return arms[first:] + arms[:first]


def _compare(name: str, seen: list[npt.NDArray[np.float64]]) -> list[Metric]:
    metrics = [Metric(name, seen[0])]
    if len(seen) > 1:
        metrics += [
            Metric(f"array_{name}", seen[1]),
            Metric(f"array_{name}_ratio", seen[1] / seen[0]),
            Metric(f"{name}_aa", seen[2] / seen[0]),
        ]
    return metrics


def _pushes(rounds: int, shapes: tuple[Shape, ...]) -> list[Metric]:
    turns = 1000
    loop: list[float] = []
    ringbuf: list[float] = []
    with ExitStack() as stack:
        arms = _arms(stack, shapes)
        agent = arms[0].agent
        ring = stack.enter_context(
            RingBuffer(agent.own.map_fd("bench_ringbuf"), lambda sample: None)
        )
        for turn in range(rounds + 1):
            loop.append(_bench(agent, _EMPTY, turns) / (turns * _UNROLL))
            for arm in _in_turn(arms, turn):
                arm.push(turns)
            ringbuf.append(_bench(agent, _RINGBUF, turns) / (turns * _UNROLL))
            ring.consume()
        empty, rival = np.array(loop[1:]), np.array(ringbuf[1:])
        pushes = [arm.seen() - empty for arm in arms]
    return [
        *_compare("push_ns", pushes),
        Metric("ringbuf_push_ns", rival - empty),
        Metric("push_ratio", pushes[0] / (rival - empty)),
    ]


def _drains(rounds: int, shapes: tuple[Shape, ...]) -> list[Metric]:
    turns = 1950  # 31,200 records: nearly full
    ringbuf: list[float] = []
    with ExitStack() as stack:
        arms = _arms(stack, shapes)
        agent = arms[0].agent
        ring = stack.enter_context(_Summing(agent.own.map_fd("bench_ringbuf")))
        for turn in range(rounds + 1):
            for arm in _in_turn(arms, turn):
                arm.drain(turns)
            for _ in range(3):
                _bench(agent, _RINGBUF, turns // 3)
            ring.total = 0
            start = time.perf_counter()
            ring.consume()
            ringbuf.append(turns * _UNROLL / (time.perf_counter() - start))
            assert ring.total == 3 * (turns // 3) * sum(range(_UNROLL))
        drains = [arm.seen() for arm in arms]
    rival = np.array(ringbuf[1:])
    return [
        *_compare("drain_events_per_s", drains),
        Metric("ringbuf_drain_events_per_s", rival),
        Metric("drain_ratio", drains[0] / rival),
    ]


def _answer_all(agent: BpfAgent, seen: npt.NDArray[np.uint64]) -> None:
    # The extension, awake: for each record one recommendation, whose value is the record's time.
    pages = agent.arena_size // _PAGE
    shared = map_arena(agent.arena_fd, agent.arena_address, pages).buffer
    endpoint = Endpoint(shared, Doorbell(agent.doorbell_fd))
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
