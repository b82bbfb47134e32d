# SPDX-License-Identifier: Apache-2.0
"""The quantiser: what it chooses, what it reports, what it refuses."""

import numpy as np
import pandas as pd
import pytest
from model_data import NAMES, features, labels

from kmind.errors import ModelError
from kmind.infer import Feature, evaluate, quantise
from kmind.infer.floating import Dense, FloatMlp, Grower, Target
from kmind.infer.integer import IntMlp, IntTrees

X = features(6000)
TWO = Target("threshold", ("no", "yes"), 0.0, "logistic")


def network(seed: int = 0, hidden: int = 16, activation: str = "relu") -> FloatMlp:
    rng = np.random.default_rng(seed)
    first = Dense(rng.normal(size=(hidden, 4)), rng.normal(size=hidden), activation)  # type: ignore[arg-type]
    last = Dense(rng.normal(size=(1, hidden)), np.zeros(1))
    model = FloatMlp((first, last), TWO).scaled(1 / X.std(axis=0), -X.mean(axis=0) / X.std(axis=0))
    shift = Dense(last.weight, last.bias - np.median(model.scores(X)))
    return FloatMlp((model.layers[0], shift), TWO)


def stump(threshold: float) -> object:
    grower = Grower()
    grower.add([1, -1, -1], [threshold, 0, 0], [1, 0, 0], [2, 0, 0], [[0], [-1], [1]])
    return grower.trees(0.0, 4, TWO, single=False)


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh"])
def test_a_network_needs_no_multiplication_between_its_layers(activation: str) -> None:
    file = quantise(network(activation=activation), X)
    assert isinstance(file.model, IntMlp)
    step = file.model.layers[0].step
    assert step is not None
    assert (step.mul, step.lo) == (1, 0)
    assert file.quantisation["metric"] == "agreement"
    assert 0 <= file.quantisation["lost_points"] <= 0.5


def test_wider_numbers_lose_less() -> None:
    model = network()
    lost = [
        quantise(model, X, widths=widths, limit=100).quantisation["lost_points"]
        for widths in ((4, 3), (8, 7), (16, 15))
    ]
    assert lost[0] > lost[1] > lost[2]
    assert lost[2] < 0.2


def test_what_loses_more_than_the_limit_is_refused() -> None:
    with pytest.raises(ModelError, match=r"cost \d+\.\d\d points of agreement") as caught:
        quantise(network(), X, widths=(3, 2))
    assert "the limit is 0.5" in str(caught.value)
    assert quantise(network(), X, widths=(3, 2), limit=100).quantisation["lost_points"] > 0.5
    # A loss that is not a number is over any limit.
    with pytest.raises(ModelError):
        quantise(network(), X, limit=float("nan"))


def test_the_loss_is_measured_on_the_held_out_rows_alone() -> None:
    """Calibrated on a narrow range, and held against rows far outside of it."""
    narrow = X[np.abs(X[:, 2]) < 20]
    with pytest.raises(ModelError, match="balanced accuracy"):
        quantise(
            network(), narrow, (X, np.array(["no", "yes"])[(network().scores(X)[:, 0] > 0) * 1])
        )


def test_integer_thresholds_are_exact_at_the_edge() -> None:
    for threshold in (7.0, 7.5, -3.0, -3.25, 2.0**40 + 0.5):
        x = np.zeros((5, 4))
        x[:, 1] = np.floor(threshold) + np.arange(-2, 3)
        model = stump(threshold)
        file = quantise(model, x, features=[Feature(name) for name in NAMES])  # type: ignore[arg-type]
        expected = x[:, 1] > threshold
        assert np.array_equal(evaluate(file.model, x.astype(int)).label, expected)
        # Far outside too.
        far = np.full((2, 4), [[2**63 - 1], [-(2**63)]])
        assert evaluate(file.model, far).label.tolist() == [1, 0]


def test_units_are_those_of_the_agent() -> None:
    """Trained on milliseconds, decided on nanoseconds."""
    file = quantise(
        stump(1.5),  # type: ignore[arg-type]
        np.tile(np.linspace(0, 3, 30)[:, None], (1, 4)),
        features=[Feature(name, "ns", 1e-6) for name in NAMES],
    )
    x = np.zeros((2, 4), int)
    x[:, 1] = [1_500_000, 1_500_001]
    assert evaluate(file.model, x).label.tolist() == [0, 1]
    assert isinstance(file.model, IntTrees)
    assert file.features[1] == Feature("latency", "ns", 1e-6)


def test_thresholds_further_apart_than_32_bits_lose_nothing() -> None:
    grower = Grower()
    for edge in (0.0, 2.0**50):
        grower.add([1, -1, -1], [edge, 0, 0], [1, 0, 0], [2, 0, 0], [[0], [-1], [1]])
    model = grower.trees(-1.0, 4, TWO, single=False)
    x = np.zeros((4, 4))
    x[:, 1] = [-5, 5, 2.0**49, 2.0**51]
    file = quantise(model, x, limit=100)
    assert file.model.input.edges[1].tolist() == [0, 2**50]
    x[:, 1] = [-5, 5, 2.0**50, 2.0**50 + 1]
    assert evaluate(file.model, x.astype(int)).label.tolist() == [0, 0, 0, 1]


def test_tables_that_do_not_fit_are_refused() -> None:
    model = network()
    frame = pd.DataFrame(X, columns=NAMES)
    y = labels(X, 2)
    for calibration, held_out, why in (
        (X[:, :3], None, r"shape \(6000, 3\)"),
        (frame.rename(columns={"bytes": "other"}), None, "lacks the feature 'bytes'"),
        (np.where(X < -290, np.nan, X), None, "missing or not finite"),
        (X * 1e300, None, "too large|not finite"),
        (np.full((5, 4), "a"), None, "not a number"),
        (X[:1], None, "two rows"),
        (X, (X, y[:5]), "5 labels"),
        (X, (X[:0], y[:0]), "no held-out rows"),
        (X, (X, y), r"'[01]' is not one of the model's classes"),
    ):
        names = [Feature(name) for name in NAMES]
        with pytest.raises(ModelError, match=why):
            quantise(model, calibration, held_out, features=names)
    with pytest.raises(ModelError, match="2 features are named"):
        quantise(model, X, features=[Feature("a"), Feature("b")])
