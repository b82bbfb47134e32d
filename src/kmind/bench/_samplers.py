# SPDX-License-Identifier: Apache-2.0
"""The samplers of autotune, compared on made-up machines: simulated, and called so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from kmind.bench._results import Metric
from kmind.testing.tuning import World, Worth

__all__ = ["SAMPLERS", "compare_samplers"]

SAMPLERS = ("tpe", "cmaes", "random")
"""Values of the module's parameter ``sampler``."""

_SECONDS = 1800
_KNOBS: Mapping[str, int | str] = {
    "block.nr_requests": 64,
    "block.scheduler": "mq-deadline",
    "block.read_ahead_kb": 8192,
}


def _hill(knobs: Mapping[str, Any]) -> float:
    # One knob counts.
    off = math.log2(knobs["block.nr_requests"]) - 9
    return 100 * math.exp(-0.05 * off * off)


def _ridge(knobs: Mapping[str, Any]) -> float:
    # Two count, and the best of one depends on the other.
    requests = math.log2(knobs["block.nr_requests"])
    ahead = math.log2(max(knobs["block.read_ahead_kb"], 4))
    off = math.pow(requests + ahead - 17, 2) + 0.2 * math.pow(requests - 9, 2)
    return 100 * math.exp(-0.03 * off)


def _choice(knobs: Mapping[str, Any]) -> float:
    # A choice counts most.
    gain = {"none": 1.3, "kyber": 1.1, "mq-deadline": 1.0, "bfq": 0.7}
    return 100 * gain[knobs["block.scheduler"]] * math.sqrt(_hill(knobs) / 100)


_MACHINES: Mapping[str, tuple[Worth, float]] = {
    "hill": (_hill, 100.0),
    "ridge": (_ridge, 100.0),
    "choice": (_choice, 130.0),
}


def compare_samplers(seeds: int) -> list[dict[str, Any]]:
    """For each sampler, over made-up machines, noise of 3% and 10%, and seeds.

    ``of_best`` is the final setting's result over the best possible one, with its spread;
    ``unsafe_trials`` and ``worst_regression`` are means, ``converge_s`` a median of those
    runs that came to rest (``converged``, a share).
    """
    rows = []
    for sampler in SAMPLERS:
        of_best, unsafe, worst, times = [], [], [], []
        for worth, most in _MACHINES.values():
            for noise in (0.03, 0.1):
                for seed in range(seeds):
                    world = World(worth, _KNOBS, noise=noise, seed=seed, sampler=sampler)
                    status = world.run(_SECONDS).status
                    of_best.append(worth(world.stands) / most)
                    unsafe.append(float(status["unsafe"]))
                    worst.append(1 - min(1.0, float(status["worst"])))
                    if status["converged_s"] > 0:
                        times.append(float(status["converged_s"]))
        runs = len(of_best)
        row: dict[str, Any] = {"sampler": sampler, "backend": "sim", "runs": runs}
        row |= Metric("of_best", of_best).as_json()
        row["unsafe_trials"] = round(sum(unsafe) / runs, 2)
        row["worst_regression"] = round(sum(worst) / runs, 3)
        row["converge_s"] = Metric("", times).median if times else None
        row["converged"] = round(len(times) / runs, 2)
        rows.append(row)
    return rows
