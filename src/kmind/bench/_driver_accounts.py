# SPDX-License-Identifier: Apache-2.0
"""The price of a block driver's accounts: its IOPS with the ready agent beside it, and without.

One load goes on all the time, 4 KiB read at random at depth 32, and its requests are counted in
short slices, by turns in an order that is drawn anew each round: with the agent at work, without
it, and without it again, which says how far a slice differs from itself. Each begins with the
agent being loaded, so that what that costs is in none. At the end the agent's count of a whole run
of fio is held against fio's own.
"""

from __future__ import annotations

import os
import subprocess
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import numpy as np

from kmind.agent.kernel.agent import BpfAgent
from kmind.bench._driver_block import answered, fio_command, fio_job
from kmind.bench._driver_server import RamProcess
from kmind.bench._results import Metric, interleaved
from kmind.driver.agents import ready_agent
from kmind.driver.disk import LoopDisk
from kmind.errors import KmindError
from kmind.extension.manifest.manifest import TablePart
from kmind.workloads.host import run_process

__all__ = ["measure_accounts"]

_SIZE, _QUICK_SIZE = 256 << 20, 32 << 20
_ROUNDS, _QUICK_ROUNDS = 80, 3
_SLICE_S, _QUICK_SLICE_S = 0.4, 0.1
_SETTLE_S = 0.02
_FOR_EVER_S = 3600.0
_READS = 0  # the first of the agent's features
_ARMS = ("with", "without", "again")
_LOAD = ("--rw=randread", "--bs=4k", "--iodepth=32")


def measure_accounts(*, quick: bool = False) -> list[Metric]:
    """The bench's numbers: I/O operations a second, ratios of a round, and reads miscounted.

    Raises NotSupportedError without FUSE, loop devices or what agents need, PrivilegeError without
    root.
    """
    size = _QUICK_SIZE if quick else _SIZE
    memory = os.memfd_create("kmind-bench")
    try:
        with LoopDisk("bench", lambda c: RamProcess(c, size, memory).go()) as disk:
            for start in range(0, size, 1 << 20):
                os.pwrite(memory, os.urandom(1 << 20), start)
            rates, hook_ns = _slices(disk, size, quick=quick)
            command = fio_command(disk.path, size, _QUICK_SLICE_S * 5, *_LOAD)
            with _counting(disk.connection.number) as agent:
                said = fio_job(run_process(command))["read"]["total_ios"]
                wrong = abs(agent.feature(_READS) - said)
    finally:
        os.close(memory)
    without, again = np.array(rates["without"]), np.array(rates["again"])
    return [
        Metric("accounts_with_iops", rates["with"]),
        Metric("accounts_without_iops", rates["without"]),
        Metric("accounts_with_of_without", np.array(rates["with"]) / ((without + again) / 2)),
        Metric("accounts_aa", again / without),
        Metric("accounts_hook_ns", hook_ns),
        Metric("accounts_reads_miscounted", [wrong]),
    ]


def _slices(
    disk: LoopDisk, size: int, *, quick: bool
) -> tuple[dict[str, list[float]], list[float]]:
    # Requests a second by arm, and nanoseconds of a hook.
    rates: dict[str, list[float]] = {name: [] for name in _ARMS}
    hook_ns = []
    seconds = _QUICK_SLICE_S if quick else _SLICE_S
    fio = fio_command(disk.path, size, _FOR_EVER_S, *_LOAD)
    with subprocess.Popen(fio, stdout=subprocess.DEVNULL) as load:
        try:
            for order in interleaved(list(_ARMS), _QUICK_ROUNDS if quick else _ROUNDS):
                for name in order:
                    with _counting(disk.connection.number) as agent:
                        if name != "with":
                            agent.close()
                        time.sleep(_SETTLE_S)
                        rates[name].append(_rate(disk, seconds))
                        if name == "with":
                            account = agent.account()
                            hook_ns.append(account["hook_ns"] / max(1, account["hook_runs"]))
                    if load.poll() is not None:
                        raise KmindError("fio ended too early", hint="see what it says by hand")
        finally:
            load.terminate()
    return rates, hook_ns


def _rate(disk: LoopDisk, seconds: float) -> float:
    began, before = time.perf_counter(), answered(disk)
    time.sleep(seconds)
    done = answered(disk) - before
    return done / (time.perf_counter() - began)


@contextmanager
def _counting(connection: int) -> Iterator[BpfAgent]:
    # The agent at work.
    object_, parts = ready_agent("block")
    said = tomllib.loads(parts.read_text())
    agent = BpfAgent(
        object_,
        hooks={hook["program"]: hook["tracepoint"] for hook in said["hook"]},
        parameters={"connection": connection, "stall_ms": 2000},
        tables=[part.shape for part in msgspec.convert(said["table"], tuple[TablePart, ...])],
    )
    try:
        agent.start()
        yield agent
    finally:
        agent.close()
