# SPDX-License-Identifier: Apache-2.0
"""Estimators of scikit-learn: the import must say what they say, the integers nearly so."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from model_data import NAMES, features, labels, values
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from kmind.errors import ModelError
from kmind.infer import from_sklearn, quantise

X = features()
SHARED: dict[str, Any] = {"max_iter": 25, "random_state": 0}
CLASSIFIERS = [
    DecisionTreeClassifier(max_depth=6),
    RandomForestClassifier(5, max_depth=5, random_state=0),
    ExtraTreesClassifier(5, max_depth=5, random_state=0),
    GradientBoostingClassifier(n_estimators=8, random_state=0),
    HistGradientBoostingClassifier(max_iter=8),
    make_pipeline(StandardScaler(), LogisticRegression()),
    make_pipeline(MinMaxScaler(), LinearSVC()),
    make_pipeline(MaxAbsScaler(), RidgeClassifier()),
    make_pipeline(StandardScaler(), MLPClassifier((12,), **SHARED)),
    make_pipeline(RobustScaler(), MLPClassifier((8, 6), activation="logistic", **SHARED)),
    make_pipeline(
        StandardScaler(with_mean=False), MLPClassifier((6,), activation="tanh", **SHARED)
    ),
    make_pipeline(StandardScaler(), MLPClassifier((4,), activation="identity", **SHARED)),
    make_pipeline(StandardScaler(), "passthrough", DecisionTreeClassifier(max_depth=4)),
    make_pipeline(Normalizer(), DecisionTreeClassifier(max_depth=4)),
    make_pipeline(Normalizer("l1"), StandardScaler(), LogisticRegression()),
]
REGRESSORS = [
    DecisionTreeRegressor(max_depth=6),
    RandomForestRegressor(5, max_depth=5, random_state=0),
    GradientBoostingRegressor(n_estimators=8, random_state=0),
    HistGradientBoostingRegressor(max_iter=8),
    make_pipeline(StandardScaler(), LinearRegression()),
    make_pipeline(StandardScaler(), MLPRegressor(hidden_layer_sizes=(12,), **SHARED)),
]

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")


def called(estimator: Any) -> str:
    steps = getattr(estimator, "steps", [("", estimator)])
    return "+".join(step if isinstance(step, str) else type(step).__name__ for _, step in steps)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("estimator", CLASSIFIERS, ids=called)
def test_classifiers(estimator: Any, classes: int) -> None:
    y = labels(X, classes)
    estimator.fit(X[:900], y[:900])
    model = from_sklearn(estimator)
    assert model.target.classes == tuple(str(number) for number in range(classes))
    assert np.array_equal(model.target.labels(model.scores(X)), estimator.predict(X))
    file = quantise(model, X[:900], (X[900:], y[900:]))
    assert file.quantisation["metric"] == "balanced accuracy"
    assert file.quantisation["lost_points"] <= 0.5
    assert file.quantisation["rows"] == 300


@pytest.mark.parametrize("estimator", REGRESSORS, ids=called)
def test_regressors(estimator: Any) -> None:
    y = values(X)
    estimator.fit(X[:900], y[:900])
    model = from_sklearn(estimator)
    assert np.allclose(model.scores(X)[:, 0], estimator.predict(X), atol=1e-9)
    file = quantise(model, X[:900], (X[900:], y[900:]))
    assert file.quantisation["metric"] == "R2"
    assert file.classes == ()


@pytest.mark.parametrize(
    "estimator",
    [
        DecisionTreeClassifier(max_depth=5),
        make_pipeline(StandardScaler(), LogisticRegression()),
        HistGradientBoostingClassifier(max_iter=8),
    ],
    ids=called,
)
def test_a_probability_is_that_of_the_estimator(estimator: Any) -> None:
    from kmind.infer import evaluate

    y = labels(X, 2)
    estimator.fit(X[:900], y[:900])
    file = quantise(from_sklearn(estimator), X[:900], (X[900:], y[900:]))
    ours = evaluate(file.model, X.astype(int)).probability / 32767
    assert np.abs(ours - estimator.predict_proba(X)[:, 1]).max() < 0.02


def test_names_and_classes_come_from_the_frame() -> None:
    frame = pd.DataFrame(X, columns=NAMES)
    y = np.array(["fast", "slow"])[labels(X, 2)]
    pipeline = make_pipeline(StandardScaler(), DecisionTreeClassifier(max_depth=5))
    file = quantise(
        from_sklearn(pipeline.fit(frame[:900], y[:900])), frame[:900], (frame[900:], y[900:])
    )
    assert tuple(feature.name for feature in file.features) == NAMES
    assert file.classes == ("fast", "slow")
    assert file.quantisation["source"] == "scikit-learn StandardScaler+DecisionTreeClassifier"


@pytest.mark.parametrize(
    ("estimator", "why"),
    [
        (GaussianNB(), "GaussianNB is not supported"),
        (make_pipeline(PolynomialFeatures(), LogisticRegression()), "PolynomialFeatures"),
        (
            make_pipeline(StandardScaler(), Normalizer(), LogisticRegression()),
            "before a normaliser",
        ),
        (make_pipeline(MinMaxScaler(clip=True), LogisticRegression()), "clip=True"),
        (GradientBoostingClassifier(n_estimators=2, init=LogisticRegression()), "as init"),
        (HistGradientBoostingClassifier(max_iter=2, categorical_features=[0]), "categorical"),
    ],
    ids=lambda value: called(value) if not isinstance(value, str) else "",
)
@pytest.mark.filterwarnings("ignore:lbfgs failed")
def test_what_is_not_supported_is_named(estimator: Any, why: str) -> None:
    estimator.fit(X, labels(X, 2))
    with pytest.raises(ModelError, match=why) as caught:
        from_sklearn(estimator)
    assert "\n" not in str(caught.value)


def test_what_is_not_fitted_is_refused() -> None:
    with pytest.raises(ModelError, match="not fitted"):
        from_sklearn(DecisionTreeClassifier())
    with pytest.raises(ModelError, match="dict is not supported"):
        from_sklearn({})
    with pytest.raises(ModelError, match="several outputs"):
        from_sklearn(DecisionTreeClassifier().fit(X, np.stack([labels(X, 2)] * 2, 1)))
