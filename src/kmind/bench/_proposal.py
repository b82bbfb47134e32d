# SPDX-License-Identifier: Apache-2.0
"""Cost of readahead's proposal: decided in the kernel's tick, or by numpy in user space.

Windows are drawn at random and labelled by a rule too simple to be true. Only the shape of the
models matters: those of readahead's own recipe, each learnt and quantised as ``kmind train`` does.
In the kernel only the decision is timed, in user space its inputs too.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from kmind.agent.kernel.evaluator import KernelEvaluator
from kmind.bench._results import Metric
from kmind.extension import find_module
from kmind.infer import Feature, ModelFile, evaluate, from_sklearn, quantise
from kmind.learn.models import make_model
from kmind.modules.readahead.recipe import COLUMNS, ReadaheadRecipe, columns_of

__all__ = ["measure_proposals"]

_WINDOWS = 1024
_LEARN = 2000
_PER_S = 10  # windows a second
_AT_ONCE = 4096


def measure_proposals(rounds: int) -> list[dict[str, Any]]:
    """A row for each family of the recipe's models; shares are of one core, in percent."""
    features = find_module("readahead").manifest.columns
    windows, kb = _draw(_LEARN + _WINDOWS, len(features))
    x = columns_of(windows, features, kb)
    rows = []
    with KernelEvaluator() as kernel:
        for family in ReadaheadRecipe.models:
            model = _model(family, x[:_LEARN]).model
            kernel.load(model)
            decided, expected = kernel.evaluate(x[_LEARN:]), evaluate(model, x[_LEARN:])
            in_kernel, in_user = [], []
            for turn in range(rounds + 1):  # the first warms caches
                in_kernel.append(kernel.time_ns(x[_LEARN:], _AT_ONCE))
                one = slice(_LEARN + turn, _LEARN + turn + 1)
                start = time.perf_counter_ns()
                evaluate(model, columns_of(windows[one], features, kb[one]))
                in_user.append(float(time.perf_counter_ns() - start))
            rows.append(
                {
                    "family": family,
                    **Metric("kernel_ns", in_kernel[1:]).as_json(),
                    **Metric("user_ns", in_user[1:]).as_json(),
                    "kernel_percent": _PER_S * float(np.median(in_kernel[1:])) / 1e7,
                    "user_percent": _PER_S * float(np.median(in_user[1:])) / 1e7,
                    "bit_exact": bool(np.array_equal(decided.label, expected.label)),
                }
            )
    return rows


def _draw(count: int, features: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    shape = count, features
    counters = rng.integers(0, 1 << 20, shape) >> rng.integers(0, 20, shape)
    return counters, rng.choice([16, 128, 1024, 8192], count)


def _model(family: Any, x: npt.NDArray[Any]) -> ModelFile:
    order = [column.name for column in COLUMNS].index("in_order")
    y = np.searchsorted(
        [100, 400, 700], x[:, order] + np.random.default_rng(1).normal(0, 50, len(x))
    )
    features = [Feature(column.name, column.unit) for column in COLUMNS]
    fitted = make_model(family, 0).fit(x, y)
    return quantise(from_sklearn(fitted), x, features=features, limit=100)
