# SPDX-License-Identifier: Apache-2.0
"""Random integer models and inputs, to hold evaluators of them against each other."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kmind.infer.integer import IntMlp, IntModel, IntTrees
from kmind.infer.integer_parts import Exact, Input, Layer, Norm, Output, OutputKind, Step

__all__ = ["random_inputs", "random_mlp", "random_model", "random_trees"]

_NORMS: tuple[Norm, ...] = ("none", "none", "none", "l1", "l2", "max")


def random_model(rng: np.random.Generator, *, norms: bool = True) -> IntModel:
    """Return a small model of either kind; ``norms``: some of them divide by a vector's size."""
    return random_trees(rng, norms=norms) if rng.random() < 0.5 else random_mlp(rng, norms=norms)


def random_inputs(rng: np.random.Generator, model: IntModel, count: int) -> NDArray[np.int64]:
    """Return vectors ``[count, F]``: within the model's range, at its edges, and far outside."""
    stage = model.input
    size = (count, len(stage))
    low, high = stage.lo, stage.hi
    if stage.edges:
        # Where a feature has edges, they are what it is compared with.
        ends = [(edges[0], edges[-1]) if len(edges) else (0, 0) for edges in stage.edges]
        has = np.array([len(edges) > 0 for edges in stage.edges])
        low = np.where(has, np.array(ends)[:, 0], low)
        high = np.where(has, np.array(ends)[:, 1], high)
    inside = low + (rng.random(size) * (high - low).astype(np.float64)).astype(np.int64)
    edge = np.where(rng.random(size) < 0.5, low, high) + rng.integers(-2, 3, size)
    far = rng.integers(-(1 << 63), 1 << 63, size, dtype=np.int64)
    which = rng.random(size)
    return np.where(which < 0.7, inside, np.where(which < 0.9, edge, far))


def _input(rng: np.random.Generator, features: int, norm: Norm, most: int) -> Input:
    """An input whose ``q`` lies within 0 and ``most`` for a network, any int32 for trees."""
    lo = rng.integers(-(1 << 40), 1 << 40, features)
    if norm != "none":
        lo = np.full(features, -(1 << 30))
    span = np.full(features, 1 << 31) if norm != "none" else 1 << rng.integers(1, 41, features)
    hi = lo + span
    if most == 0:
        offset = lo + rng.integers(0, span // 2 + 1)
        shift = np.maximum(np.ceil(np.log2(span)) - 31, 0).astype(np.int32)
        mul, add = np.ones(features, np.int32), np.zeros(features, np.int64)
    else:
        offset = lo
        shift = np.full(features, 14, np.int32) + np.ceil(np.log2(span)).astype(np.int32)
        mul = np.full(features, max(most - 1, 1) << 7, np.int32)
        mul = np.minimum(mul, (1 << 22) - 1).astype(np.int32)
        shift = np.minimum(shift, 7 + np.ceil(np.log2(span)).astype(np.int32)).astype(np.int32)
        add = np.int64(1) << (shift.astype(np.int64) - 1)
    return Input(lo, hi, offset, add, mul, shift, norm)


def _table(rng: np.random.Generator, size: int, most: int) -> NDArray[np.int16]:
    return np.sort(rng.integers(0, most + 1, size)).astype(np.int16)


def _output(rng: np.random.Generator, outputs: int, largest: int) -> Output:
    kinds: tuple[OutputKind, ...] = ("value", "threshold") if outputs == 1 else ("argmax", "value")
    kind = kinds[int(rng.integers(2))]
    if kind != "threshold":
        return Output(kind)
    probability = None
    if rng.random() < 0.5:
        size = 1 << int(rng.integers(1, 11))
        shift = max(largest.bit_length() + 1 - size.bit_length(), 0)
        probability = Step(1, (size // 2) << shift, shift, 0, size - 1, _table(rng, size, 32767))
    return Output(kind, int(rng.integers(-largest // 8, largest // 8 + 1)), 0.5, probability)


def random_mlp(
    rng: np.random.Generator, shape: tuple[int, ...] | None = None, *, norms: bool = True
) -> IntMlp:
    """Return a network of this shape (features, widths...), or of a random one.

    Weights have 3 to 16 bits, activations 3 to 15; some layers look up a table.
    """
    if shape is None:
        depth = int(rng.integers(1, 4))
        hidden = rng.integers(1, 40, depth)
        shape = (*hidden.tolist(), int(rng.integers(1, 6)))
    weight_bits, bits = int(rng.integers(3, 17)), int(rng.integers(3, 16))
    norm = _NORMS[int(rng.integers(len(_NORMS)))] if norms else "none"
    most = (1 << bits) - 1
    stage = _input(rng, shape[0], norm, most)
    layers = []
    edge = 1 << (weight_bits - 1)
    for number, (fan_in, out) in enumerate(pairwise(shape)):
        weight = rng.integers(-edge, edge, (out, fan_in)).astype(np.int16)
        weight[rng.random(weight.shape) < 0.2] = 0
        bias = rng.integers(-edge * most, edge * most + 1, out)
        step = None
        if number < len(shape) - 2:
            # Accumulators are about edge * most * sqrt(fan_in); bring them to the activations.
            spread = int(edge * most * max(fan_in, 1) ** 0.5)
            mul = int(rng.integers(1, 1 << 10))
            if rng.random() < 0.3:
                size = 1 << int(rng.integers(3, 12))
                shift = max((spread * mul // size).bit_length(), 0)
                step = Step(mul, (size // 2) << shift, shift, 0, size - 1, _table(rng, size, most))
            else:
                shift = max((spread * mul // most).bit_length(), 1)
                step = Step(mul, 1 << (shift - 1), shift, 0, most)
        layers.append(Layer(weight, bias, step))
    return IntMlp(stage, tuple(layers), _output(rng, shape[-1], edge * most))


def random_trees(
    rng: np.random.Generator,
    trees: int | None = None,
    depth: int | None = None,
    features: int | None = None,
    outputs: int | None = None,
    *,
    complete: bool = False,
    norms: bool = True,
    plain: bool = False,
) -> IntTrees:
    """Return trees of at most this depth, each full if ``complete``; what is None is random.

    ``plain``: no feature is searched for among edges, and no call is close.
    """
    trees = int(rng.integers(1, 30)) if trees is None else trees
    depth = int(rng.integers(0, 9)) if depth is None else depth
    features = int(rng.integers(1, 20)) if features is None else features
    outputs = int(rng.integers(1, 5)) if outputs is None else outputs
    width = outputs if rng.random() < 0.3 else 1
    norm = _NORMS[int(rng.integers(len(_NORMS)))] if norms else "none"
    stage = _input(rng, features, norm, 0)
    edges = [
        ((np.array([stage.lo, stage.hi]) - stage.offset) >> stage.shift)[:, number]
        for number in range(features)
    ]
    if norm == "none" and not plain and rng.random() < 0.3:
        stage = replace(stage, edges=_edges(rng, features))
        edges = [
            np.array([0, len(limits)]) if len(limits) else mine
            for limits, mine in zip(stage.edges, edges, strict=True)
        ]
    columns: tuple[list[int], ...] = ([], [], [], [])
    root, leaves = [], 0

    def grow(left: int) -> int:
        nonlocal leaves
        here = len(columns[0])
        for column in columns:
            column.append(0)
        if left == 0 or (not complete and rng.random() < 0.15):
            columns[0][here], columns[2][here] = -1, leaves
            leaves += 1
            return here
        which = int(rng.integers(features))
        columns[0][here] = which
        columns[1][here] = int(rng.integers(int(edges[which][0]), int(edges[which][1]) + 1))
        columns[2][here] = grow(left - 1)
        columns[3][here] = grow(left - 1)
        return here

    for _ in range(trees):
        root.append(grow(depth))
    feature, threshold, left, right = (np.array(column, np.int32) for column in columns)
    most = ((1 << 31) - 1) // (trees + 1)
    leaf = rng.integers(-most, most + 1, (leaves, width)).astype(np.int32)
    output_of = rng.integers(0, outputs, trees) if width == 1 else np.zeros(trees)
    output = _output(rng, outputs, most)
    exact = None
    if output.kind != "value" and not plain and rng.random() < 0.5:
        exact = _exact(rng, output.kind, (leaves, width), outputs, most)
    return IntTrees(
        input=stage,
        root=np.array(root, np.int32),
        output_of=output_of.astype(np.int32),
        feature=feature,
        threshold=threshold,
        left=left,
        right=right,
        leaf=leaf,
        base=rng.integers(-most, most + 1, outputs),
        output=output,
        exact=exact,
    )


def _edges(rng: np.random.Generator, features: int) -> tuple[NDArray[np.int64], ...]:
    layers = []
    for _ in range(features):
        count = int(rng.integers(1, 40)) if rng.random() < 0.5 else 0
        span = 1 << int(rng.integers(33, 63))
        layers.append(np.unique(rng.integers(-span, span, count)))
    return tuple(layers)


def _exact(
    rng: np.random.Generator, kind: OutputKind, shape: tuple[int, int], outputs: int, most: int
) -> Exact:
    """Floats whose sums often tie but for their rounding, for decisions of which many are close."""
    leaves, width = shape
    sums = 2 if kind == "threshold" and rng.random() < 0.5 else outputs
    wide = sums if width > 1 or sums > outputs else 1
    single = bool(rng.random() < 0.5)

    def floats(*size: int) -> NDArray[np.float64]:
        few = rng.integers(-9, 10, size) / 10.0
        many = rng.normal(0, 1, size) * 2.0 ** rng.integers(-40, 40, size)
        values = few if rng.random() < 0.7 else many
        return values.astype(np.float32).astype(np.float64) if single else values

    return Exact(
        leaf=floats(leaves, wide),
        base=floats(sums),
        last=floats(sums) * int(rng.integers(2)),
        close=int(most * rng.random()),
        single=single,
        divide=int(rng.choice([1, 2, 3, 10, 13, 100, 4096])),
        tie=float(rng.choice([0.0, 2.0**-25, 2.0**-54])) if sums == outputs > 1 else 0.0,
        threshold=float(rng.choice([0.0, 0.1, 0.5, np.nextafter(0.0, -1.0)])),
    )
