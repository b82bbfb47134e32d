# SPDX-License-Identifier: Apache-2.0
"""Fitted estimators of scikit-learn: trees, forests, boosting, linear models, networks, pipelines.

An estimator is taken as the object that it is, in the process that fitted it: a pickle runs code
when it is read, so kmind reads none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from kmind.errors import ModelError
from kmind.infer.floating import (
    Dense,
    FloatMlp,
    FloatModel,
    FloatTrees,
    Grower,
    Library,
    Sums,
    Target,
)
from kmind.infer.stages import Stage

__all__ = ["SUPPORTED", "from_sklearn"]


def from_sklearn(estimator: Any) -> FloatModel:
    """Return the float model of a fitted estimator or pipeline; classes as text.

    Raises ModelError, which names the estimator, where it is not supported or not fitted.
    """
    model = _model(estimator)
    return replace(model, library=_library(estimator) if model.target.classes else None)


def _model(estimator: Any) -> FloatModel:
    name = type(estimator).__name__
    if name == "Pipeline":
        return _pipeline(estimator)
    build = _BUILDERS.get(name)
    if build is None or not type(estimator).__module__.startswith("sklearn."):
        known = ", ".join(SUPPORTED)
        raise ModelError(f"{name} is not supported", hint=f"these are: {known}")
    if not hasattr(estimator, "n_features_in_"):
        raise ModelError(f"{name} is not fitted", hint="call its fit first")
    model = build(estimator)
    names = tuple(str(word) for word in getattr(estimator, "feature_names_in_", ()))
    return replace(model, names=names, source=f"scikit-learn {name}")


def _library(estimator: Any) -> Library:
    import sklearn

    place = {name: number for number, name in enumerate(np.asarray(estimator.classes_).tolist())}

    def labels(x: Any) -> Any:
        said = _ask(estimator.predict, x)
        return np.array([place[name] for name in said.tolist()], np.int64)

    return Library(f"scikit-learn {sklearn.__version__}", labels)


def _pipeline(pipeline: Any) -> FloatModel:
    steps = [(name, step) for name, step in pipeline.steps if step not in (None, "passthrough")]
    model = _model(steps[-1][1])
    for name, step in reversed(steps[:-1]):
        kind = type(step).__name__
        if kind == "Normalizer":
            if model.norm != "none":
                raise ModelError("a pipeline with two normalisers is not supported")
            model = replace(model, norm=step.norm)
            continue
        if kind not in _SCALERS:
            raise ModelError(
                f"the step {name} of the pipeline, {kind}, is not supported",
                hint=f"these are: {', '.join(_SCALERS)}, Normalizer",
            )
        model = _behind(model, kind, _SCALERS[kind](step))
    names = tuple(str(word) for word in getattr(pipeline, "feature_names_in_", model.names))
    kinds = "+".join(type(step).__name__ for _, step in steps)
    return replace(model, names=names, source=f"scikit-learn {kinds}")


def _behind(model: FloatModel, kind: str, stages: list[Stage]) -> FloatModel:
    # Trees compare what the scaler's own operations give; a network's first layer takes them in.
    if isinstance(model, FloatTrees):
        return model.staged(Stage("round"), *stages)
    factor, shift = np.ones(model.features), np.zeros(model.features)
    for stage in stages:
        if stage.op == "clip":
            raise ModelError(f"{kind} with clip=True is not supported before a network")
        value = np.broadcast_to(np.asarray(stage.value, np.float64), model.features)
        if stage.op in ("add", "sub"):
            shift = shift + (value if stage.op == "add" else -value)
            continue
        by = value if stage.op == "mul" else 1.0 / value
        factor, shift = factor * by, shift * by
    return model.scaled(factor, shift)


def _standard(scaler: Any) -> list[Stage]:
    # A scaler that does not centre has learnt the mean all the same.
    stages = [Stage("sub", scaler.mean_)] if scaler.with_mean else []
    return [*stages, Stage("div", scaler.scale_)] if scaler.with_std else stages


def _min_max(scaler: Any) -> list[Stage]:
    stages = [Stage("mul", scaler.scale_), Stage("add", scaler.min_)]
    return [*stages, Stage("clip", scaler.feature_range)] if scaler.clip else stages


def _max_abs(scaler: Any) -> list[Stage]:
    stages = [Stage("div", scaler.scale_)]
    return [*stages, Stage("clip", (-1.0, 1.0))] if getattr(scaler, "clip", False) else stages


def _robust(scaler: Any) -> list[Stage]:
    stages = [Stage("sub", scaler.center_)] if scaler.with_centering else []
    return [*stages, Stage("div", scaler.scale_)] if scaler.with_scaling else stages


# Each returns the operations of its ``transform``, in their order.
_SCALERS: dict[str, Callable[[Any], list[Stage]]] = {
    "StandardScaler": _standard,
    "MinMaxScaler": _min_max,
    "MaxAbsScaler": _max_abs,
    "RobustScaler": _robust,
}


def _classes(estimator: Any) -> tuple[str, ...]:
    classes = estimator.classes_
    if isinstance(classes, list) or getattr(estimator, "n_outputs_", 1) != 1:
        raise ModelError(f"{type(estimator).__name__} with several outputs is not supported")
    return tuple(str(name) for name in np.asarray(classes).tolist())


def _add_tree(grower: Grower, tree: Any, values: Any, output: int = 0) -> None:
    feature = np.where(tree.children_left < 0, -1, tree.feature)
    grower.add(feature, tree.threshold, tree.children_left, tree.children_right, values, output)


def _forest(estimator: Any) -> FloatTrees:
    """Trees that vote with the shares of their leaves; a forest's vote is the mean."""
    members = getattr(estimator, "estimators_", [estimator])
    if estimator.n_outputs_ != 1:
        raise ModelError(f"{type(estimator).__name__} with several outputs is not supported")
    grower, target = Grower(), Target("value")
    base = np.zeros(1)
    if hasattr(estimator, "classes_"):
        classes = _classes(estimator)
        if len(classes) < 2:
            raise ModelError("a classifier of one class needs no model")
        target = Target("argmax", classes)
        base = np.zeros(len(classes))
        if len(classes) == 2:
            target = Target("threshold", classes, 0.5, "share")
    for member in members:
        tree = member.tree_
        # Shares since scikit-learn 1.3, as they are: to divide once more might round them.
        _add_tree(grower, tree, tree.value[:, 0, :])
    sums = Sums(divide=len(members))
    return grower.trees(base, estimator.n_features_in_, target, sums=sums)


def _decision(classes: tuple[str, ...], edge: float = 0.0) -> Target:
    """Return what scores by log-odds mean: label 1 where the one score is above ``edge``."""
    return (
        Target("threshold", classes, edge, "logistic")
        if len(classes) == 2
        else Target("argmax", classes)
    )


def _gradient_boosting(estimator: Any) -> FloatTrees:
    if estimator.init_ != "zero" and not type(estimator.init_).__name__.startswith("Dummy"):
        raise ModelError(f"{type(estimator).__name__} with an estimator as init is not supported")
    grower, target = Grower(), Target("value")
    if hasattr(estimator, "classes_"):
        # A score of 0 is of the second class here, and nowhere else.
        target = _decision(_classes(estimator), np.nextafter(0.0, -1.0))
        if estimator.loss == "exponential":
            # Its score is half the log-odds.
            target = replace(target, link="none")
    for stage in estimator.estimators_:
        for output, member in enumerate(stage):
            values = member.tree_.value[:, 0, :] * estimator.learning_rate
            _add_tree(grower, member.tree_, values, output)
    outputs = estimator.estimators_.shape[1]
    model = grower.trees(np.zeros(outputs), estimator.n_features_in_, target)
    return replace(model, base=_ask(estimator._raw_predict_init, np.zeros((1, model.features)))[0])


def _ask(answer: Callable[[Any], Any], x: Any) -> Any:
    """Call it without a warning of names that an array does not have."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(answer(x))


def _hist_boosting(estimator: Any) -> FloatTrees:
    grower, target = Grower(), Target("value")
    if hasattr(estimator, "classes_"):
        target = _decision(_classes(estimator))
    elif estimator.loss in ("poisson", "gamma"):
        raise ModelError(f"{type(estimator).__name__} with loss={estimator.loss} is not supported")
    for stage in estimator._predictors:
        for output, predictor in enumerate(stage):
            nodes = predictor.nodes
            if nodes["is_categorical"].any():
                raise ModelError(
                    f"{type(estimator).__name__} with categorical features is not supported"
                )
            feature = np.where(nodes["is_leaf"], -1, nodes["feature_idx"].astype(np.int64))
            grower.add(
                feature,
                nodes["num_threshold"],
                nodes["left"].astype(np.int64),
                nodes["right"].astype(np.int64),
                nodes["value"][:, None],
                output,
            )
    base = np.ravel(estimator._baseline_prediction)
    return grower.trees(base, estimator.n_features_in_, target, single=False)


def _linear(estimator: Any) -> FloatMlp:
    weight = np.atleast_2d(np.asarray(estimator.coef_, np.float64))
    bias = np.ravel(np.asarray(estimator.intercept_, np.float64))
    bias = np.broadcast_to(bias, (len(weight),)).copy()
    target = Target("value")
    if hasattr(estimator, "classes_"):
        target = _decision(_classes(estimator))
        if not hasattr(estimator, "predict_proba"):
            target = replace(target, link="none")
    return FloatMlp((Dense(weight, bias),), target)


def _network(estimator: Any) -> FloatMlp:
    names = {"identity": "identity", "relu": "relu", "logistic": "sigmoid", "tanh": "tanh"}
    hidden: Any = names[estimator.activation]
    last = len(estimator.coefs_) - 1
    layers = tuple(
        Dense(
            np.asarray(weight, np.float64).T,
            np.asarray(bias, np.float64),
            hidden if number < last else "identity",
        )
        for number, (weight, bias) in enumerate(
            zip(estimator.coefs_, estimator.intercepts_, strict=True)
        )
    )
    target = Target("value")
    if hasattr(estimator, "classes_"):
        if estimator.out_activation_ == "logistic" and estimator.n_outputs_ > 1:
            raise ModelError("MLPClassifier with several labels a row is not supported")
        classes = tuple(str(name) for name in estimator.classes_.tolist())
        target = _decision(classes)
    return FloatMlp(layers, target)


_BUILDERS: dict[str, Callable[[Any], FloatModel]] = {
    **dict.fromkeys(
        (
            "DecisionTreeClassifier",
            "DecisionTreeRegressor",
            "ExtraTreeClassifier",
            "ExtraTreeRegressor",
            "RandomForestClassifier",
            "RandomForestRegressor",
            "ExtraTreesClassifier",
            "ExtraTreesRegressor",
        ),
        _forest,
    ),
    "GradientBoostingClassifier": _gradient_boosting,
    "GradientBoostingRegressor": _gradient_boosting,
    "HistGradientBoostingClassifier": _hist_boosting,
    "HistGradientBoostingRegressor": _hist_boosting,
    **dict.fromkeys(
        (
            "LogisticRegression",
            "LogisticRegressionCV",
            "LinearSVC",
            "RidgeClassifier",
            "LinearRegression",
            "Ridge",
            "Lasso",
            "ElasticNet",
            "LinearSVR",
        ),
        _linear,
    ),
    "MLPClassifier": _network,
    "MLPRegressor": _network,
}
SUPPORTED = (*_BUILDERS, "Pipeline")
