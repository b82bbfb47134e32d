# SPDX-License-Identifier: Apache-2.0
"""Trees as ``kmind/infer_trees.h`` wants them: complete ones, or nodes with pointers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmind.infer.integer import IntTrees
from kmind.infer.packing.slot import Writer

__all__ = [
    "CAPACITY",
    "EXACT",
    "EXACT_TREE",
    "FOUR",
    "GROUP",
    "NODE",
    "ONE",
    "SIX",
    "TREES",
    "TreeGroup",
    "can_complete",
    "is_raw",
    "put_trees",
    "tree_depths",
    "tree_groups",
]

CAPACITY = 1 << 18
"""Bytes of a slot."""
SIX, ONE, FOUR = 0, 1, 2
_DEEPEST = 10  # of a complete tree
_FEATURES = 32  # of complete trees: an offset of 8 bits
_LEAF = 1 << 22  # 23 bits with a sign
_SHIFT = 31
_LEAF_SHIFT = 11
_NEVER = (1 << 31) - 1  # no input is above it
_BLOAT = 4  # a complete tree may be that much larger than its nodes

TREES = np.dtype([("group", "<u4"), ("groups", "<u4"), ("base", "<u4"), ("width", "<u4")])
"""``struct km_trees``."""
GROUP = np.dtype([
    ("root", "<u4", (6,)), ("depth", "<u4"), ("output", "<u2"), ("kind", "<u2"),
])  # fmt: skip
"""``struct km_tree_group``: up to six trees that walk at once."""
NODE = np.dtype([("test", "<u8"), ("left", "<u4"), ("value", "<u4")])
"""``struct km_tree_node``."""
EXACT = np.dtype([
    ("close", "<i8"), ("tie", "<f8"), ("threshold", "<f8"), ("tree", "<u4"), ("trees", "<u4"),
    ("sums", "<u4"), ("width", "<u4"), ("base", "<u4"), ("last", "<u4"),
    ("drop", "<u4"), ("divide", "<u2"), ("bits", "<u2"),
])  # fmt: skip
"""``struct km_exact``."""
EXACT_TREE = np.dtype([
    ("root", "<u4"), ("leaf", "<u4"), ("depth", "<u2"), ("output", "<u2"), ("kind", "<u4"),
])  # fmt: skip
"""``struct km_exact_tree``."""


def tree_depths(model: IntTrees) -> NDArray[np.int64]:
    """Return the depth of each tree."""
    depth = np.zeros(len(model.root), np.int64)
    tree = np.arange(len(model.root))
    node = model.root.astype(np.int64)
    level = 0
    while len(node):
        inner = model.feature[node] >= 0
        node, tree = node[inner], tree[inner]
        level += 1
        depth[tree] = level
        node = np.concatenate([model.left[node], model.right[node]]).astype(np.int64)
        tree = np.concatenate([tree, tree])
    return depth


def can_complete(model: IntTrees) -> bool:
    """True if features and leaves fit into the words of a complete tree."""
    return (
        model.width == 1
        and len(model.input) <= _FEATURES
        and bool((np.abs(model.leaf.astype(np.int64)) < _LEAF).all())
    )


def is_raw(model: IntTrees) -> bool:
    """True if inputs are compared as they are: no arithmetic, and no clamp affects a decision."""
    stage = model.input
    if (
        stage.edges
        or (stage.mul != 1).any()
        or stage.shift.any()
        or stage.offset.any()
        or stage.round.any()
    ):
        return False
    inner = model.feature >= 0
    feature, threshold = model.feature[inner], model.threshold[inner].astype(np.int64)
    return bool((stage.lo[feature] <= threshold).all() and (threshold < stage.hi[feature]).all())


@dataclass(frozen=True)
class TreeGroup:
    """Trees that walk at once: six or one complete ones, or four with pointers.

    Fewer than that are filled up with empty ones. ``depth``: how far all of them walk.
    """

    kind: int
    trees: tuple[int, ...]
    depth: int
    output: int


def tree_groups(model: IntTrees) -> list[TreeGroup]:
    """Return how the trees are put together, all of one output behind each other."""
    outputs = range(model.outputs if model.width == 1 else 1)
    depths = tree_depths(model)
    nodes = np.diff(np.append(model.root, len(model.feature)))
    completable = can_complete(model)
    groups = []
    for output in outputs:
        trees = np.flatnonzero(model.output_of == output)
        trees = trees[np.argsort(depths[trees], kind="stable")]
        complete: list[int] = []
        sparse: list[int] = []
        # With room to spare all may be complete; else those that do not grow too much.
        roomy = int((8 << np.minimum(depths, 40)).sum()) * (1 + _extra(model)) <= (
            CAPACITY * (3 if model.exact else 2) // 4
        )
        for tree in trees.tolist():
            size = 8 << min(int(depths[tree]), 40)
            fits = completable and depths[tree] <= _DEEPEST
            fits &= roomy or size * (1 + _extra(model)) <= _BLOAT * NODE.itemsize * int(nodes[tree])
            (complete if fits else sparse).append(tree)
        for many, among in ((6, complete), (4, sparse)):
            for first in range(0, len(among), many):
                mine = tuple(among[first : first + many])
                kind = FOUR if many == 4 else ONE if len(mine) == 1 else SIX
                groups.append(TreeGroup(kind, mine, int(depths[list(mine)].max()), output))
    return groups


def _extra(model: IntTrees) -> int:
    # Words that a leaf has beside its node, for close calls.
    return 0 if model.exact is None else int(model.exact.leaf.shape[1])


def put_trees(writer: Writer, model: IntTrees) -> tuple[int, int]:
    """Append the trees; the offsets of ``struct km_trees`` and ``struct km_exact`` (0: none)."""
    head: Any = np.zeros((), TREES)
    head["width"] = model.width
    head["base"] = writer.put(model.base)
    groups = tree_groups(model)
    head["groups"] = len(groups)
    exact = np.zeros(len(model.root), EXACT_TREE)
    head["group"] = writer.put(
        np.array([_put_group(writer, model, group, exact) for group in groups], GROUP)
    )
    return writer.put(head), _put_exact(writer, model, exact)


def _put_exact(writer: Writer, model: IntTrees, trees: Any) -> int:
    exact = model.exact
    if exact is None:
        return 0
    record: Any = np.zeros((), EXACT)
    for name in ("close", "tie", "threshold", "divide"):
        record[name] = getattr(exact, name)
    record["sums"], record["width"] = len(exact.base), exact.leaf.shape[1]
    record["drop"] = 29 if exact.single else 0
    record["bits"] = exact.divide.bit_length() - 1
    record["base"], record["last"] = writer.put(exact.base), writer.put(exact.last)
    trees["output"] = model.output_of
    record["trees"], record["tree"] = len(trees), writer.put(trees)
    return writer.put(record)


def _put_group(writer: Writer, model: IntTrees, group: TreeGroup, exact: Any) -> Any:
    if group.kind == FOUR:
        roots = _put_sparse(writer, model, group.trees, exact)
    else:
        roots = []
        for tree in group.trees:
            words, leaves = _complete(model, tree, group.depth)
            roots.append(writer.put(words))
            if model.exact is not None:
                exact[tree]["leaf"] = writer.put(model.exact.leaf[leaves])
        if group.kind == SIX and len(roots) < 6:  # one of zeros walks along
            nothing = writer.put(np.zeros(1 << group.depth, np.uint64))
            roots += [nothing] * (6 - len(roots))
    record: Any = np.zeros((), GROUP)
    record["root"][: len(roots)] = roots
    record["depth"], record["output"], record["kind"] = group.depth, group.output, group.kind
    for tree, root in zip(group.trees, roots, strict=False):
        exact[tree]["root"], exact[tree]["depth"] = root, group.depth
        exact[tree]["kind"] = group.kind
    return record


def _complete(
    model: IntTrees, tree: int, depth: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    # In the order of the leaves: the node above places [a, b) stands in the middle, before b's
    # half. A leaf higher up fills all places below it, and nodes there always turn left.
    words = np.full(1 << depth, _NEVER << _SHIFT, np.int64)
    leaves = np.zeros(1 << depth, np.int64)
    pending = [(int(model.root[tree]), 0, depth)]
    while pending:
        node, place, below = pending.pop()
        if model.feature[node] < 0:
            leaves[place : place + (1 << below)] = model.left[node]
            continue
        half = 1 << (below - 1)
        words[place + half - 1] = (int(model.threshold[node]) << _SHIFT) | (
            int(model.feature[node]) * 8
        )
        pending.append((int(model.left[node]), place, below - 1))
        pending.append((int(model.right[node]), place + half, below - 1))
    values = model.leaf[leaves, 0].astype(np.int64)
    return (words | (values & 0x7FFFFF) << 8).view(np.uint64), leaves


def _put_sparse(writer: Writer, model: IntTrees, trees: Sequence[int], exact: Any) -> list[int]:
    roots = []
    for tree in trees:
        root, rows = _put_nodes(writer, model, tree)
        roots.append(root)
        if model.exact is not None:
            exact[tree]["leaf"] = writer.put(model.exact.leaf[rows])
    if len(roots) < 4:  # a leaf of zeros turns in itself
        leaf: Any = np.zeros((), NODE)
        if model.width > 1:
            leaf["value"] = writer.put(np.zeros(model.width, np.int32))
        leaf["test"], leaf["left"] = _NEVER << _SHIFT, writer.end
        roots += [writer.put(leaf)] * (4 - len(roots))
    return roots


def _put_nodes(writer: Writer, model: IntTrees, tree: int) -> tuple[int, list[int]]:
    # The root's place, and the leaves' rows by the numbers that their nodes have.
    # Both children stand side by side, the left one first.
    order, place = [int(model.root[tree])], {}
    for node in order:
        if model.feature[node] >= 0:
            order += [int(model.left[node]), int(model.right[node])]
    for number, node in enumerate(order):
        place[node] = number
    values = 0
    rows = [int(model.left[node]) for node in order if model.feature[node] < 0]
    if model.width > 1:
        values = writer.put(model.leaf[rows])
    start = writer.end
    records = np.zeros(len(order), NODE)
    leaf = 0
    for number, node in enumerate(order):
        record = records[number]
        if model.feature[node] >= 0:
            test = (int(model.threshold[node]) << _SHIFT) | int(model.feature[node]) * 8
            record["test"] = test & 0xFFFFFFFFFFFFFFFF
            record["left"] = start + place[int(model.left[node])] * NODE.itemsize
            continue
        record["test"] = (_NEVER << _SHIFT) | leaf << _LEAF_SHIFT
        record["left"] = start + number * NODE.itemsize
        if model.width > 1:
            record["value"] = values + leaf * 4 * model.width
        else:
            record["value"] = int(model.leaf[model.left[node], 0]) & 0xFFFFFFFF
        leaf += 1
    assert writer.put(records) == start
    return start, rows
