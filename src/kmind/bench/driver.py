# SPDX-License-Identifier: Apache-2.0
"""Measure how many requests a second a driver can pass through a ring.

A batch is all that a driver does for its requests: make the entries, push and submit them, wait for
all completions, look at each. Commands go to /dev/null, which does nothing with them, and NOPs to
no file at all; so what is measured is the price of the ring, in Python and in the kernel. All take
turns in short pieces of time, in an order that is drawn anew each round.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from kmind.bench._driver_accounts import measure_accounts
from kmind.bench._driver_block import measure_block
from kmind.bench._driver_net import measure_net
from kmind.bench._results import Metric, describe_machine, interleaved
from kmind.command import Flag, Option
from kmind.errors import NotSupportedError, RingError
from kmind.uring import Ring, prepare

__all__ = ["OPTIONS", "SCHEMA", "run_driver_bench"]

OPTIONS: tuple[Option | Flag, ...] = (
    Flag("block", "a block device that a process serves instead (root, fio, five minutes)"),
    Flag("accounts", "the price of its accounts instead (root, fio, three minutes)"),
    Flag("net", "a network link that a process serves instead (root, two minutes)"),
)
"""Options of its own, besides --quick and --json."""

SCHEMA = "kmind.bench.driver/1"

_BATCHES = (1, 32)
_ROUNDS, _QUICK_ROUNDS = 40, 8
_PIECE_S, _QUICK_PIECE_S = 0.1, 0.02
_DEADLINE_S = 5.0
_AGAIN = "_again"  # the same once more: how far it differs from itself

_Make = Callable[[Any], prepare.Entries]


def run_driver_bench(
    *, quick: bool = False, block: bool = False, accounts: bool = False, net: bool = False
) -> dict[str, Any]:
    """Run the bench and return its result. Needs no root, and half a minute; the others more."""
    result: dict[str, Any] = {"schema": SCHEMA, "quick": quick, "machine": describe_machine()}
    rounds, piece = (_QUICK_ROUNDS, _QUICK_PIECE_S) if quick else (_ROUNDS, _PIECE_S)
    if block or accounts or net:
        metrics = measure_block(quick=quick) if block else []
        metrics += measure_accounts(quick=quick) if accounts else []
        metrics += measure_net(quick=quick) if net else []
    else:
        metrics = _ring(rounds, piece)
    for metric in metrics:
        result |= metric.as_json()
    return result


def _ring(rounds: int, piece_s: float) -> list[Metric]:
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    kinds: dict[str, _Make] = {
        "uring_cmd": lambda ids: prepare.uring_cmd(null, 0, ids),
        "nop": lambda ids: prepare.nop(ids),
    }
    arms = {f"{kind}_{batch}": (kind, batch) for batch in _BATCHES for kind in kinds}
    arms |= {name + _AGAIN: arm for name, arm in arms.items() if arm[0] == "uring_cmd"}
    rates: dict[str, list[float]] = {name: [] for name in arms}
    try:
        with Ring(max(_BATCHES)) as ring:
            for kind, batch in arms.values():
                _run(ring, kinds[kind], batch, piece_s)  # warms caches
            for order in interleaved(list(arms), rounds):
                for name in order:
                    kind, batch = arms[name]
                    rates[name].append(_run(ring, kinds[kind], batch, piece_s))
    finally:
        os.close(null)
    metrics = []
    for name in arms:
        if name.endswith(_AGAIN):
            first = name.removesuffix(_AGAIN)
            ratios = np.array(rates[name]) / np.array(rates[first])
            metrics.append(Metric(f"ring_{first}_aa", ratios))
        else:
            metrics.append(Metric(f"ring_{name}_per_s", rates[name]))
    return metrics


def _run(ring: Ring, make: _Make, batch: int, seconds: float) -> float:
    # Requests a second, over whole batches.
    done = 0
    began = time.perf_counter()
    while (now := time.perf_counter()) - began < seconds:
        ring.push(make(np.arange(done, done + batch)))
        ring.submit(batch, _DEADLINE_S)
        answers = ring.reap()
        if answers["res"].any():
            number = -int(answers["res"].min())
            raise NotSupportedError(
                f"the kernel refuses a command to /dev/null: {os.strerror(number)}",
                hint="Linux 6.0 has them",
            )
        if len(answers) != batch or int(answers["user_data"][-1]) != done + batch - 1:
            raise RingError(f"{len(answers)} of {batch} completions came within {_DEADLINE_S} s")
        done += batch
    return done / (now - began)
