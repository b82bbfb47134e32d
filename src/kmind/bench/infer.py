# SPDX-License-Identifier: Apache-2.0
"""Measure decisions by models in the kernel, beside the same models in C.

Each model is drawn at random in a published shape, with as many bits as the quantiser gives it.
The kernel decides on 1,024 different vectors, again and again, inside one run of a syscall
program, less the same loop without deciding; C does the same in a loop of its own, in turns
with it in the same run. Both bring the raw integers of the features to the model's scale first.

``prices`` holds what the model-cost gate estimates against what models of many shapes take.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmind.agent.kernel.evaluator import KernelEvaluator
from kmind.bench._infer_c import CModel, compiler
from kmind.bench._infer_prices import compare_prices, grid
from kmind.bench._results import Metric, describe_machine
from kmind.command import Flag, Option
from kmind.infer.integer import IntMlp, IntModel, IntTrees
from kmind.infer.integer_parts import Input, Layer, Output, Step
from kmind.infer.packing.cost import estimate_ns
from kmind.infer.reference import evaluate

__all__ = ["MODELS", "OPTIONS", "SCHEMA", "run_infer_bench"]

OPTIONS: tuple[Option | Flag, ...] = (
    Flag("agreement", "compare only the labels of random models with those of their libraries"),
)
"""Options of its own, besides --quick and --json."""

SCHEMA = "kmind.bench.infer/1"

_VECTORS = 1024
_SPAN = 1000  # features go from 0 to this


def run_infer_bench(*, quick: bool = False, agreement: bool = False) -> dict[str, Any]:
    """Measure; the object that ``kmind bench infer --json`` prints.

    With ``agreement`` labels are counted instead that differ from those of the libraries:
    1,000 random models a family, 10,000 rows each (``quick``: 20 models, 2,000 rows).
    """
    if agreement:
        from kmind.bench._agreement import agreement as compare  # it needs the libraries

        families = compare(*((20, 2_000) if quick else (1_000, 10_000)))
        return {
            "schema": "kmind.bench.agreement/1",
            "quick": quick,
            "machine": describe_machine(),
            "families": families,
        }
    rounds = 9 if quick else 41
    result: dict[str, Any] = {"schema": SCHEMA, "quick": quick, "machine": describe_machine()}
    result["compiler"] = f"{compiler().rsplit('/', 1)[-1]} -O2, scalar"
    with KernelEvaluator() as kernel:
        result["models"] = [_measure(name, kernel, rounds) for name in MODELS]
        result |= compare_prices(kernel, grid(_trees), rounds)
    return result


def _measure(name: str, kernel: KernelEvaluator, rounds: int) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    model = MODELS[name](rng)
    x = rng.integers(0, _SPAN + 1, (_VECTORS, len(model.input)))
    kernel.load(model)
    expected = evaluate(model, x)
    decided = kernel.evaluate(x)
    exact = all(
        np.array_equal(getattr(decided, part), getattr(expected, part))
        for part in ("label", "score", "probability")
    )
    in_kernel, in_c = [], []
    with CModel(model) as compiled:
        for turn in range(rounds + 1):
            # The first round warms caches; which of the two begins changes.
            for arm in (0, 1) if turn % 2 else (1, 0):
                if arm:
                    in_kernel.append(kernel.time_ns(x, 4 * _VECTORS))
                else:
                    ns, scores = compiled.time_ns(x, 4 * _VECTORS)
                    in_c.append(ns)
                    exact &= np.array_equal(scores, expected.score)
    return {
        "name": name,
        **Metric("ns", in_kernel[1:]).as_json(),
        **Metric("c_ns", in_c[1:]).as_json(),
        "bit_exact": bool(exact),
        "estimate_ns": round(estimate_ns(model)),
    }


def _network(rng: np.random.Generator, shape: tuple[int, ...]) -> IntModel:
    # Features to 7 bits, weights of 8, activations of 7 that saturate.
    features = shape[0]
    stage = Input(
        lo=np.zeros(features, np.int64),
        hi=np.full(features, _SPAN, np.int64),
        offset=np.zeros(features, np.int64),
        round=np.full(features, 1 << 15, np.int64),
        mul=np.full(features, 127 * (1 << 16) // _SPAN, np.int32),
        shift=np.full(features, 16, np.int32),
    )
    layers = []
    for number, (inputs, outputs) in enumerate(pairwise(shape)):
        weight = np.clip(rng.normal(0, 40, (outputs, inputs)).round(), -127, 127).astype(np.int16)
        bias = rng.normal(0, 2000, outputs).round().astype(np.int64)
        shift = int(np.log2(40 * np.sqrt(inputs)))
        step = Step(mul=1, add=1 << (shift - 1), shift=shift, lo=0, hi=127)
        layers.append(Layer(weight, bias, None if number == len(shape) - 2 else step))
    return IntMlp(stage, tuple(layers), Output("argmax"))


def _trees(rng: np.random.Generator, trees: int, depth: int, features: int) -> IntModel:
    # Complete; each threshold splits what its node can be reached with.
    inner, leaves = (1 << depth) - 1, 1 << depth
    feature = np.full((trees, inner + leaves), -1, np.int32)
    threshold = np.zeros_like(feature)
    left, right = np.zeros_like(feature), np.zeros_like(feature)
    for tree in range(trees):
        root = tree * (inner + leaves)
        box = {0: (np.zeros(features), np.full(features, float(_SPAN)))}
        for node in range(inner):
            low, high = box.pop(node)
            which = int(rng.integers(features))
            split = int(low[which] + (high[which] - low[which]) * rng.uniform(0.3, 0.7))
            feature[tree, node], threshold[tree, node] = which, split
            left[tree, node], right[tree, node] = root + 2 * node + 1, root + 2 * node + 2
            below, above = high.copy(), low.copy()
            below[which] = above[which] = split
            box[2 * node + 1], box[2 * node + 2] = (low, below), (above, high)
        left[tree, inner:] = tree * leaves + np.arange(leaves)
    wide = np.int64(1) << 31
    stage = Input(
        lo=np.full(features, -wide),
        hi=np.full(features, wide - 1),
        offset=np.zeros(features, np.int64),
        round=np.zeros(features, np.int64),
        mul=np.ones(features, np.int32),
        shift=np.zeros(features, np.int32),
    )
    return IntTrees(
        input=stage,
        root=(np.arange(trees) * (inner + leaves)).astype(np.int32),
        output_of=np.zeros(trees, np.int32),
        feature=feature.ravel(),
        threshold=threshold.ravel(),
        left=left.ravel(),
        right=right.ravel(),
        leaf=_leaves(rng, trees * leaves),
        base=np.zeros(1, np.int64),
        output=Output("threshold"),
    )


def _leaves(rng: np.random.Generator, count: int) -> NDArray[np.int32]:
    return rng.integers(-1_000_000, 1_000_000, (count, 1)).astype(np.int32)


MODELS: dict[str, Callable[[np.random.Generator], IntModel]] = {
    "mlp-31-256-2": lambda rng: _network(rng, (31, 256, 2)),
    "mlp-5-25-15-4": lambda rng: _network(rng, (5, 25, 15, 4)),
    "gbdt-100x6": lambda rng: _trees(rng, 100, 6, 16),
    "tree-10": lambda rng: _trees(rng, 1, 10, 16),
}
"""The shapes: LinnOS's, KML's, 100 boosted trees of depth 6 over 16 features, one of depth 10."""
