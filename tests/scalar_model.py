# SPDX-License-Identifier: Apache-2.0
"""The integer model once more, one number at a time: written from its description alone."""

import struct
from math import isqrt

from kmind.infer.integer import IntMlp, IntModel, IntTrees
from kmind.infer.integer_parts import Exact, Input, Output, Step


def int64(value: int) -> int:
    assert -(1 << 63) <= value < 1 << 63, "more than 64 bits"
    return value


def clamp(value: int, low: int, high: int) -> int:
    if value < low:
        return low
    return min(value, high)


def divided(norm: str, x: list[int]) -> list[int]:
    u = [clamp(value, -(2**31 - 1), 2**31 - 1) for value in x]
    sizes = [abs(value) for value in u]
    if norm == "l1":
        size = sum(sizes)
    elif norm == "max":
        size = max(sizes)
    else:
        size = isqrt(sum(value * value for value in sizes) % (1 << 64))
    if size == 0:
        return [0] * len(u)
    return [
        ((abs(value) << 30) // size) * (1 if value > 0 else -1 if value < 0 else 0) for value in u
    ]


def stage(model: Input, x: list[int]) -> list[int]:
    if model.norm != "none":
        x = divided(model.norm, x)
    q = []
    for number, value in enumerate(x):
        inside = clamp(value, int(model.lo[number]), int(model.hi[number]))
        product = int64(int64(inside - int(model.offset[number])) * int(model.mul[number]))
        q.append(int64(product + int(model.round[number])) >> int(model.shift[number]))
        if model.edges and len(model.edges[number]):
            q[-1] = sum(edge < value for edge in model.edges[number].tolist())
    return q


def step(model: Step, value: int) -> int:
    moved = int64(int64(value * model.mul) + model.add) >> model.shift
    inside = clamp(moved, model.lo, model.hi)
    return inside if model.table is None else int(model.table[inside])


def network(model: IntMlp, q: list[int]) -> list[int]:
    for number, layer in enumerate(model.layers):
        sums = []
        for row, bias in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True):
            total = bias
            for weight, value in zip(row, q, strict=True):
                total += weight * value
                assert abs(total) <= model.bound[number], "beyond what was promised"
            sums.append(total)
        q = sums if layer.step is None else [step(layer.step, value) for value in sums]
        assert layer.step is None or all(0 <= value <= 32767 for value in q)
    return q


def trees(model: IntTrees, q: list[int]) -> tuple[list[int], list[int]]:
    """Return the scores, and the leaf of each tree."""
    scores, leaves = model.base.tolist(), []
    for root, output in zip(model.root.tolist(), model.output_of.tolist(), strict=True):
        node, turns = root, 0
        while model.feature[node] >= 0:
            right = q[int(model.feature[node])] > int(model.threshold[node])
            node = int(model.right[node] if right else model.left[node])
            turns += 1
        assert turns <= model.depth
        leaves.append(int(model.left[node]))
        leaf = model.leaf[leaves[-1]].tolist()
        for place, value in enumerate(leaf):
            scores[output if len(leaf) == 1 else place] += value
        assert all(-(1 << 31) <= score < 1 << 31 for score in scores)
    return scores, leaves


def is_close(output: Output, exact: Exact, scores: list[int]) -> bool:
    if output.kind == "threshold":
        return abs(scores[0] - output.threshold) <= exact.close
    second, first = sorted(scores)[-2:]
    return first - second <= exact.close


def exact_label(model: IntTrees, exact: Exact, leaves: list[int]) -> int:
    """Python's floats are doubles; a single is what is packed as one."""

    def rounded(value: float) -> float:
        return struct.unpack("<f", struct.pack("<f", value))[0] if exact.single else value

    sums = exact.base.tolist()
    for tree, leaf in enumerate(leaves):
        row = exact.leaf[leaf].tolist()
        for place, value in enumerate(row):
            output = int(model.output_of[tree]) if len(row) == 1 else place
            # The sum of two singles as a double is rounded twice, which is once (Figueroa, 1995).
            sums[output] = rounded(sums[output] + value)
    sums = [
        rounded(rounded(a + b) / exact.divide)
        for a, b in zip(sums, exact.last.tolist(), strict=True)
    ]
    if len(sums) == 1:
        return int(sums[0] > exact.threshold)
    return next(n for n, each in enumerate(sums) if rounded(max(sums) - each) <= exact.tie)


def decide(model: IntModel, x: list[int]) -> tuple[int, list[int], int]:
    """Return label, scores and probability (-1: none) for one vector."""
    q, leaves = stage(model.input, x), []
    if isinstance(model, IntMlp):
        scores = network(model, q)
    else:
        scores, leaves = trees(model, q)
    output, label, probability = model.output, 0, -1
    if output.kind == "argmax":
        label = scores.index(max(scores))
    if output.kind == "threshold":
        label = int(scores[0] > output.threshold)
    if output.probability is not None:
        probability = step(output.probability, scores[0])
    exact = model.exact if isinstance(model, IntTrees) else None
    if exact is not None and is_close(output, exact, scores):
        label = exact_label(model, exact, leaves)
    return label, scores, probability
