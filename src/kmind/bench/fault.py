# SPDX-License-Identifier: Apache-2.0
"""Measure how well the driver ``fault`` keeps the latency that it is asked for.

fio reads 4 KiB at random, with direct I/O, from a disk in memory whose answers are delayed: all by
the same, or each by a time that is drawn. The error is the measured latency less the one that was
asked for, by percentiles of a piece. The pieces take turns, in an order that is drawn anew each
round. With ``--cuts`` programs with and without planted mistakes lose their power instead, again
and again.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kmind.bench._power_cuts import PowerCuts
from kmind.bench._power_loads import PLANTED, SOUND
from kmind.bench._results import Metric, Share, describe_machine, interleaved
from kmind.command import Flag, Option
from kmind.driver.backing import Backing
from kmind.driver.disk import LoopDisk, ThreadServer
from kmind.modules.fault.disk import Fault, Plan, generators
from kmind.modules.fault.latency import Constant, Law, Lognormal
from kmind.modules.fault.log import InjectionLog
from kmind.workloads.fio import parse_report
from kmind.workloads.host import find_tool, run_process

__all__ = ["OPTIONS", "SCHEMA", "run_fault_bench"]

OPTIONS: tuple[Option | Flag, ...] = (
    Flag(
        "cuts",
        "power cuts instead, of six programs (root, mkfs.ext4, some minutes)",
    ),
)
"""Options of its own, besides --quick and --json."""

SCHEMA = "kmind.bench.fault/1"

_SIZE = 64 << 20
_MS = 1_000_000
_ROUNDS, _QUICK_ROUNDS = 10, 2
_PIECE_S, _QUICK_PIECE_S = 2.0, 0.5
_PERCENTILES = (50, 99)
_CUTS, _QUICK_CUTS = 200, 8
_SQLITE_CUTS = 1000
_SEED = 1


@dataclass(frozen=True)
class _Arm:
    make: Callable[[np.random.Generator], Law]
    depth: int


_ARMS = {
    "1ms": _Arm(lambda _: Constant(1 * _MS), 1),
    "5ms": _Arm(lambda _: Constant(5 * _MS), 1),
    "20ms": _Arm(lambda _: Constant(20 * _MS), 1),
    "5ms_depth_16": _Arm(lambda _: Constant(5 * _MS), 16),
    "lognormal_2ms": _Arm(lambda random: Lognormal(2 * _MS, 0.5, random), 4),
}


def run_fault_bench(*, quick: bool = False, cuts: bool = False) -> dict[str, Any]:
    """Run the bench and return its result. Needs root, FUSE, loop devices, and fio or mkfs.ext4."""
    result: dict[str, Any] = {"schema": SCHEMA, "quick": quick, "machine": describe_machine()}
    return result | (_cut_powers(quick) if cuts else _measure_latency(quick))


def _measure_latency(quick: bool) -> dict[str, Any]:
    rounds = _QUICK_ROUNDS if quick else _ROUNDS
    piece = _QUICK_PIECE_S if quick else _PIECE_S
    errors: dict[str, list[list[float]]] = {name: [] for name in _ARMS}
    bare: list[float] = []
    for number, order in enumerate(interleaved([*_ARMS, ""], rounds)):
        for name in order:
            if name:
                measured, asked = _piece(_ARMS[name], piece, number)
                errors[name].append([(m - a) / _MS for m, a in zip(measured, asked, strict=True)])
            else:
                bare.append(_piece(_Arm(lambda _: Constant(0), 1), piece, number)[0][0] / _MS)
    found = Metric("latency_without_delay_ms", bare).as_json()
    for name, rows in errors.items():
        for column, percentile in enumerate(_PERCENTILES):
            values = [row[column] for row in rows]
            found |= Metric(f"error_{name}_p{percentile}_ms", values).as_json()
            found[f"error_{name}_p{percentile}_worst_ms"] = max(values, key=abs)
    return found


def _piece(arm: _Arm, seconds: float, seed: int) -> tuple[list[float], list[float]]:
    # Percentiles of the latency in ns: measured by fio, and asked for, of the same requests but
    # for those of the device's opening.
    log = io.StringIO()
    memory = os.memfd_create("kmind-fault")
    try:
        os.ftruncate(memory, _SIZE)
        law = arm.make(generators(seed)[0])
        fault = Fault(Backing(memory), Plan(law=law, seed=seed), InjectionLog(log))
        disk = LoopDisk(
            "bench", lambda connection: ThreadServer(fault, connection), max_io=64 << 10
        )
        with disk, tempfile.TemporaryDirectory() as folder:
            words = [
                find_tool("fio"), "--name=load", f"--filename={disk.path}", f"--size={_SIZE}",
                "--ioengine=libaio", "--direct=1", "--rw=randread", "--bs=4k", "--time_based",
                "--norandommap", f"--iodepth={arm.depth}", f"--runtime={round(seconds * 1000)}ms",
                f"--write_lat_log={folder}/log", "--output-format=json",
            ]  # fmt: skip
            parse_report(run_process(words), ("read",))
            # A line a request; fio's own percentiles are as coarse as 1.6%.
            lines = (Path(folder) / "log_lat.1.log").read_text().splitlines()
    finally:
        os.close(memory)
    measured = [int(line.split(",")[1]) for line in lines]
    events = map(json.loads, log.getvalue().splitlines())
    delays = [ns for event in events if event["event"] == "delay" for ns in event["delay_ns"]]
    return (
        np.percentile(measured, _PERCENTILES).tolist(),
        np.percentile(delays or [0], _PERCENTILES).tolist(),
    )


def _cut_powers(quick: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    rows = []
    for name in (*PLANTED, *SOUND):
        cuts = _QUICK_CUTS if quick else _SQLITE_CUTS if name == "sqlite_full" else _CUTS
        with PowerCuts(name, seed=_SEED) as power:
            complaints = [power.cut(number) for number in range(cuts)]
        bad = [number for number, complaint in enumerate(complaints) if complaint]
        found |= Share(f"cuts_{name}_bad", len(bad), cuts).as_json()
        rows.append(
            {
                "program": name,
                "cuts": cuts,
                "bad": len(bad),
                "first": bad[0] + 1 if bad else 0,
                "complaint": complaints[bad[0]] if bad else "",
            }
        )
    return found | {"programs": rows}
