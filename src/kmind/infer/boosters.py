# SPDX-License-Identifier: Apache-2.0
"""Boosted trees of LightGBM and XGBoost, from the files that they save, read by treelite.

Neither library is needed to import its files. Missing values do not occur in an agent: it always
has an integer, so what a tree would do without one is left out.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kmind.errors import ModelError
from kmind.infer._treelite import read_model
from kmind.infer.floating import FloatTrees, Grower, Target

__all__ = ["from_lightgbm", "from_xgboost"]

_LINKS = {"sigmoid": "logistic", "identity": "none", "hinge": "none"}


def from_lightgbm(path: str | Path) -> FloatTrees:
    """Return the model of a text file that ``Booster.save_model`` wrote."""
    text = _read(path).decode("utf-8", "replace")
    if not text.startswith("tree"):
        raise ModelError(f"{path}: not a LightGBM model in text form")
    names: tuple[str, ...] = ()
    for line in text.splitlines():
        if line.startswith("feature_names="):
            names = tuple(line.partition("=")[2].split())
        if line.strip() == "[zero_as_missing: 1]":
            raise ModelError(f"{path}: LightGBM with zero_as_missing is not supported")
        if line.strip() == "is_linear=1":
            raise ModelError(f"{path}: LightGBM with linear_tree is not supported")
    return _convert(path, "LightGBM", names)


def from_xgboost(path: str | Path) -> FloatTrees:
    """Return the model of a file in JSON that ``Booster.save_model`` wrote."""
    try:
        learner = json.loads(_read(path))["learner"]
        names = tuple(str(name) for name in learner.get("feature_names", ()))
        booster = learner["gradient_booster"]["name"]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise ModelError(f"{path}: not an XGBoost model in JSON") from None
    if booster != "gbtree":
        raise ModelError(f"{path}: the booster {booster} is not supported", hint="gbtree is")
    return _convert(path, "XGBoost", names)


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from None


def _convert(path: str | Path, source: str, names: tuple[str, ...]) -> FloatTrees:
    try:
        trees = _trees(read_model(source.lower(), path))
    except ModelError as error:
        raise ModelError(f"{path}: {source}: {error}") from None
    except (LookupError, TypeError, ValueError, OverflowError):
        raise ModelError(f"{path}: {source}: treelite read what is no model") from None
    return replace(trees, names=names if len(names) == trees.features else (), source=source)


def _trees(model: dict[str, Any]) -> FloatTrees:
    task, post = model["task_type"], model["postprocessor"]
    if model["num_target"] != 1 or model["leaf_vector_shape"] != [1, 1]:
        raise ModelError("several targets, or vectors in leaves, are not supported")
    outputs = int(model["num_class"][0])
    factor = 1.0
    if task == "kBinaryClf" and post in _LINKS:
        target = Target("threshold", ("0", "1"), 0.0, "logistic" if post == "sigmoid" else "none")
        factor = float(model["sigmoid_alpha"]) if post == "sigmoid" else 1.0
    elif task == "kMultiClf" and outputs > 1:
        target = Target("argmax", tuple(str(number) for number in range(outputs)))
    elif task in ("kRegressor", "kLearningToRank") and post == "identity" and outputs == 1:
        target = Target("value")
    else:
        raise ModelError(f"the objective ({task}, {post}) is not supported")
    trees = model["trees"]
    if model["average_tree_output"]:
        factor /= max(len(trees) // outputs, 1)
    single = model["threshold_type"] == "float32"
    grower = Grower()
    for tree, output in zip(trees, model["class_id"], strict=True):
        grower.add(*_nodes(tree["nodes"], factor, single), output=max(int(output), 0))
    if not trees:
        raise ModelError("there are no trees")
    base = np.ravel(model["base_scores"]) * (factor if target.kind == "threshold" else 1.0)
    return grower.trees(base, int(model["num_feature"]), target, single=single)


def _nodes(
    nodes: list[dict[str, Any]], factor: float, single: bool
) -> tuple[Any, Any, Any, Any, Any]:
    size = len(nodes)
    feature, threshold = np.full(size, -1), np.zeros(size)
    left, right, values = np.zeros(size, int), np.zeros(size, int), np.zeros((size, 1))
    place = {node["node_id"]: number for number, node in enumerate(nodes)}
    for number, node in enumerate(nodes):
        if "leaf_value" in node:
            values[number] = node["leaf_value"] * factor
            continue
        if node.get("node_type") != "numerical_test_node":
            raise ModelError("categorical features are not supported")
        feature[number] = node["split_feature_id"]
        edge = node["threshold"]
        if node["comparison_op"] == "<":
            # x < t is x <= the number before t.
            kind = np.float32 if single else np.float64
            edge = np.nextafter(kind(edge), kind(-np.inf))
        elif node["comparison_op"] != "<=":
            raise ModelError(f"the comparison {node['comparison_op']} is not supported")
        threshold[number] = edge
        left[number], right[number] = place[node["left_child"]], place[node["right_child"]]
    return feature, threshold, left, right, values
