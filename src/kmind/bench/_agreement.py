# SPDX-License-Identifier: Apache-2.0
"""Integer models beside the libraries that trained the float ones: random models, rows with edges.

A family is trained on random tables of integers: few values and many, nanoseconds since boot,
addresses, negative numbers, equal rows of different classes, gaps where a library takes them;
with weights, scalers, few leaves and many. Rows are such as these, each threshold with its
neighbours and the middle between two, and numbers from all of int64. Labels are those of the
library's own ``predict``, in this process.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmind.infer import from_lightgbm, from_onnx, from_sklearn, from_xgboost
from kmind.infer.floating import FloatTrees
from kmind.infer.importers.ask import labels_of
from kmind.infer.integer import IntTrees
from kmind.infer.lazy import need
from kmind.infer.quantiser.agreement import edge_rows
from kmind.infer.quantiser.trees import integer_trees
from kmind.infer.reference import evaluate, is_close

__all__ = ["FAMILIES", "Case", "agreement", "random_case"]

_I64 = NDArray[np.int64]
_Labels = Callable[[_I64], _I64]


class Case:
    """A float model, its integer form, rows ``[n, F]``, and what both say of them."""

    def __init__(self, model: FloatTrees, rows: _I64, labels: _Labels) -> None:
        self.model = model
        self.integer: IntTrees = integer_trees(model, np.ones(model.features))
        self.rows = rows
        self.theirs = labels(rows)
        decided = evaluate(self.integer, rows)
        self.ours = decided.label
        exact = self.integer.exact
        self.close = 0
        if exact is not None:
            self.close = int(is_close(self.integer.output, exact, decided.score).sum())

    @property
    def differ(self) -> int:
        """Rows that the integer model labels otherwise than the library."""
        return int((self.ours != self.theirs).sum())


def agreement(models: int, rows: int, families: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Compare ``models`` random models of each family, each on this many rows."""
    found = []
    for family in families or tuple(FAMILIES):
        counts = np.zeros(4, np.int64)
        for seed in range(models):
            case = random_case(family, seed, rows)
            counts += (len(case.rows), case.close, case.differ, case.differ > 0)
        names = ("rows", "close", "differ", "models_that_differ")
        numbers = dict(zip(names, counts.tolist(), strict=True))
        found.append({"family": family, "models": models, **numbers})
    return found


def random_case(family: str, seed: int, rows: int) -> Case:
    """Return one random model of a family, and what is said of that many rows."""
    rng = np.random.default_rng([seed, *family.encode()])
    table, y, weight = _data(rng)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        model, labels = FAMILIES[family](rng, table, y, weight, Path(folder))
        return Case(model, _rows(rng, model, table, rows), labels)


def _column(rng: np.random.Generator, count: int) -> _I64:
    kind = rng.integers(8)
    if kind < 3:
        return rng.integers(0, int(rng.choice([2, 6, 20, 100])), count)
    if kind == 3:
        return rng.lognormal(8, 1.5, count).astype(np.int64)
    if kind == 4:
        return 10**9 + rng.integers(-2000, 2000, count)
    if kind == 5:
        return rng.integers(-300, 300, count)
    if kind == 6:
        return 86_400_000_000_000 + rng.integers(0, 1 << int(rng.integers(8, 45)), count)
    return rng.integers(-(1 << 62), 1 << 62, count)


def _data(rng: np.random.Generator) -> tuple[_I64, _I64, Any]:
    count, features = int(rng.integers(20, 400)), int(rng.integers(1, 6))
    table = np.stack([_column(rng, count) for _ in range(features)], axis=1)
    ranks = table.argsort(axis=0).argsort(axis=0) / count
    classes = int(rng.choice([2, 2, 3, 4]))
    score = ranks @ rng.normal(0, 1, features) + rng.normal(0, rng.choice([0.01, 0.3, 2.0]), count)
    y = np.digitize(score, np.quantile(score, np.linspace(0, 1, classes + 1)[1:-1]))
    y[:classes] = np.arange(classes)
    if rng.random() < 0.5:  # equal rows of other classes: leaves that tie
        table = np.concatenate([table, table])
        y = np.concatenate([y, np.where(rng.random(count) < 0.3, (y + 1) % classes, y)])
    weight = None
    if rng.random() < 0.3:
        weight = rng.choice([0.1, 0.2, 0.3, 0.7, 1.0, 3.0], len(y))
    return table, y.astype(np.int64), weight


def _rows(rng: np.random.Generator, model: FloatTrees, table: _I64, count: int) -> _I64:
    mixed = np.stack([rng.permutation(column) for column in table.T], axis=1)
    raw = np.concatenate([table, mixed])
    scale = np.ones(model.features)
    edges = edge_rows(model, scale, raw, count // 2)
    far = rng.integers(-(1 << 63), 1 << 63, (count // 50, table.shape[1]), dtype=np.int64)
    near = raw[rng.integers(0, len(raw), count - len(edges) - len(far))].copy()
    # Whole numbers beside those of the table.
    near += np.where(rng.random(near.shape) < 0.3, rng.integers(-3, 4, near.shape), 0)
    return np.concatenate([edges, near, far])


def _leaves(rng: np.random.Generator) -> dict[str, Any]:
    depth = int(rng.integers(1, 9))
    return {
        "max_depth": None if rng.random() < 0.3 else depth,
        "min_samples_leaf": int(rng.choice([1, 1, 2, 5])),
        "random_state": int(rng.integers(1 << 30)),
    }


def _fitted(
    rng: np.random.Generator, estimator: Any, table: _I64, y: _I64, weight: Any, gaps: bool
) -> tuple[FloatTrees, _Labels]:
    preprocessing, pipeline = need("sklearn.preprocessing", "learn"), need("sklearn.pipeline")
    step = type(estimator).__name__.lower()
    x: Any = table
    if rng.random() < 0.4:
        scaler = rng.choice(["StandardScaler", "MinMaxScaler", "RobustScaler", "MaxAbsScaler"])
        more = {"clip": True} if scaler == "MinMaxScaler" and rng.random() < 0.3 else {}
        estimator = pipeline.make_pipeline(getattr(preprocessing, str(scaler))(**more), estimator)
        step += "__"
    else:
        step = ""
    if gaps and not step and rng.random() < 0.2:
        x = np.where(rng.random(table.shape) < 0.2, np.nan, table.astype(np.float64))
    if weight is not None:
        estimator.fit(x, y, **{f"{step}sample_weight": weight})
    else:
        estimator.fit(x, y)
    model = from_sklearn(estimator)
    assert isinstance(model, FloatTrees)
    return model, lambda rows: np.asarray(estimator.predict(rows), np.int64)


def _tree(
    rng: np.random.Generator, table: _I64, y: _I64, weight: Any, folder: Path
) -> tuple[FloatTrees, _Labels]:
    made = need("sklearn.tree", "learn").DecisionTreeClassifier(**_leaves(rng))
    return _fitted(rng, made, table, y, weight, True)


def _forest(
    rng: np.random.Generator, table: _I64, y: _I64, weight: Any, folder: Path
) -> tuple[FloatTrees, _Labels]:
    name = rng.choice(["RandomForestClassifier", "ExtraTreesClassifier"])
    kind = getattr(need("sklearn.ensemble", "learn"), str(name))
    made = kind(int(rng.integers(2, 25)), n_jobs=1, **_leaves(rng))
    return _fitted(rng, made, table, y, weight, True)


def _gradient(
    rng: np.random.Generator, table: _I64, y: _I64, weight: Any, folder: Path
) -> tuple[FloatTrees, _Labels]:
    kind = need("sklearn.ensemble", "learn").GradientBoostingClassifier
    more = _leaves(rng) | {"max_depth": int(rng.integers(1, 5))}
    rate = float(rng.choice([0.1, 0.5, 1.0]))
    made = kind(n_estimators=int(rng.integers(1, 20)), learning_rate=rate, **more)
    return _fitted(rng, made, table, y, weight, False)


def _histogram(
    rng: np.random.Generator, table: _I64, y: _I64, weight: Any, folder: Path
) -> tuple[FloatTrees, _Labels]:
    kind = need("sklearn.ensemble", "learn").HistGradientBoostingClassifier
    made = kind(
        max_iter=int(rng.integers(1, 20)),
        learning_rate=float(rng.choice([0.1, 0.5, 1.0])),
        early_stopping=False,
        **_leaves(rng),
    )
    return _fitted(rng, made, table, y, weight, True)


def _lightgbm(
    rng: np.random.Generator, table: _I64, y: _I64, weight: Any, folder: Path
) -> tuple[FloatTrees, _Labels]:
    more: dict[str, Any] = {}
    if rng.random() < 0.2:
        more = {"boosting_type": "rf", "subsample": 0.7, "subsample_freq": 1}
    made = need("lightgbm", "test").LGBMClassifier(
        n_estimators=int(rng.integers(1, 25)),
        num_leaves=int(rng.integers(2, 32)),
        min_child_samples=int(rng.choice([1, 5, 20])),
        learning_rate=float(rng.choice([0.1, 0.5])),
        random_state=int(rng.integers(1 << 30)),
        n_jobs=1,
        verbose=-1,
        **more,
    )
    made.fit(table.astype(np.float64), y, sample_weight=weight)
    path = folder / "model.txt"
    made.booster_.save_model(path)
    return from_lightgbm(path), lambda rows: labels_of("lightgbm", str(path), rows)


def _xgboost(
    rng: np.random.Generator, table: _I64, y: _I64, weight: Any, folder: Path
) -> tuple[FloatTrees, _Labels]:
    more: dict[str, Any] = {}
    if y.max() == 1 and rng.random() < 0.3:
        more["objective"] = str(rng.choice(["binary:logitraw", "binary:hinge"]))
    if y.max() > 1 and rng.random() < 0.3:
        more["objective"] = "multi:softmax"
    if rng.random() < 0.2:
        more["num_parallel_tree"] = 2
    early = bool(rng.random() < 0.3)
    if early:
        more["early_stopping_rounds"] = 2
    made = need("xgboost", "test").XGBClassifier(
        n_estimators=int(rng.integers(1, 25)),
        max_depth=int(rng.integers(1, 7)),
        learning_rate=float(rng.choice([0.1, 0.3, 1.0])),
        min_child_weight=float(rng.choice([0.0, 1.0])),
        random_state=int(rng.integers(1 << 30)),
        n_jobs=1,
        **more,
    )
    if early:
        half = np.unique(y[: len(y) // 2], return_counts=True)[0]
        whole = len(half) == y.max() + 1
        train = slice(len(y) // 2) if whole else slice(None)
        made.fit(table[train], y[train], eval_set=[(table, y)], verbose=False)
    else:
        made.fit(table, y, sample_weight=weight)
    path = folder / "model.json"
    made.save_model(path)
    return from_xgboost(path), lambda rows: np.asarray(made.predict(rows), np.int64)


def _onnx(
    rng: np.random.Generator, table: _I64, y: _I64, weight: Any, folder: Path
) -> tuple[FloatTrees, _Labels]:
    ensemble, convert = need("sklearn.ensemble", "learn"), need("skl2onnx", "test")
    types = need("skl2onnx.common.data_types", "test")
    more = _leaves(rng)
    if rng.random() < 0.7:
        kind = rng.choice(["RandomForestClassifier", "ExtraTreesClassifier"])
        made = getattr(ensemble, str(kind))(int(rng.integers(1, 25)), n_jobs=1, **more)
    else:
        more |= {"max_depth": int(rng.integers(1, 5))}
        made = ensemble.GradientBoostingClassifier(n_estimators=int(rng.integers(1, 15)), **more)
    if rng.random() < 0.3:
        scaler = need("sklearn.preprocessing").StandardScaler()
        made = need("sklearn.pipeline").make_pipeline(scaler, made)
    made.fit(table, y)
    given = [("x", types.FloatTensorType([None, table.shape[1]]))]
    opset = {"": int(rng.choice([15, 17, 18, 21])), "ai.onnx.ml": int(rng.choice([1, 3]))}
    options = {id(made): {"zipmap": False}} if rng.random() < 0.5 else None
    graph = convert.to_onnx(made, initial_types=given, target_opset=opset, options=options)
    path = folder / "model.onnx"
    path.write_bytes(graph.SerializeToString())
    model = from_onnx(path)
    assert isinstance(model, FloatTrees)
    return model, lambda rows: labels_of("onnxruntime", str(path), rows)


_Make = Callable[
    [np.random.Generator, _I64, _I64, Any, Path],
    tuple[FloatTrees, _Labels],
]
FAMILIES: dict[str, _Make] = {
    "tree": _tree,
    "forest": _forest,
    "gradient boosting": _gradient,
    "histogram boosting": _histogram,
    "lightgbm": _lightgbm,
    "xgboost": _xgboost,
    "onnx": _onnx,
}
"""Makers of a random model, and of the labels that its library gives."""
