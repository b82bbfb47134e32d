# SPDX-License-Identifier: Apache-2.0
"""The operators of ``ai.onnx.ml``: scalers, linear models, tree ensembles."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np

from kmind.errors import ModelError
from kmind.infer.floating import Grower, Link, Sums, Target
from kmind.infer.importers._flow import Flow
from kmind.infer.integer_parts import Norm

__all__ = [
    "linear_classifier",
    "linear_regressor",
    "normalizer",
    "scaler",
    "tree_classifier",
    "tree_regressor",
]

Arguments = dict[str, Any]

_VOTE = ("treeids", "nodeids", "ids", "weights")
_NORMS: dict[bytes, Norm] = {b"L1": "l1", b"L2": "l2", b"MAX": "max"}
_POSTS = (b"NONE", b"SOFTMAX", b"LOGISTIC", b"SOFTMAX_ZERO")


def _numbers(arguments: Arguments, name: str) -> Any:
    return np.asarray(arguments.get(name, ()), np.float64)


def scaler(flow: Flow, arguments: Arguments) -> Flow:
    """``(x - offset) * scale``."""
    offset, scale = _numbers(arguments, "offset"), _numbers(arguments, "scale")
    scale = scale if scale.size else np.ones(1)
    offset = offset if offset.size else np.zeros(1)
    return flow.affine(scale, -offset * scale, ("sub", offset), ("mul", scale))


def normalizer(flow: Flow, arguments: Arguments) -> Flow:
    """Before a model: ``x / size(x)``. After one it does not change which score is largest."""
    if flow.is_over:
        return flow
    name = arguments.get("norm", b"MAX")
    if name not in _NORMS:
        raise ModelError(f"Normalizer with norm {name!r}")
    return flow.normalised(_NORMS[name])


def _classes(arguments: Arguments) -> tuple[str, ...]:
    for name in ("classlabels_int64s", "classlabels_ints", "classlabels_strings"):
        labels = arguments.get(name)
        if labels is not None and len(labels):
            return tuple(
                label.decode("utf-8", "replace") if isinstance(label, bytes) else str(label)
                for label in labels
            )
    return ()


def _post(arguments: Arguments) -> bytes:
    post = bytes(arguments.get("post_transform", b"NONE"))
    if post not in _POSTS:
        raise ModelError(f"post_transform {post.decode('ascii', 'replace')} is not supported")
    return post


def _linear(flow: Flow, arguments: Arguments, rows: int) -> Flow:
    weight = _numbers(arguments, "coefficients")
    if rows < 1 or not weight.size or weight.size % rows:
        raise ModelError("a linear model's coefficients do not fit its outputs")
    bias = _numbers(arguments, "intercepts")
    return flow.dense(weight.reshape(rows, -1), bias if bias.size else np.zeros(rows))


def linear_regressor(flow: Flow, arguments: Arguments) -> Flow:
    """``x @ coefficients + intercepts``."""
    if _post(arguments) != b"NONE":
        raise ModelError("LinearRegressor with a post_transform is not supported")
    flow = _linear(flow, arguments, int(arguments.get("targets", 1)))
    return replace(flow, target=Target("value"))


def linear_classifier(flow: Flow, arguments: Arguments) -> Flow:
    """The same, and the class of the largest score."""
    classes = _classes(arguments)
    rows = max(_numbers(arguments, "intercepts").size, 1)
    post = _post(arguments)
    flow = _linear(flow, arguments, rows)
    if rows == 1 and len(classes) == 2:
        link = "logistic" if post == b"LOGISTIC" else "none"
        return replace(flow, target=Target("threshold", classes, 0.0, link))  # type: ignore[arg-type]
    if rows != len(classes):
        raise ModelError(f"LinearClassifier of {rows} scores names {len(classes)} classes")
    if rows == 2:
        # Two scores are one difference, which is half as much work.
        layer = flow.layers[-1]
        row = replace(
            layer, weight=layer.weight[1:] - layer.weight[:1], bias=layer.bias[1:] - layer.bias[:1]
        )
        flow = replace(flow, layers=(*flow.layers[:-1], row), width=1)
        return replace(flow, target=Target("threshold", classes))
    return replace(flow, target=Target("argmax", classes))


def tree_regressor(flow: Flow, arguments: Arguments) -> Flow:
    """Trees whose leaves are added up, or averaged."""
    how = arguments.get("aggregate_function", b"SUM")
    if how not in (b"SUM", b"AVERAGE") or _post(arguments) != b"NONE":
        raise ModelError(f"TreeEnsembleRegressor with {how.decode()} or a post_transform")
    outputs = int(arguments.get("n_targets", 1))
    trees = len(set(arguments.get("nodes_treeids", ())))
    factor = 1.0 / max(trees, 1) if how == b"AVERAGE" else 1.0
    return _ensemble(flow, arguments, "target", outputs, Target("value"), factor)


def tree_classifier(flow: Flow, arguments: Arguments) -> Flow:
    """Trees that vote; two classes are decided as onnxruntime decides them."""
    classes, post = _classes(arguments), _post(arguments)
    used = sorted(set(arguments.get("class_ids", ())))
    if len(classes) < 2:
        raise ModelError("TreeEnsembleClassifier of fewer than two classes")
    if len(classes) > 2:
        flow = _ensemble(flow, arguments, "class", len(classes), Target("argmax", classes), 1.0)
        return replace(flow, names=classes)
    weights = _numbers(arguments, "class_weights")
    link: Link = "logistic" if post == b"LOGISTIC" else "none"
    if len(used) == 1:
        # One score, of whichever class: above 0.5 where nothing votes against it, else above 0.
        edge = 0.5 if bool((weights >= 0).all()) else 0.0
        if edge and post == b"NONE":
            link = "share"
        if used == [1]:  # onnxruntime adds the base to the other class
            arguments = arguments | {"base_values": ()}
        arguments = arguments | {"class_ids": [0] * len(weights)}
    else:
        # Two scores: the second one alone decides.
        edge = 0.0
        rows = zip(*(arguments[f"class_{name}"] for name in _VOTE), strict=True)
        mine = [row for row in rows if row[2] == 1]
        columns = zip(*mine, strict=True) if mine else [()] * len(_VOTE)
        arguments = arguments | {
            f"class_{name}": column for name, column in zip(_VOTE, columns, strict=True)
        }
        arguments["class_ids"] = [0] * len(mine)
        arguments["base_values"] = _numbers(arguments, "base_values")[1:]
    target = Target("threshold", classes, edge, link)
    return replace(_ensemble(flow, arguments, "class", 1, target, 1.0), names=classes)


def _ensemble(
    flow: Flow, arguments: Arguments, what: str, outputs: int, target: Target, factor: float
) -> Flow:
    if flow.layers or flow.trees is not None or not 1 <= outputs <= 64:
        raise ModelError("trees after a model, or with more than 64 outputs")
    votes: dict[tuple[int, int], dict[int, float]] = defaultdict(lambda: defaultdict(float))
    columns = [arguments.get(f"{what}_{name}", ()) for name in _VOTE]
    for tree, node, output, weight in zip(*columns, strict=True):
        if not 0 <= output < outputs:
            raise ModelError("a leaf votes for a missing output")
        votes[tree, node][output] += weight * factor
    names = ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids")
    rows = [arguments.get(f"nodes_{name}", ()) for name in names]
    trees: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for tree, *row in zip(*rows, strict=True):
        trees[tree].append(tuple(row))
    if not trees:
        raise ModelError("an ensemble without trees")
    # A tree that votes for one output only has one number a leaf, if that holds for all.
    voted: dict[int, set[int]] = defaultdict(set)
    for (tree, _), vote in votes.items():
        voted[tree].update(vote)
    narrow = all(len(voted[tree]) <= 1 for tree in trees)
    grower = Grower()
    for tree, nodes in trees.items():
        output = next(iter(voted[tree]), 0) if narrow else 0
        grower.add(*_nodes(tree, nodes, votes, outputs, narrow, flow.single), output=output)
    base = _numbers(arguments, "base_values")
    base = base if base.size else np.zeros(outputs)
    if base.size != outputs:
        raise ModelError("the base values do not fit the outputs")
    # onnxruntime adds the base in the end.
    model = grower.trees(
        np.zeros(outputs),
        max(flow.width, int(max(rows[2])) + 1),
        target,
        single=flow.single,
        sums=Sums(single=flow.single),
        last=base,
    )
    return replace(flow, trees=model, width=model.features, root=object())


def _nodes(
    tree: int,
    nodes: list[tuple[Any, ...]],
    votes: Any,
    outputs: int,
    narrow: bool,
    single: bool,
) -> tuple[Any, Any, Any, Any, Any]:
    place = {row[0]: number for number, row in enumerate(nodes)}
    size = len(nodes)
    feature, edge = np.full(size, -1), np.zeros(size)
    left, right = np.zeros(size, int), np.zeros(size, int)
    values = np.zeros((size, 1 if narrow else outputs))
    for number, (node, column, mode, value, yes, no) in enumerate(nodes):
        if mode == b"LEAF":
            for output, weight in votes.get((tree, node), {}).items():
                values[number, 0 if narrow else output] = weight
            continue
        if mode not in (b"BRANCH_LEQ", b"BRANCH_LT", b"BRANCH_GTE", b"BRANCH_GT"):
            raise ModelError(f"the tree mode {mode.decode('ascii', 'replace')} is not supported")
        if yes not in place or no not in place or column < 0:
            raise ModelError("a tree points to a missing node")
        below = mode in (b"BRANCH_LEQ", b"BRANCH_LT")
        feature[number], edge[number] = column, value
        if mode in (b"BRANCH_LT", b"BRANCH_GTE"):
            # Where the number itself goes right, the edge is the one before it.
            kind = np.float32 if single else np.float64
            edge[number] = np.nextafter(kind(value), kind(-np.inf))
        left[number], right[number] = place[yes if below else no], place[no if below else yes]
    return feature, edge, left, right, values
