# SPDX-License-Identifier: Apache-2.0
"""The price of a block driver's accounts: its IOPS with the ready agent beside it, and without.

fio reads 4 KiB at random at depth 32 for short pieces of time, in an order that is drawn anew each
round: with the agent loaded and attached, with none, and with none again, which says how far a
piece differs from itself. Each piece with it is held against fio's own count.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np

from kmind.agent.kernel.agent import BpfAgent
from kmind.bench._driver_block import fio_command, fio_job
from kmind.bench._driver_server import RamProcess
from kmind.bench._results import Metric, interleaved
from kmind.driver.agents import ready_agent
from kmind.driver.disk import LoopDisk
from kmind.extension.manifest.manifest import Feature, Hook, TablePart
from kmind.workloads.host import run_process

__all__ = ["measure_accounts"]

_SIZE, _QUICK_SIZE = 256 << 20, 32 << 20
_ROUNDS, _QUICK_ROUNDS = 20, 2
_PIECE_S, _QUICK_PIECE_S = 2.0, 0.5
_ARMS = ("with", "without", "again")
_LOAD = ("--rw=randread", "--bs=4k", "--iodepth=32")


def measure_accounts(*, quick: bool = False) -> list[Metric]:
    """The bench's numbers: I/O operations a second, ratios of a round, and reads miscounted.

    Raises NotSupportedError without FUSE, loop devices or what agents need, PrivilegeError without
    root.
    """
    size = _QUICK_SIZE if quick else _SIZE
    rates: dict[str, list[float]] = {name: [] for name in _ARMS}
    wrong = 0
    memory = os.memfd_create("kmind-bench")
    try:
        with LoopDisk("bench", lambda c: RamProcess(c, size, memory).go()) as disk:
            for start in range(0, size, 1 << 20):
                os.pwrite(memory, os.urandom(1 << 20), start)
            seconds = _QUICK_PIECE_S if quick else _PIECE_S
            command = fio_command(disk.path, size, seconds, *_LOAD)
            for order in interleaved(list(_ARMS), _QUICK_ROUNDS if quick else _ROUNDS):
                for name in order:
                    if name == "with":
                        with _counting(disk.connection.number) as count:
                            job = fio_job(run_process(command))
                            wrong += abs(count() - job["read"]["total_ios"])
                    else:
                        job = fio_job(run_process(command))
                    rates[name].append(float(job["read"]["iops"]))
    finally:
        os.close(memory)
    without = np.array(rates["without"])
    return [
        Metric("accounts_with_iops", rates["with"]),
        Metric("accounts_without_iops", rates["without"]),
        Metric("accounts_with_of_without", np.array(rates["with"]) / without),
        Metric("accounts_aa", np.array(rates["again"]) / without),
        Metric("accounts_reads_miscounted", [wrong]),
    ]


@contextmanager
def _counting(connection: int) -> Iterator[Any]:
    # The agent at work; a function that says how many reads it has counted.
    object_, parts = ready_agent("block")
    said = tomllib.loads(parts.read_text())
    hooks = msgspec.convert(said["hook"], tuple[Hook, ...])
    columns = [one.name for one in msgspec.convert(said["feature"], tuple[Feature, ...])]
    agent = BpfAgent(
        object_,
        hooks={hook.program: hook.tracepoint for hook in hooks},
        parameters={"connection": connection, "stall_ms": 2000},
        tables=[part.shape for part in msgspec.convert(said["table"], tuple[TablePart, ...])],
    )
    try:
        agent.start()
        yield lambda: agent.feature(columns.index("reads"))
    finally:
        agent.close()
