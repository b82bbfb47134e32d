# SPDX-License-Identifier: Apache-2.0
"""Boosted trees of LightGBM and XGBoost, from the files that they save, read by treelite.

Neither library is needed to import its files. Missing values do not occur in an agent: it always
has an integer, so what a tree would do without one is left out. Sums, roundings and ties are
those of the libraries: XGBoost adds in single precision, LightGBM in double, and both decide by
a probability, which is 0.5 for scores a little above 0 too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kmind.errors import ModelError
from kmind.infer.floating import FloatTrees, Grower, Library, Link, Sums, Target
from kmind.infer.importers._treelite import read_model
from kmind.infer.importers.ask import LIBRARIES, ask_library
from kmind.util.foreign import foreign, one_line

__all__ = ["from_lightgbm", "from_xgboost"]

# Softmax gives two scores the same probability where the exponential of their difference is 1:
# up to half of the distance between 1 and the number before it.
_TIE_SINGLE, _TIE_DOUBLE = 2.0**-25, 2.0**-54


def from_lightgbm(path: str | Path) -> FloatTrees:
    """Return the model of a text file that ``Booster.save_model`` wrote."""
    text = _read(path).decode("utf-8", "replace")
    if not text.startswith("tree"):
        raise ModelError(f"{path}: not a LightGBM model in text form")
    names: tuple[str, ...] = ()
    for line in text.splitlines():
        if line.startswith("feature_names="):
            names = tuple(line.partition("=")[2].split())
        if line.strip() == "[zero_as_missing: 1]" or _asks_for_zero(line):
            raise ModelError(f"{path}: LightGBM with zero_as_missing is not supported")
        if line.strip() == "is_linear=1":
            raise ModelError(f"{path}: LightGBM with linear_tree is not supported")
    return _convert(path, "lightgbm", names, _lightgbm_rules)


def _asks_for_zero(line: str) -> bool:
    # Bits 2 and 3 of a decision say which number counts as missing: 1 is zero.
    if not line.startswith("decision_type="):
        return False
    words = line.partition("=")[2].split()
    return any(word.isdecimal() and len(word) < 4 and int(word) >> 2 & 3 == 1 for word in words)


def from_xgboost(path: str | Path, *, all_rounds: bool = False) -> FloatTrees:
    """Return the model of a file in JSON that ``Booster.save_model`` wrote.

    After early stopping the file names the best round; later ones are left out, as
    ``XGBClassifier.predict`` leaves them out, and ``notes`` say how many; ``all_rounds`` takes all.
    """
    with foreign(lambda _: ModelError(f"{path}: not an XGBoost model in JSON")):
        learner = json.loads(_read(path))["learner"]
        names = tuple(str(name) for name in learner.get("feature_names", ()))
        booster = one_line(learner["gradient_booster"]["name"], 40)
    if booster != "gbtree":
        raise ModelError(f"{path}: the booster {booster} is not supported", hint="gbtree is")

    def rules(model: dict[str, Any]) -> _Rules:
        return _xgboost_rules(model, learner, all_rounds)

    return _convert(path, "xgboost", names, rules)


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from None


@dataclass(frozen=True)
class _Rules:
    """Differences between the libraries.

    ``edge``: label 1 is above it; ``trees``: how many count; ``rounds``: the same, in rounds (0:
    all, and nothing is to be said of it).
    """

    edge: float
    sums: Sums
    base: Any
    trees: int
    link: Link = "logistic"
    rounds: int = 0
    notes: tuple[str, ...] = ()


def _lightgbm_rules(model: dict[str, Any]) -> _Rules:
    outputs, trees = int(model["num_class"][0]), len(model["trees"])
    divide = max(trees // outputs, 1) if model["average_tree_output"] else 1
    slope = float(model["sigmoid_alpha"])

    def is_first(score: float) -> bool:
        share = 1.0 / (1.0 + math.exp(-slope * score))
        return not share > 1.0 - share

    edge = _largest(is_first, np.float64)
    return _Rules(edge, Sums(False, divide, _TIE_DOUBLE), model["base_scores"], trees)


def _xgboost_rules(model: dict[str, Any], learner: dict[str, Any], all_rounds: bool) -> _Rules:
    objective = str(learner["objective"]["name"])
    said = json.loads(str(learner["learner_model_param"]["base_score"]))
    base: Any = np.asarray(said, np.float32)
    edge, link = 0.0, "none"
    if objective == "binary:logistic":
        # Single precision, but for the logarithm, which is within half a step of the exact one.
        with np.errstate(divide="ignore", invalid="ignore"):
            odds = np.float32(1) / base - np.float32(1)
            base = (-np.log(odds.astype(np.float64))).astype(np.float32)

        def is_first(score: Any) -> bool:
            power = np.exp(-np.float64(score)).astype(np.float32)
            return not np.float32(1) / (power + np.float32(1)) > np.float32(0.5)

        edge, link = _largest(is_first, np.float32), "logistic"
    elif objective == "binary:logitraw":
        # Its predictions are scores, and a label is 1 where the prediction is above 0.5.
        edge = 0.5
    tie = _TIE_SINGLE if objective == "multi:softprob" else 0.0
    trees, rounds = len(model["trees"]), 0
    notes: tuple[str, ...] = ()
    if not all_rounds and (best := _best_rounds(learner)):
        trees, rounds, notes = _early(learner, best, trees, int(model["num_class"][0]))
    return _Rules(edge, Sums(True, 1, tie), base, trees, link, rounds, notes)  # type: ignore[arg-type]


def _best_rounds(learner: dict[str, Any]) -> int:
    # Number of rounds that the library's own predict takes; 0: all.
    attributes = learner.get("attributes") or {}
    if "best_iteration" in attributes:
        return int(attributes["best_iteration"]) + 1
    # XGBoost before 1.6.
    return int(attributes.get("best_ntree_limit", 0)) // _parallel(learner)


def _parallel(learner: dict[str, Any]) -> int:
    ensemble = learner["gradient_booster"]["model"]["gbtree_model_param"]
    return max(int(ensemble.get("num_parallel_tree", 1)), 1)


def _early(
    learner: dict[str, Any], best: int, trees: int, outputs: int
) -> tuple[int, int, tuple[str, ...]]:
    each = _parallel(learner) * outputs
    bounds = learner["gradient_booster"]["model"].get("iteration_indptr")
    bounds = [int(n) for n in bounds] if bounds else list(range(0, trees + 1, each))
    if not 0 < best < len(bounds) or not 0 < bounds[best] <= trees:
        raise ModelError(f"best_iteration is {best - 1}, of {len(bounds) - 1} rounds")
    later = len(bounds) - 1 - best
    if not later:
        return trees, 0, ()
    note = (
        f"{later} rounds after the best one (best_iteration {best - 1}) are left out, "
        f"{best} of {len(bounds) - 1} are taken"
    )
    return bounds[best], best, (note,)


def _largest(is_first: Callable[[Any], bool], kind: Any) -> float:
    # The largest score that is not yet of label 1: a number a little above 0.
    word = np.uint32 if kind is np.float32 else np.uint64
    low, high = 0, int(kind(1.0).view(word))
    while high - low > 1:
        middle = (low + high) // 2
        first = is_first(word(middle).view(kind))
        low, high = (middle, high) if first else (low, middle)
    return float(word(low).view(kind))


def _convert(
    path: str | Path,
    package: str,
    names: tuple[str, ...],
    rules: Callable[[dict[str, Any]], _Rules],
) -> FloatTrees:
    source = LIBRARIES[package]
    try:
        with foreign(lambda _: ModelError("treelite's result is not a model")):
            model = read_model(package, path)
            how = rules(model)
            trees = _trees(model, how)
    except ModelError as error:
        raise ModelError(f"{path}: {source}: {error}", hint=error.hint) from None
    library = None
    if trees.target.classes:
        library = Library(source, lambda x: ask_library(package, path, x, how.rounds))
    names = names if len(names) == trees.features else ()
    return replace(trees, names=names, source=source, library=library, notes=how.notes)


def _trees(model: dict[str, Any], how: _Rules) -> FloatTrees:
    task, post = model["task_type"], model["postprocessor"]
    if model["num_target"] != 1 or model["leaf_vector_shape"] != [1, 1]:
        raise ModelError("several targets, or vectors in leaves, are not supported")
    outputs = int(model["num_class"][0])
    if task == "kBinaryClf" and post == "sigmoid":
        slope = float(model["sigmoid_alpha"])
        target = Target("threshold", ("0", "1"), how.edge, how.link, slope)
    elif task == "kBinaryClf" and post in ("identity", "hinge"):
        target = Target("threshold", ("0", "1"), how.edge)
    elif task == "kMultiClf" and outputs > 1:
        target = Target("argmax", tuple(str(number) for number in range(outputs)))
    elif task in ("kRegressor", "kLearningToRank") and post == "identity" and outputs == 1:
        target = Target("value")
    else:
        raise ModelError(f"the objective ({task}, {post}) is not supported")
    single = model["threshold_type"] == "float32"
    grower = Grower()
    trees = list(zip(model["trees"], model["class_id"], strict=True))
    for tree, output in trees[: how.trees]:
        grower.add(*_nodes(tree["nodes"], single), output=max(int(output), 0))
    if not trees:
        raise ModelError("there are no trees")
    base = np.broadcast_to(np.ravel(how.base), outputs)
    features = int(model["num_feature"])
    return grower.trees(base, features, target, single=single, sums=how.sums)


def _nodes(nodes: list[dict[str, Any]], single: bool) -> tuple[Any, Any, Any, Any, Any]:
    size = len(nodes)
    feature, threshold = np.full(size, -1), np.zeros(size)
    left, right, values = np.zeros(size, int), np.zeros(size, int), np.zeros((size, 1))
    place = {node["node_id"]: number for number, node in enumerate(nodes)}
    for number, node in enumerate(nodes):
        if "leaf_value" in node:
            values[number] = node["leaf_value"]
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
