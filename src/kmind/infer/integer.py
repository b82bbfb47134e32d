# SPDX-License-Identifier: Apache-2.0
"""The integer model: what a decision in the kernel computes, bit for bit.

Everything is an integer of fixed width; ``kmind.infer.reference`` is the definition by
example. ``>>`` shifts arithmetically (rounds towards minus infinity), ``clamp(v, lo, hi)`` is
``min(max(v, lo), hi)``. No sum or product leaves 64 signed bits: a model for which that cannot
be shown is refused when it is made, so no evaluator needs to check for overflow.

**Input.** A decision takes one vector ``x`` of int64, one number a feature. If ``norm`` is not
``none``, each vector is first divided by its own size, with 30 fractional bits::

    u[f] = clamp(x[f], -(2**31 - 1), 2**31 - 1)
    size = sum |u[f]| (l1), max |u[f]| (max), or floor(sqrt(sum u[f]**2)) (l2; sum as uint64)
    x[f] = sign(u[f]) * ((|u[f]| << 30) // size), or 0 where size is 0

Then each feature is brought to the model's own scale::

    q[f] = ((clamp(x[f], lo[f], hi[f]) - offset[f]) * mul[f] + round[f]) >> shift[f]

A feature of trees whose thresholds lie further apart than 32 bits reach has a list of them,
``edges[f]``, instead: ``q[f]`` is how many of them lie below ``x[f]``.

**Trees** (``IntTrees``). From a tree's root, go right where ``q[feature] > threshold``, else
left, down to a leaf. A leaf's values are added to the scores (``base`` at first): with
``width == 1`` to score ``output_of[tree]``, else value ``k`` to score ``k``. All scores, and all
partial sums of them, fit in int32.

**Close calls** (``Exact``). Leaves are rounded, and libraries round sums, so where scores lie
closer than ``close`` the label is found again as the library finds it: floats are added in the
order of the trees, each sum rounded to single or double precision (to nearest, ties to even), from
``base`` on, ``last`` in the end; divided by ``divide``, rounded. Of one sum the label is 1 where it
is above ``threshold``; of several it is the first that lies no more than ``tie`` below the largest.
Scores and probabilities stay those of the rounded leaves. Closer than ``close``: of one score, the
distance to the threshold is at most that; of several, that of the two largest.

**Network** (``IntMlp``). Activations are never negative: 0 to 32767 (zero points are folded
into the biases). For each layer, with ``a`` the layer before (``q`` at first)::

    acc[j] = bias[j] + sum weight[j, i] * a[i]
    a[j]   = clamp((acc[j] * mul + add) >> shift, lo, hi); with a table: table[that]

The last layer has no such step: its ``acc`` are the scores. A linear model is one layer.

**Output.** ``argmax``: the label is the first index of the largest score. ``threshold``: one
score; the label is 1 where it is above ``threshold``, else 0. ``value``: the label is 0, and
the scores are the answer. With ``probability`` (of label 1, 0 to 32767 for 0 to 1), a table is
looked up by the score as above. ``score * scale`` is the float model's number.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kmind.infer.integer_parts import (
    ACTIVATION,
    INT32,
    INT64,
    LIMITS,
    Exact,
    Input,
    Layer,
    Limits,
    Output,
    check_output,
    check_product,
    hold,
    input_range,
    refusal,
)

__all__ = ["IntMlp", "IntModel", "IntTrees"]

_I64 = NDArray[np.int64]
_I32 = NDArray[np.int32]

# |weight| <= 2**15, activation < 2**15, at most 2**10 inputs: sums stay below 2**40.
_BIAS = 1 << 46


@dataclass(frozen=True, eq=False)
class IntMlp:
    """A network of integers, or a linear model: see the module.

    ``bound`` is learnt: for each layer, the largest size that an accumulator can reach.
    """

    input: Input
    layers: tuple[Layer, ...]
    output: Output
    bound: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bound", _check_mlp(self, LIMITS))

    @property
    def outputs(self) -> int:
        """Number of scores."""
        return len(self.layers[-1].bias)

    @property
    def shape(self) -> tuple[int, ...]:
        """Features, then the width of each layer: ``(31, 256, 2)``."""
        return (len(self.input), *(len(layer.bias) for layer in self.layers))


@dataclass(frozen=True, eq=False)
class IntTrees:
    """Decision trees over integers, whose leaves are added up: see the module.

    Nodes of all trees stand in one list, each behind its parent, each tree in one piece.

    ``root[T]`` int32: a tree's first node. ``output_of[T]`` int32: the score it adds to (0 where
    ``width`` is above 1). ``feature[N]`` int32: -1 in a leaf. ``threshold[N]`` int32 (0 in a
    leaf). ``left[N]``, ``right[N]`` int32: nodes; in a leaf, ``left`` is its row in ``leaf`` and
    ``right`` is 0. ``leaf[L, width]`` int32. ``base[K]`` int64: scores to begin with.

    ``exact`` decides close calls; None where the rounded leaves decide as the library does, or
    where nobody can say how it does. ``depth`` is learnt: the most turns from a root to a leaf.
    """

    input: Input
    root: _I32
    output_of: _I32
    feature: _I32
    threshold: _I32
    left: _I32
    right: _I32
    leaf: _I32
    base: _I64
    output: Output
    exact: Exact | None = None
    depth: int = field(init=False)

    def __post_init__(self) -> None:
        flat = dict.fromkeys(
            ("root", "output_of", "feature", "threshold", "left", "right"), (np.int32, 1)
        )
        hold(self, **flat, leaf=(np.int32, 2), base=(np.int64, 1))
        object.__setattr__(self, "depth", _check_trees(self, LIMITS))

    @property
    def outputs(self) -> int:
        """Number of scores."""
        return len(self.base)

    @property
    def width(self) -> int:
        """Values in a leaf: 1, or as many as there are scores."""
        return int(self.leaf.shape[1])


IntModel = IntMlp | IntTrees


def _check_mlp(model: IntMlp, limits: Limits) -> tuple[int, ...]:
    """Refuse what could overflow; return the largest size of each layer's accumulators."""
    if not 1 <= len(model.layers) <= limits.layers or len(model.input) > limits.features:
        raise refusal(f"{len(model.layers)} layers over {len(model.input)} features")
    low, high = input_range(model.input)
    if (low < 0).any() or (high > ACTIVATION).any():
        raise refusal("an input of a network is not within 0 to 32767")
    if model.input.edges:
        raise refusal("a network with lists of edges")
    largest = []
    for number, layer in enumerate(model.layers):
        out, fan_in = layer.weight.shape
        last = number == len(model.layers) - 1
        if fan_in != len(high) or len(layer.bias) != out or not 1 <= out <= limits.width:
            raise refusal(f"layer {number} does not fit the one before, or is too wide")
        if (layer.step is None) != last:
            raise refusal("all layers but the last have a step")
        if (np.abs(layer.bias) > _BIAS).any() or (layer.bias == -INT64).any():
            raise refusal(f"a bias of layer {number} is too large")
        weight = layer.weight.astype(np.int64)
        up, down = np.maximum(weight, 0), np.minimum(weight, 0)
        bottom = (layer.bias + up @ low + down @ high).tolist()
        top = (layer.bias + up @ high + down @ low).tolist()
        # Sums in another order stay within this, too.
        largest.append(int((np.abs(layer.bias) + np.abs(weight) @ np.maximum(high, 0)).max()))
        if layer.step is not None:
            for ends in zip(bottom, top, strict=True):
                check_product(layer.step, *ends)
            values = (
                layer.step.table[layer.step.lo : layer.step.hi + 1]
                if layer.step.table is not None
                else np.array([layer.step.lo, layer.step.hi])
            )
            low = np.full(out, int(values.min()), np.int64)
            high = np.full(out, int(values.max()), np.int64)
    check_output(model.output, len(bottom), bottom, top)
    if len(bottom) > limits.outputs:
        raise refusal(f"{len(bottom)} scores; {limits.outputs} at most")
    return tuple(largest)


def _check_trees(model: IntTrees, limits: Limits) -> int:
    """Refuse what could overflow, run on, or point outside; return the depth."""
    trees, nodes, (leaves, width) = len(model.root), len(model.feature), model.leaf.shape
    features, outputs = len(model.input), len(model.base)
    if not 1 <= trees <= limits.trees or not trees <= nodes <= limits.nodes:
        raise refusal(f"{trees} trees of {nodes} nodes")
    if features > limits.features or not 1 <= outputs <= limits.outputs:
        raise refusal(f"{features} features, {outputs} scores")
    if width not in (1, outputs):
        raise refusal(f"{width} values a leaf for {outputs} scores")
    if {len(model.threshold), len(model.left), len(model.right)} != {nodes}:
        raise refusal("the nodes' arrays differ in length")
    if len(model.output_of) != trees or (width > 1 and model.output_of.any()):
        raise refusal("the trees' outputs")
    if (model.output_of < 0).any() or (model.output_of >= outputs).any():
        raise refusal("a tree adds to a missing score")
    # In 64 bits, or a difference may wrap.
    root = model.root.astype(np.int64)
    if root[0] != 0 or (np.diff(root) <= 0).any() or root[-1] >= nodes:
        raise refusal("the trees' roots are not in order")
    return _check_nodes(model, trees, nodes, leaves, limits)


def _check_nodes(model: IntTrees, trees: int, nodes: int, leaves: int, limits: Limits) -> int:
    if (model.feature < -1).any() or (model.feature >= len(model.input)).any():
        raise refusal("a node asks for a missing feature")
    is_leaf = model.feature < 0
    place = np.arange(nodes)
    tree = np.searchsorted(model.root, place, side="right") - 1
    end = np.append(model.root[1:], nodes)[tree]
    inner = ~is_leaf
    parents = np.zeros(nodes, np.int64)
    for child in (model.left, model.right):
        if (child[inner] <= place[inner]).any() or (child[inner] >= end[inner]).any():
            raise refusal("a node's child does not come after it in the same tree")
        np.add.at(parents, child[inner], 1)
    parents[model.root] += 1
    if (parents != 1).any():
        raise refusal("a node has no parent, or two")
    rows = model.left[is_leaf]
    if model.right[is_leaf].any() or model.threshold[is_leaf].any():
        raise refusal("a leaf with a threshold")
    if sorted(rows.tolist()) != list(range(leaves)):
        raise refusal("the leaves' rows are not each used once")
    depth = _depth(model, place[model.root], limits.depth)
    most = np.zeros((trees, model.width), np.int64)
    np.maximum.at(most, tree[is_leaf], np.abs(model.leaf[rows].astype(np.int64)))
    total = np.abs(model.base)
    if (total >= INT32).any() or (total < 0).any():
        raise refusal("a score to begin with is too large")
    if model.width > 1:
        total = total + most.sum(axis=0)
    else:
        np.add.at(total, model.output_of, most[:, 0])
    if (total >= INT32).any():
        raise refusal("the scores do not fit in 32 bits")
    low, high = (-total).tolist(), total.tolist()
    check_output(model.output, len(total), low, high)
    if model.exact is not None:
        _check_fit(model, leaves)
    return depth


def _check_fit(model: IntTrees, leaves: int) -> None:
    exact = model.exact
    assert exact is not None
    wanted = (len(model.base),) if model.output.kind == "argmax" else (1, 2)
    if model.output.kind == "value" or len(exact.base) not in wanted:
        raise refusal("the exact sums do not fit the output")
    if len(exact.leaf) != leaves or (
        exact.leaf.shape[1] == 1 and len(exact.base) > len(model.base)
    ):
        raise refusal("the exact leaves do not fit the trees")
    if exact.leaf.shape[1] < model.width:
        raise refusal("the exact leaves are fewer than the rounded ones")


def _depth(model: IntTrees, roots: NDArray[np.int64], most: int) -> int:
    level, depth = roots, 0
    while True:
        level = level[model.feature[level] >= 0]
        if not len(level):
            return depth
        depth += 1
        if depth > most:
            raise refusal(f"trees deeper than {most}")
        level = np.concatenate([model.left[level], model.right[level]])
