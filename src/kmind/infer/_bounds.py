# SPDX-License-Identifier: Apache-2.0
"""Shows of an integer model that nothing in it can overflow, run on, or point outside.

Plain Python integers where numbers are few, for they do not overflow; where there are many,
int64 with bounds that keep each sum far below its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kmind.errors import ModelError

if TYPE_CHECKING:
    from kmind.infer.integer import Exact, Input, IntMlp, IntTrees, Limits, Output, Step

__all__ = [
    "EXPONENTS",
    "LONGEST_EDGES",
    "check_exact",
    "check_input",
    "check_mlp",
    "check_step",
    "check_trees",
    "input_range",
]

LONGEST_EDGES = (1 << 15) - 1
"""Of one feature: what a search of 15 steps looks through."""
_I64 = 1 << 63
_I32 = 1 << 31
_ACTIVATION = 32767
EXPONENTS = {True: 90, False: 900}
"""Exact leaves lie within these powers of two, in single precision and in double."""
# |weight| <= 2**15, activation < 2**15, at most 2**10 inputs: sums stay below 2**40.
_BIAS = 1 << 46


def _refuse(what: str) -> ModelError:
    return ModelError(f"the integer model is not valid: {what}")


def _fits(value: int, what: str) -> int:
    if not -_I64 <= value < _I64:
        raise _refuse(f"{what} needs more than 64 bits")
    return value


def input_range(stage: Input) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the smallest and the largest ``q`` of each feature."""
    ends = []
    for edge in (stage.lo, stage.hi):
        ends.append(
            [
                (_fits((_fits(x - offset, "x - offset")) * mul + add, "the input's product"))
                >> shift
                for x, offset, mul, add, shift in zip(
                    edge.tolist(),
                    stage.offset.tolist(),
                    stage.mul.tolist(),
                    stage.round.tolist(),
                    stage.shift.tolist(),
                    strict=True,
                )
            ]
        )
    low, high = np.array(ends[0], np.int64), np.array(ends[1], np.int64)
    for feature, edges in enumerate(stage.edges):
        if len(edges):  # how many of them lie below the value
            low[feature], high[feature] = 0, len(edges)
    return low, high


def check_input(stage: Input) -> None:
    """Refuse an input whose arithmetic could overflow; ``mul`` is never negative."""
    sizes = {len(getattr(stage, name)) for name in ("lo", "hi", "offset", "round", "mul", "shift")}
    if len(sizes) != 1 or not sizes.pop():
        raise _refuse("the input's arrays differ in length, or are empty")
    if stage.norm not in ("none", "l1", "l2", "max"):
        raise _refuse(f"norm {stage.norm!r}")
    if (stage.lo > stage.hi).any():
        raise _refuse("an input's lower end lies above its upper one")
    if (stage.mul < 0).any() or (stage.shift < 0).any() or (stage.shift > 62).any():
        raise _refuse("an input's factor is negative, or its shift not 0 to 62")
    if stage.edges and len(stage.edges) != len(stage):
        raise _refuse("the input's lists of edges are not one a feature")
    for edges in stage.edges:
        if edges.ndim != 1 or len(edges) > LONGEST_EDGES or (edges[1:] <= edges[:-1]).any():
            raise _refuse("an input's edges are too many, or not in order")
    low, high = input_range(stage)
    if (low < -_I32).any() or (high >= _I32).any():
        raise _refuse("an input does not fit in 32 bits")


def check_exact(exact: Exact, limits: Limits) -> None:
    """Refuse floats that the kernel's arithmetic does not take: tiny, huge, or none."""
    sums = len(exact.base)
    if not 1 <= sums <= limits.outputs or exact.last.shape != (sums,):
        raise _refuse("the exact sums to begin with")
    if exact.leaf.shape[1] not in (1, sums) or not 0 <= exact.close < 1 << 40:
        raise _refuse("the exact leaves, or what is close")
    if not 1 <= exact.divide <= limits.trees or not 0 <= exact.tie < 1:
        raise _refuse("the exact sums' divisor or tie")
    edges = np.array([exact.tie, exact.threshold])
    if not np.isfinite(edges).all():
        raise _refuse("an exact threshold that is not finite")
    widest = EXPONENTS[exact.single]
    for part in (exact.leaf, exact.base, exact.last):
        size = np.abs(part)
        if not ((size == 0) | ((size >= 2.0**-widest) & (size <= 2.0**widest))).all():
            raise _refuse("an exact leaf that is too small or too large")
        if exact.single and (part.astype(np.float32) != part).any():
            raise _refuse("an exact leaf of more than single precision")


def check_step(step: Step, longest: int) -> None:
    """Refuse a step whose activations leave 0 to 32767, or its table."""
    if not (1 <= step.mul < _I32 and 0 <= step.shift <= 62 and -_I64 <= step.add < _I64):
        raise _refuse("a step's factor, shift or summand is out of range")
    if not 0 <= step.lo <= step.hi <= _ACTIVATION:
        raise _refuse("a step's limits are not within 0 to 32767")
    if step.table is not None:
        size = len(step.table)
        if not 2 <= size <= longest or size & (size - 1) or step.hi >= size:
            raise _refuse(f"a table of {size}, indexed up to {step.hi}")
        if (step.table < 0).any():
            raise _refuse("a table holds a negative activation")


def _check_output(output: Output, outputs: int, low: list[int], high: list[int]) -> None:
    if output.kind not in ("value", "threshold", "argmax"):
        raise _refuse(f"output {output.kind!r}")
    if output.kind == "threshold" and outputs != 1:
        raise _refuse(f"a threshold over {outputs} scores")
    if output.kind == "argmax" and outputs < 2:
        raise _refuse("the largest of one score")
    if not -_I64 <= output.threshold < _I64:
        raise _refuse("a threshold that needs more than 64 bits")
    if not (np.isfinite(output.scale) and output.scale > 0):
        raise _refuse("the scores' scale is not a positive number")
    if output.probability is not None:
        if output.kind != "threshold":
            raise _refuse("a probability without a threshold")
        _check_product(output.probability, low[0], high[0])


def _check_product(step: Step, low: int, high: int) -> None:
    for value in (low, high):
        _fits(_fits(value * step.mul, "a step's product") + step.add, "a step's sum")


def check_mlp(model: IntMlp, limits: Limits) -> tuple[int, ...]:
    """Refuse what could overflow; return the largest size of each layer's accumulators."""
    if not 1 <= len(model.layers) <= limits.layers or len(model.input) > limits.features:
        raise _refuse(f"{len(model.layers)} layers over {len(model.input)} features")
    low, high = input_range(model.input)
    if (low < 0).any() or (high > _ACTIVATION).any():
        raise _refuse("an input of a network is not within 0 to 32767")
    if model.input.edges:
        raise _refuse("a network with lists of edges")
    largest = []
    for number, layer in enumerate(model.layers):
        out, fan_in = layer.weight.shape
        last = number == len(model.layers) - 1
        if fan_in != len(high) or len(layer.bias) != out or not 1 <= out <= limits.width:
            raise _refuse(f"layer {number} does not fit the one before, or is too wide")
        if (layer.step is None) != last:
            raise _refuse("all layers but the last have a step")
        if (np.abs(layer.bias) > _BIAS).any() or (layer.bias == -_I64).any():
            raise _refuse(f"a bias of layer {number} is too large")
        weight = layer.weight.astype(np.int64)
        up, down = np.maximum(weight, 0), np.minimum(weight, 0)
        bottom = (layer.bias + up @ low + down @ high).tolist()
        top = (layer.bias + up @ high + down @ low).tolist()
        # What is summed in another order stays within this, too.
        largest.append(int((np.abs(layer.bias) + np.abs(weight) @ np.maximum(high, 0)).max()))
        if layer.step is not None:
            for ends in zip(bottom, top, strict=True):
                _check_product(layer.step, *ends)
            values = (
                layer.step.table[layer.step.lo : layer.step.hi + 1]
                if layer.step.table is not None
                else np.array([layer.step.lo, layer.step.hi])
            )
            low = np.full(out, int(values.min()), np.int64)
            high = np.full(out, int(values.max()), np.int64)
    _check_output(model.output, len(bottom), bottom, top)
    if len(bottom) > limits.outputs:
        raise _refuse(f"{len(bottom)} scores; {limits.outputs} at most")
    return tuple(largest)


def check_trees(model: IntTrees, limits: Limits) -> int:
    """Refuse what could overflow, run on, or point outside; return the depth."""
    trees, nodes, (leaves, width) = len(model.root), len(model.feature), model.leaf.shape
    features, outputs = len(model.input), len(model.base)
    if not 1 <= trees <= limits.trees or not trees <= nodes <= limits.nodes:
        raise _refuse(f"{trees} trees of {nodes} nodes")
    if features > limits.features or not 1 <= outputs <= limits.outputs:
        raise _refuse(f"{features} features, {outputs} scores")
    if width not in (1, outputs):
        raise _refuse(f"{width} values a leaf for {outputs} scores")
    if {len(model.threshold), len(model.left), len(model.right)} != {nodes}:
        raise _refuse("the nodes' arrays differ in length")
    if len(model.output_of) != trees or (width > 1 and model.output_of.any()):
        raise _refuse("the trees' outputs")
    if (model.output_of < 0).any() or (model.output_of >= outputs).any():
        raise _refuse("a tree adds to a score that is not there")
    # In 64 bits, or a difference may wrap.
    root = model.root.astype(np.int64)
    if root[0] != 0 or (np.diff(root) <= 0).any() or root[-1] >= nodes:
        raise _refuse("the trees' roots are not in order")
    return _check_nodes(model, trees, nodes, leaves, limits)


def _check_nodes(model: IntTrees, trees: int, nodes: int, leaves: int, limits: Limits) -> int:
    if (model.feature < -1).any() or (model.feature >= len(model.input)).any():
        raise _refuse("a node asks for a feature that is not there")
    is_leaf = model.feature < 0
    place = np.arange(nodes)
    tree = np.searchsorted(model.root, place, side="right") - 1
    end = np.append(model.root[1:], nodes)[tree]
    inner = ~is_leaf
    parents = np.zeros(nodes, np.int64)
    for child in (model.left, model.right):
        if (child[inner] <= place[inner]).any() or (child[inner] >= end[inner]).any():
            raise _refuse("a node's child does not come after it in the same tree")
        np.add.at(parents, child[inner], 1)
    parents[model.root] += 1
    if (parents != 1).any():
        raise _refuse("a node has no parent, or two")
    rows = model.left[is_leaf]
    if model.right[is_leaf].any() or model.threshold[is_leaf].any():
        raise _refuse("a leaf with a threshold")
    if sorted(rows.tolist()) != list(range(leaves)):
        raise _refuse("the leaves' rows are not each used once")
    depth = _depth(model, place[model.root], limits.depth)
    most = np.zeros((trees, model.width), np.int64)
    np.maximum.at(most, tree[is_leaf], np.abs(model.leaf[rows].astype(np.int64)))
    total = np.abs(model.base)
    if (total >= _I32).any() or (total < 0).any():
        raise _refuse("a score to begin with is too large")
    if model.width > 1:
        total = total + most.sum(axis=0)
    else:
        np.add.at(total, model.output_of, most[:, 0])
    if (total >= _I32).any():
        raise _refuse("the scores do not fit in 32 bits")
    low, high = (-total).tolist(), total.tolist()
    _check_output(model.output, len(total), low, high)
    if model.exact is not None:
        _check_fit(model, leaves)
    return depth


def _check_fit(model: IntTrees, leaves: int) -> None:
    exact = model.exact
    assert exact is not None
    wanted = (len(model.base),) if model.output.kind == "argmax" else (1, 2)
    if model.output.kind == "value" or len(exact.base) not in wanted:
        raise _refuse("the exact sums do not fit the output")
    if len(exact.leaf) != leaves or (
        exact.leaf.shape[1] == 1 and len(exact.base) > len(model.base)
    ):
        raise _refuse("the exact leaves do not fit the trees")
    if exact.leaf.shape[1] < model.width:
        raise _refuse("the exact leaves are fewer than the rounded ones")


def _depth(model: IntTrees, roots: NDArray[np.int64], most: int) -> int:
    level, depth = roots, 0
    while True:
        level = level[model.feature[level] >= 0]
        if not len(level):
            return depth
        depth += 1
        if depth > most:
            raise _refuse(f"trees deeper than {most}")
        level = np.concatenate([model.left[level], model.right[level]])
