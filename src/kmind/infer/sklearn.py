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
from kmind.infer.floating import Dense, FloatMlp, FloatModel, FloatTrees, Grower, Target

__all__ = ["SUPPORTED", "from_sklearn"]


def from_sklearn(estimator: Any) -> FloatModel:
    """Return the float model of a fitted estimator or pipeline; classes as text.

    Raises ModelError, which names the estimator, where it is not supported or not fitted.
    """
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


def _pipeline(pipeline: Any) -> FloatModel:
    steps = [(name, step) for name, step in pipeline.steps if step not in (None, "passthrough")]
    model = from_sklearn(steps[-1][1])
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
        factor, shift = _SCALERS[kind](step)
        count = model.features
        model = model.scaled(
            np.broadcast_to(np.asarray(factor, np.float64), count),
            np.broadcast_to(np.asarray(shift, np.float64), count),
        )
    names = tuple(str(word) for word in getattr(pipeline, "feature_names_in_", model.names))
    kinds = "+".join(type(step).__name__ for _, step in steps)
    return replace(model, names=names, source=f"scikit-learn {kinds}")


def _standard(scaler: Any) -> tuple[Any, Any]:
    # A scaler that does not centre has learnt the mean all the same.
    scale = scaler.scale_ if scaler.with_std else 1.0
    mean = scaler.mean_ if scaler.with_mean else 0.0
    return 1.0 / np.asarray(scale), -np.asarray(mean) / scale


def _min_max(scaler: Any) -> tuple[Any, Any]:
    if scaler.clip:
        raise ModelError("MinMaxScaler with clip=True is not supported")
    return scaler.scale_, scaler.min_


def _robust(scaler: Any) -> tuple[Any, Any]:
    scale = scaler.scale_ if scaler.with_scaling else 1.0
    center = scaler.center_ if scaler.with_centering else 0.0
    return 1.0 / np.asarray(scale), -np.asarray(center) / scale


# Each returns factor and shift: x * factor + shift.
_SCALERS: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "StandardScaler": _standard,
    "MinMaxScaler": _min_max,
    "MaxAbsScaler": lambda scaler: (1.0 / scaler.scale_, 0.0),
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
            target, base = Target("threshold", classes, 0.5, "share"), np.zeros(1)
    for member in members:
        tree = member.tree_
        values = tree.value[:, 0, :]
        if target.classes:
            # Shares since scikit-learn 1.3, counts before.
            values = values / values.sum(axis=1, keepdims=True)
            values = values[:, 1:] if len(target.classes) == 2 else values
        _add_tree(grower, tree, values / len(members))
    return grower.trees(base, estimator.n_features_in_, target)


def _decision(classes: tuple[str, ...]) -> Target:
    """What scores by log-odds mean."""
    return (
        Target("threshold", classes, 0.0, "logistic")
        if len(classes) == 2
        else Target("argmax", classes)
    )


def _gradient_boosting(estimator: Any) -> FloatTrees:
    if estimator.init_ != "zero" and not type(estimator.init_).__name__.startswith("Dummy"):
        raise ModelError(f"{type(estimator).__name__} with an estimator as init is not supported")
    grower, target = Grower(), Target("value")
    if hasattr(estimator, "classes_"):
        target = _decision(_classes(estimator))
        if estimator.loss == "exponential":
            # Its score is half the log-odds.
            target = replace(target, link="none")
    for stage in estimator.estimators_:
        for output, member in enumerate(stage):
            values = member.tree_.value[:, 0, :] * estimator.learning_rate
            _add_tree(grower, member.tree_, values, output)
    outputs = estimator.estimators_.shape[1]
    model = grower.trees(np.zeros(outputs), estimator.n_features_in_, target)
    # What it begins with is whatever its answer has beyond the trees.
    zero = np.zeros((1, model.features))
    answer = estimator.decision_function if target.classes else estimator.predict
    return replace(model, base=_ask(estimator, answer, zero).reshape(-1) - model.scores(zero)[0])


def _ask(estimator: Any, answer: Callable[[Any], Any], x: Any) -> Any:
    """Call it without a warning of names that an array does not have."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(answer(x), np.float64)


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
    model = grower.trees(base, estimator.n_features_in_, target)
    return replace(model, single=False)


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
