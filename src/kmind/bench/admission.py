# SPDX-License-Identifier: Apache-2.0
"""Measure what a verdict costs and takes, and what instances cost the machine.

The first two are measured on an agent of the bench's own, in this process. The others are
those of a daemon that this bench starts, with its socket and files in a folder of its own.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from kmind.abi import layout
from kmind.agent.core.core import Core
from kmind.agent.kernel.agent import BpfAgent
from kmind.agent.types import Grant, Mode, Shape, Verdict
from kmind.bench._attack import run_attacks
from kmind.bench._daemon import measure_crowd, measure_load, measure_restart
from kmind.bench._options import DEVICE, DIR
from kmind.bench._results import Metric, describe_machine
from kmind.bench._shapes import SHARED, agents_of, asked_shapes
from kmind.command import Flag, Option
from kmind.errors import KmindError
from kmind.queue import Doorbell, Endpoint
from kmind.runtime.instance.agent_factory import need_root
from kmind.workloads.disk import DEFAULT_DIR, make_workload
from kmind.workloads.host import device_of

__all__ = ["ATTACK_SCHEMA", "OPTIONS", "SCHEMA", "run_admission_bench"]

OPTIONS: tuple[Option | Flag, ...] = (
    DIR,
    DEVICE,
    SHARED,
    Flag("verdict", "measure only what a verdict adds to a hook"),
    Flag("attack", "measure only the owner's turns while clients and extensions attack it"),
)
"""Options of its own, besides --quick and --json."""

SCHEMA = "kmind.bench.admission/1"
ATTACK_SCHEMA = "kmind.bench.attack/1"

_OBJECT = Path(__file__).with_name("admission.bpf.o")
_NS = np.dtype([("ns", "<u8")])
_KNOB, _TARGET = 1, 0
# Every check but a rule: bounds, grid, step, ratio and rate.
_GRANT = Grant(4, 1 << 20, 4, step=1 << 19, step_percent=10_000, grid=4, interval_ns=1, burst=9)
_TELL_S = 0.006  # one instance may tell its owner 200 times a second
_GAP_S = 0.005  # at most, between two recommendations: more than two ticks


def run_admission_bench(
    *,
    quick: bool = False,
    dir: Path = DEFAULT_DIR,
    device: str | None = None,
    attack: bool = False,
    shared: str | None = None,
    verdict: bool = False,
) -> dict[str, Any]:
    """Measure; the object that ``kmind bench admission --json`` prints.

    ``shared`` names the shape of the shared memory; without it a verdict is measured in both, by
    turns. With ``verdict`` nothing else is measured. With ``attack`` only the owner's turns under
    attacks are, which sets knobs of loop devices.

    ``dir`` keeps the file that is read, ``device`` is the disk that holds it. Needs
    root, and changes no knob: every instance only advises.
    """
    need_root()
    if attack:
        told = {"schema": ATTACK_SCHEMA, "quick": quick, "machine": describe_machine(device)}
        return told | run_attacks(quick=quick)
    shapes = asked_shapes(shared)
    if verdict:
        told = {"schema": SCHEMA, "quick": quick, "machine": describe_machine(device)}
        return told | _inline(500 if quick else 3_000, shapes)
    load = make_workload("pread-random-direct", quick=quick)
    load.prepare(dir)
    disk = device or device_of(dir)
    rounds = 3 if quick else 15
    result: dict[str, Any] = {"schema": SCHEMA, "quick": quick, "machine": describe_machine(disk)}
    result |= _inline(500 if quick else 3_000, shapes)
    with agents_of(shapes[0]):
        result |= _idle(100 if quick else 2_000)
    result |= measure_load(load, disk, rounds)
    result |= measure_restart(load, disk, rounds)
    result |= measure_crowd(10.0 if quick else 60.0)
    return result


def _inline(count: int, shapes: tuple[Shape, ...]) -> dict[str, Any]:
    # The end of a hook with a recommendation that waits, less the same with none.
    arms = [_Arm(shape) for shape in shapes]
    try:
        for turn in range(count):
            for arm in arms:
                arm.answer(8 if turn % 2 else 16)
                _pass(_TELL_S / len(arms))
    finally:
        for arm in arms:
            arm.close()
    added = [np.array(arm.full, float) - float(np.median(arm.empty)) for arm in arms]
    metric = Metric("hook_verdict_ns", added[0])
    found: dict[str, Any] = {"shared": list(shapes)} | metric.as_json()
    found |= {"hook_verdict_p99_ns": float(np.quantile(added[0], 0.99))}
    if len(added) > 1:
        array = Metric("array_hook_verdict_ns", added[1])
        found |= array.as_json()
        found["array_hook_verdict_ratio"] = array.median / metric.median
    return found


class _Arm:
    # An agent of one shape. It has a slot of a core, as with the daemon: a lease, and leave for
    # the gate.

    def __init__(self, shape: Shape) -> None:
        self.core = Core.private()
        self.core.beat()
        with agents_of(shape):
            slot = self.core.register("bench", "bench", "tuner")
            self.agent = BpfAgent(_OBJECT, core=self.core, slot=slot)
        self.endpoint = Endpoint(self.agent.arena, Doorbell(self.agent.doorbell_fd))
        self.agent.admission.grant(_KNOB, _TARGET, _GRANT)
        self.agent.set_mode(Mode.AUTO)
        self.empty: list[int] = []
        self.full: list[int] = []

    def answer(self, value: int) -> None:
        self.empty.append(_admit(self.agent))
        _recommend(self.endpoint, value)
        self.full.append(_admit(self.agent))
        (answer,) = self.endpoint.cq.answers()
        if answer[1] != Verdict.APPROVED:
            raise KmindError(f"verdict {Verdict(answer[1]).name} where approved was due")
        self.agent.poll(0)
        self.core.beat()

    def close(self) -> None:
        self.agent.close()
        self.core.close()


def _pass(seconds: float) -> None:
    # Awake: a hook runs on a CPU that has work.
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def _admit(agent: BpfAgent) -> int:
    done = agent.own.run("bench_admit", np.zeros((), _NS).tobytes())
    return int(np.frombuffer(done, _NS)["ns"][0])


def _idle(count: int) -> dict[str, Any]:
    # No hook runs: the tick answers. Recommendations come at random moments.
    agent = BpfAgent(_OBJECT)
    pause = np.random.default_rng(0).uniform(0, _GAP_S, count).tolist()
    seen = []
    try:
        endpoint = Endpoint(agent.arena, Doorbell(agent.doorbell_fd))
        agent.admission.grant(_KNOB, _TARGET, _GRANT)
        agent.set_mode(Mode.AUTO)
        agent.start()
        for turn in range(count):
            endpoint.beat()
            time.sleep(pause[turn])
            start = time.monotonic_ns()
            _recommend(endpoint, 8 if turn % 2 else 16)
            while not endpoint.cq.answers():
                pass
            seen.append((time.monotonic_ns() - start) / 1e3)
            agent.poll(0)
    finally:
        agent.close()
    p50, p99 = np.quantile(seen, [0.5, 0.99])
    spread = Metric("idle_verdict_us", seen).spread
    return {
        "idle_verdict_us": {"p50": round(float(p50), 1), "p99": round(float(p99), 1)},
        "idle_verdict_us_spread": spread,
    }


def _recommend(endpoint: Endpoint, value: int) -> None:
    made = endpoint.cq.submit(
        _KNOB,
        _TARGET,
        value,
        type=layout.TYPE["INT"],
        expires_ns=time.monotonic_ns() + 10**9,
        hold_ms=1,
    )
    if made is None:
        raise KmindError("the completion queue is full, though each was answered")
