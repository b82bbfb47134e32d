# SPDX-License-Identifier: Apache-2.0
"""From float trees to integer ones that decide as the library does.

A comparison becomes one of integers, exactly. Leaves become integers, too; their sums decide
wherever they are certain to, and ``Exact`` holds the library's own floats for close calls. Where
integers can hold each sum as it is (votes, one tree, fractions of a power of two), they do, and
no call is close.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kmind.errors import ModelError
from kmind.infer.floating import FloatTrees
from kmind.infer.integer import IntTrees
from kmind.infer.integer_parts import EXPONENTS, LONGEST_EDGES, Exact, Input
from kmind.infer.quantiser._scores import make_output
from kmind.infer.stages import integer_edges

__all__ = ["has_close_calls", "integer_trees"]

_F64 = NDArray[np.float64]
_I64 = NDArray[np.int64]

_SHARE = 2.0**-30  # of a feature divided by its vector's size
# All leaves together fit in 32 bits, and each in the 23 that the kernel packs it into.
_LEAVES = 1 << 30
_LEAF = (1 << 22) - 2
_I32 = 1 << 31


def integer_trees(model: FloatTrees, scale: _F64, *, exact: bool = True) -> IntTrees:
    """Return the trees in integers; ``scale[F]`` is the worth of the agent's integers.

    Labels of integers are those of the library. Without ``exact`` close calls are decided by
    rounded leaves: that is faster at its slowest, and takes half the room.
    """
    if model.norm != "none":
        scale = np.full(model.features, _SHARE)
    model, edge = _whole(model, scale)
    stage, threshold = _input(model, edge)
    sums = _Leaves.of(model, exact)
    return IntTrees(
        input=stage,
        root=model.root,
        output_of=model.output_of,
        feature=model.feature,
        threshold=threshold,
        left=model.left,
        right=model.right,
        leaf=sums.leaf,
        base=sums.base,
        output=replace(
            make_output(model.target, sums.unit / model.sums.divide), threshold=sums.threshold
        ),
        exact=sums.exact,
    )


def has_close_calls(model: FloatTrees) -> bool:
    """Return whether rounded leaves may decide otherwise than the library's sums."""
    if model.target.kind == "value":
        return False
    fast = _fast(model)
    return all(make(model, fast) is None for make in (_one_tree, _fractions, _votes))


def _whole(model: FloatTrees, scale: _F64) -> tuple[FloatTrees, _I64]:
    # The edge of each comparison; those that integers always pass, or never, are cut out.
    inner = np.flatnonzero(model.feature >= 0)
    pairs, back = np.unique(
        np.stack([model.feature[inner].astype(np.float64), model.threshold[inner]]),
        axis=1,
        return_inverse=True,
    )
    edges, always, never = integer_edges(model.stages, scale, pairs[0].astype(np.int64), pairs[1])
    back = np.ravel(back)
    edge = np.zeros(len(model.feature), np.int64)
    edge[inner] = edges[back]
    if not (always.any() or never.any()):
        return model, edge
    forced = np.zeros(len(model.feature), np.int8)
    forced[inner] = np.where(always[back], -1, np.where(never[back], 1, 0))
    return _without(model, edge, forced)


def _without(model: FloatTrees, edge: _I64, forced: NDArray[np.int8]) -> tuple[FloatTrees, _I64]:
    kept: list[int] = []  # old numbers in the new order, each behind its parent
    left: list[int] = []
    right: list[int] = []
    root: list[int] = []
    for start in model.root.tolist():
        root.append(len(kept))
        waiting = [(start, left, -1)]
        while waiting:
            node, side, parent = waiting.pop()
            while forced[node]:
                node = int((model.left if forced[node] < 0 else model.right)[node])
            here = len(kept)
            if parent >= 0:
                side[parent] = here
            kept.append(node)
            left.append(0)
            right.append(0)
            if model.feature[node] >= 0:
                waiting.append((int(model.right[node]), right, here))
                waiting.append((int(model.left[node]), left, here))
    order = np.array(kept)
    feature = model.feature[order]
    leaves = feature < 0
    new_left = np.array(left, np.int32)
    new_left[leaves] = np.arange(leaves.sum())
    pruned = replace(
        model,
        root=np.array(root, np.int32),
        feature=feature,
        threshold=model.threshold[order],
        left=new_left,
        right=np.array(right, np.int32),
        leaf=model.leaf[model.left[order[leaves]]],
    )
    return pruned, edge[order]


def _input(model: FloatTrees, edge: _I64) -> tuple[Input, NDArray[np.int32]]:
    """Return the input, and the thresholds as it delivers features.

    As they are where 32 bits hold them, less an offset where they hold the difference, and else
    by their number among the feature's thresholds.
    """
    count = model.features
    lo, hi, offset = (np.zeros(count, np.int64) for _ in range(3))
    edges = [np.zeros(0, np.int64)] * count
    threshold = np.zeros(len(edge), np.int64)
    for number in range(count):
        mine = model.feature == number
        if not mine.any():
            continue
        all_edges = np.unique(edge[mine])
        low, high = int(all_edges[0]), int(all_edges[-1]) + 1
        if high - low >= _I32:
            if len(all_edges) > LONGEST_EDGES:
                raise ModelError(
                    f"a feature has {len(all_edges):,} thresholds over more than 32 bits",
                    hint="train a smaller model, or give the feature a coarser unit",
                )
            edges[number] = all_edges
            threshold[mine] = np.searchsorted(all_edges, edge[mine])
            continue
        lo[number], hi[number] = low, high
        offset[number] = low if low < -_I32 or high >= _I32 else 0
        threshold[mine] = edge[mine] - offset[number]
    nothing = np.zeros(count, np.int64)
    shift, mul = np.zeros(count, np.int32), np.ones(count, np.int32)
    lists = tuple(edges) if any(map(len, edges)) else ()
    stage = Input(lo, hi, offset, nothing, mul, shift, model.norm, lists)
    return stage, threshold.astype(np.int32)


@dataclass(frozen=True)
class _Leaves:
    """Leaves and bases as integers, the worth of a unit, and who decides close calls."""

    leaf: NDArray[np.int32]
    base: _I64
    unit: float
    threshold: int
    exact: Exact | None = None

    @classmethod
    def of(cls, model: FloatTrees, exact: bool) -> _Leaves:
        fast = _fast(model)
        if model.target.kind != "value":
            for make in (_one_tree, _fractions, _votes):
                if (made := make(model, fast)) is not None:
                    return made
        return _rounded(model, fast, exact)


@dataclass(frozen=True)
class _Fast:
    """The part of the sums that the rounded leaves add up: of two sums a pair needs only one."""

    leaf: _F64
    base: _F64
    most: _F64  # the largest size of a leaf, by tree, [T, W]
    total: float  # the largest size of a sum


def _fast(model: FloatTrees) -> _Fast:
    only = slice(1, 2) if model.is_paired else slice(None)
    leaf, base = model.leaf[:, only], (model.base + model.last)[only]
    most = _by_tree(model, np.abs(leaf))
    total = np.abs(base)
    if leaf.shape[1] == 1:
        np.add.at(total, model.output_of, most[:, 0])
    else:
        total = total + most.sum(axis=0)
    return _Fast(leaf, base, most, float(total.max()))


def _by_tree(model: FloatTrees, values: _F64) -> _F64:
    # The largest of each tree's leaves.
    is_leaf = model.feature < 0
    tree = np.searchsorted(model.root, np.flatnonzero(is_leaf), side="right") - 1
    most = np.zeros((len(model.root), values.shape[1]))
    np.maximum.at(most, tree, values[model.left[is_leaf]])
    return most


def _unit(fast: _Fast) -> float:
    return max(fast.total / _LEAVES, float(fast.most.max()) / _LEAF) or 1.0


def _ints(fast: _Fast, unit: float) -> tuple[NDArray[np.int32], _I64]:
    return np.rint(fast.leaf / unit).astype(np.int32), np.rint(fast.base / unit).astype(np.int64)


def _edge(model: FloatTrees, unit: float) -> int:
    # The threshold in units of the sums.
    if model.target.kind != "threshold":
        return 0
    return math.floor(model.target.threshold * model.sums.divide / unit)


def _one_tree(model: FloatTrees, fast: _Fast) -> _Leaves | None:
    """Each leaf of a tree that stands alone has a label: its integers are made to give it."""
    wide = model.leaf.shape[1] > 1 or len(model.base) == 1
    if len(model.root) != 1 or not wide:
        return None
    label = model.labels_of(model.base + model.leaf)
    unit = _unit(fast)
    leaf, base = _ints(fast, unit)
    edge = _edge(model, unit)
    if model.target.kind == "threshold":
        mine = leaf[:, 0].astype(np.int64)
        cut = edge - int(base[0])
        leaf[:, 0] = np.where(label == 1, np.maximum(mine, cut + 1), np.minimum(mine, cut))
        return _Leaves(leaf, base, unit, edge)
    rows = np.arange(len(leaf))
    sums = leaf + base
    wrong = sums.argmax(axis=1) != label
    leaf[rows[wrong], label[wrong]] = (sums.max(axis=1) + 1 - base[label])[wrong]
    return _Leaves(leaf, base, unit, edge)


def _fractions(model: FloatTrees, fast: _Fast) -> _Leaves | None:
    """All numbers are multiples of one power of two, and few enough bits: each sum is exact."""
    values = np.concatenate([np.ravel(model.leaf), model.base, model.last])
    values = values[values != 0]
    if not len(values):
        return None
    mantissa, exponent = np.frexp(values)
    whole = (np.abs(mantissa) * 2.0**53).astype(np.int64)
    lowest = exponent - 53 + np.log2((whole & -whole).astype(np.float64)).astype(int)
    unit = 2.0 ** int(lowest.min())
    single = model.sums.single
    total = float(np.abs(model.base + model.last).max()) + float(
        _by_tree(model, np.abs(model.leaf)).max(axis=1).sum()
    )
    if total / unit > ((1 << 23) if single else _LEAVES) or fast.most.max() / unit > _LEAF:
        return None
    if (single and model.sums.divide > 1) or unit / model.sums.divide <= model.sums.tie:
        return None
    if model.is_paired and not (
        (model.leaf.sum(axis=1) == 1).all() and not model.base.any() and not model.last.any()
    ):
        return None
    leaf, base = _ints(fast, unit)
    if model.target.kind != "threshold":
        return _Leaves(leaf, base, unit, 0)
    kind = model.sums.kind

    def is_first(score: int) -> bool:
        return not kind(score * unit) / kind(model.sums.divide) > model.target.threshold

    return _Leaves(leaf, base, unit, _largest(is_first, -_LEAVES, _LEAVES))


def _votes(model: FloatTrees, fast: _Fast) -> _Leaves | None:
    """Leaves are one number or nothing: the sum follows from how many there are, so count."""
    values = np.unique(model.leaf)
    unit = float(values[-1]) if len(values) else 0.0
    if unit <= 0 or not set(values.tolist()) <= {0.0, unit} or model.is_paired:
        return None
    if model.base.any() or model.last.any():
        return None
    kind = model.sums.kind
    sums = np.zeros(len(model.root) + 1, kind)
    for number in range(len(model.root)):
        sums[number + 1] = sums[number] + kind(unit)
    sums = sums / kind(model.sums.divide)
    if not (np.diff(sums) > model.sums.tie).all():
        return None
    leaf, base = _ints(fast, unit)
    if model.target.kind != "threshold":
        return _Leaves(leaf, base, unit, 0)
    return _Leaves(leaf, base, unit, int((sums <= model.target.threshold).sum()) - 1)


def _rounded(model: FloatTrees, fast: _Fast, wanted: bool) -> _Leaves:
    unit = _unit(fast)
    leaf, base = _ints(fast, unit)
    made = _Leaves(leaf, base, unit, _edge(model, unit))
    if model.target.kind == "value" or not wanted:
        return made
    # Errors of the rounded sum, and of the library's: each of its additions rounds once.
    off = float(_by_tree(model, np.abs(fast.leaf / unit - leaf)).max(axis=1).sum())
    off += float(np.abs(fast.base / unit - base).max())
    step = 2.0**-24 if model.sums.single else 2.0**-53
    off += (len(model.root) + 4) * step * fast.total / unit
    off += model.sums.tie * model.sums.divide / unit
    if model.is_paired:
        # The other sum is as far off as this one, and both votes of a leaf may not make 1.
        off += (len(model.root) + 4) * step * len(model.root) / unit
        rest = np.abs(model.leaf.sum(axis=1, keepdims=True) - 1.0)
        off += float(_by_tree(model, rest).sum()) / unit
    close = math.ceil(off) + 2 if model.target.kind == "threshold" else 2 * math.ceil(off) + 2
    if not _is_plain(model) or close >= 1 << 40:
        return made
    return replace(
        made,
        exact=Exact(
            leaf=model.leaf,
            base=model.base,
            last=np.array(model.last),
            close=close,
            single=model.sums.single,
            divide=model.sums.divide,
            tie=0.0 if model.target.kind == "threshold" else model.sums.tie,
            threshold=model.target.threshold if model.target.kind == "threshold" else 0.0,
        ),
    )


def _is_plain(model: FloatTrees) -> bool:
    # The kernel's floats know no numbers that are tiny or huge.
    widest = EXPONENTS[model.sums.single]
    for part in (model.leaf, model.base, np.asarray(model.last)):
        size = np.abs(part)
        if not ((size == 0) | ((size >= 2.0**-widest) & (size <= 2.0**widest))).all():
            return False
        if model.sums.single and (part.astype(np.float32) != part).any():
            return False
    return True


def _largest(is_first: Callable[[int], bool], low: int, high: int) -> int:
    # The largest score of label 0; low is one, or no score is.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_first(middle) else (low, middle)
    return low
