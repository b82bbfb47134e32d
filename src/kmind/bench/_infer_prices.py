# SPDX-License-Identifier: Apache-2.0
"""Prices of the operations of decisions: models of many shapes are timed, and prices fitted.

The grid is drawn at random, but the same each time: networks of all widths of numbers, trees of
all layouts, with and without a Normalizer, and those whose every call is close. The fit minimises
the relative errors, with no price below 0 (C. Lawson and R. Hanson, "Solving Least Squares
Problems", 1974; scipy's ``nnls``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import astuple, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmind.agent.kernel.evaluator import KernelEvaluator
from kmind.errors import ModelError
from kmind.infer.integer import IntModel, IntTrees
from kmind.infer.integer_parts import Exact
from kmind.infer.lazy import need
from kmind.infer.packing.cost import MARGIN, Operations, Prices, count, estimate_ns, price_ns
from kmind.testing.models import random_inputs, random_mlp, random_trees

__all__ = ["compare_prices", "fit_prices", "grid"]

_NETWORKS = (
    (1, 1), (4, 3), (16, 1), (64, 1, 1), (64, 2), (8, 8, 2), (5, 25, 15, 4), (16, 32, 2),
    (31, 64, 2), (3, 300, 12), (31, 128, 32, 2), (31, 256, 2), (64, 256, 16, 4),
    (24, 64, 64, 64, 3),
)  # fmt: skip
_COMPLETE = (  # trees, depth, features
    (1, 2, 4), (1, 4, 16), (1, 7, 8), (1, 10, 16), (1, 10, 32), (6, 4, 8), (6, 8, 16), (13, 3, 8),
    (30, 5, 16), (60, 4, 32), (100, 4, 16), (100, 6, 16), (200, 6, 8), (30, 8, 16), (300, 5, 32),
)  # fmt: skip
_POINTERS = (  # trees, depth, features, scores
    (1, 3, 4, 1), (1, 12, 8, 1), (4, 8, 16, 1), (10, 5, 40, 1), (20, 7, 8, 3), (60, 6, 16, 1),
    (8, 9, 64, 5), (100, 4, 24, 1),
)  # fmt: skip
_CLOSE = (  # trees, depth, features of complete trees each of whose decisions is a close call
    (6, 4, 8), (30, 3, 11), (30, 5, 16), (60, 4, 32), (100, 6, 16),
)  # fmt: skip
_REPEATS = 3  # of each shape, with other widths, steps and norms
_VECTORS = 256
_ALWAYS = (1 << 40) - 1  # further apart no scores are

_F64 = NDArray[np.float64]
_Complete = Callable[[np.random.Generator, int, int, int], IntModel]


def grid(complete: _Complete) -> Iterator[tuple[str, IntModel]]:
    """Yield models with their names; ``complete(rng, trees, depth, features)`` grows such trees."""
    rng = np.random.default_rng(20)
    for shape in _NETWORKS:
        for turn in range(_REPEATS):
            name = "-".join(map(str, ("mlp", *shape)))
            yield f"{name}/{turn}", random_mlp(rng, shape)
    for trees, depth, features in _COMPLETE:
        yield f"complete-{trees}x{depth}-{features}", complete(rng, trees, depth, features)
    for trees, depth, features, scores in _POINTERS:
        for turn in range(_REPEATS):
            full = bool(turn)
            model = random_trees(rng, trees, depth, features, scores, complete=full, plain=True)
            yield f"pointers-{trees}x{depth}-{features}/{turn}", model
    for trees, depth, features in _CLOSE:
        for single in (False, True):
            name = f"close-{trees}x{depth}-{features}/{'single' if single else 'double'}"
            yield name, _close(complete(rng, trees, depth, features), rng, single)
    for trees, depth, features, scores in _POINTERS:
        each = random_trees(rng, trees, depth, features, scores, complete=True, norms=False)
        if each.exact is not None:
            each = replace(each, exact=replace(each.exact, close=_ALWAYS))
        yield f"close-pointers-{trees}x{depth}-{features}", each


def _close(model: IntModel, rng: np.random.Generator, single: bool) -> IntModel:
    # Doubles are added and divided as a forest's votes are, singles as boosted leaves.
    assert isinstance(model, IntTrees)
    sums = 1 if single else 2
    leaf = rng.normal(0, 0.1, (len(model.leaf), sums)).astype(np.float32).astype(np.float64)
    zero = np.zeros(sums)
    divide = 1 if single else len(model.root)
    return replace(model, exact=Exact(leaf, zero, zero, _ALWAYS, single, divide))


def compare_prices(
    kernel: KernelEvaluator, models: Iterator[tuple[str, IntModel]], rounds: int
) -> dict[str, Any]:
    """Time models; what of the bench's result says how that compares with the estimates.

    ``over_estimate`` and ``fitted_worst`` are the worst of measured to estimated, and to what
    the prices come to that fit best.
    """
    rng = np.random.default_rng(0)
    rows = []
    for name, model in models:
        x = random_inputs(rng, model, _VECTORS)
        kernel.load(model)
        kernel.time_ns(x, _VECTORS)
        spent = [kernel.time_ns(x, 8 * _VECTORS) for _ in range(rounds)]
        # On a busy machine the loop that is taken off may be longer than the smallest decisions.
        rows.append((name, model, max(float(np.median(spent)), 1.0)))
    counted = [count(model) for _, model, _ in rows]
    measured = np.array([ns for *_, ns in rows])
    fitted, worst = fit_prices(counted, measured)
    estimates = np.array([estimate_ns(model) for _, model, _ in rows])
    return {
        "margin": MARGIN,
        "over_estimate": round(float((measured / estimates).max()), 3),
        "fitted_prices": {
            each.name: round(getattr(fitted, each.name), 3) for each in fields(Prices)
        },
        "fitted_worst": round(worst, 3),
        "prices": [
            {
                "name": name,
                "ns": round(ns, 1),
                "estimate_ns": round(estimate_ns(model), 1),
                "fitted_ns": round(price_ns(operations, fitted), 1),
            }
            for (name, model, ns), operations in zip(rows, counted, strict=True)
        ],
    }


def fit_prices(counted: list[Operations], measured: _F64) -> tuple[Prices, float]:
    """Return the prices that fit measured nanoseconds best, and the worst measured-to-priced.

    ``counted[n]``, ``measured[n]``. Raises ModelError where a measurement is not positive.
    """
    if not len(measured) or not (measured > 0).all():
        raise ModelError("prices cannot be fitted to times that are not positive")
    table = np.array([astuple(each) for each in counted], np.float64)
    solution = need("scipy.optimize", "learn").nnls(table / measured[:, None], np.ones(len(table)))
    prices = replace(Prices(*([0.0] * len(fields(Prices)))), **{
        each.name: float(price)
        for each, price in zip(fields(Operations), solution[0], strict=True)
    })  # fmt: skip
    priced = np.array([price_ns(each, prices) for each in counted])
    return prices, float((measured / np.maximum(priced, 1e-9)).max())
