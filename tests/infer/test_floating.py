# SPDX-License-Identifier: Apache-2.0
"""Float models: what importers may build, and what they refuse."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmind.errors import ModelError
from kmind.infer.floating import Dense, FloatMlp, FloatTrees, Grower, Sums, Target, normalise
from kmind.infer.stages import Stage

TWO = Target("threshold", ("no", "yes"), 0.0, "logistic")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 3))


def network(*widths: int, activation: Any = "relu") -> FloatMlp:
    layers = tuple(
        Dense(RNG.normal(size=(out, into)), RNG.normal(size=out), activation)
        for into, out in itertools.pairwise(widths)
    )
    return FloatMlp(layers, TWO)


def stump(threshold: float = 0.5, feature: int = 0, **more: Any) -> FloatTrees:
    grower = Grower()
    grower.add([feature, -1, -1], [threshold, 0, 0], [1, 0, 0], [2, 0, 0], [[0], [-1], [1]])
    return grower.trees(0.0, 3, TWO, **more)


def test_layers_without_activation_are_merged_and_decide_alike() -> None:
    linear = network(3, 4, 2, activation="identity")
    relu = network(2, 5, 1)
    model = FloatMlp((*linear.layers, *relu.layers), TWO)
    merged = model.merged()
    assert len(merged.layers) == 2
    assert np.allclose(model.scores(X), merged.scores(X))


def test_scaler_is_folded_into_the_first_layer() -> None:
    model, factor, shift = network(3, 4, 1), np.array([2.0, 0.5, 1.0]), np.array([1.0, 0.0, -1.0])
    assert np.allclose(model.scaled(factor, shift).scores(X), model.scores(X * factor + shift))


def test_scaler_before_a_normaliser_is_refused() -> None:
    normed = FloatMlp(network(3, 1).layers, TWO, norm="l2")
    with pytest.raises(ModelError, match="before a normaliser"):
        normed.scaled(np.ones(3), np.zeros(3))
    with pytest.raises(ModelError, match="before a normaliser"):
        stump(norm="l2").staged(Stage("add", 1.0))


@pytest.mark.parametrize(
    "layers",
    [
        (Dense(np.ones((2, 3)), np.ones(2)), Dense(np.ones((1, 4)), np.ones(1))),
        (Dense(np.ones((2, 3)), np.ones(1)),),
        (Dense(np.array([[np.nan]]), np.ones(1)),),
        (Dense(np.ones((1, 1)), np.array([np.inf])),),
    ],
)
def test_network_that_does_not_fit_is_refused(layers: tuple[Dense, ...]) -> None:
    with pytest.raises(ModelError, match="the network"):
        FloatMlp(layers, TWO)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"threshold": float("nan")}, "no numbers"),
        ({"feature": 3}, "missing feature"),
        ({"last": float("inf")}, "not finite"),
    ],
)
def test_trees_that_cannot_decide_are_refused(words: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        stump(**words)


def test_nodes_in_a_circle_are_refused() -> None:
    with pytest.raises(ModelError, match="in a circle"):
        Grower().add([0, 0], [1.0, 1.0], [1, 0], [1, 0], [[0], [0]])


def test_nodes_may_come_in_any_order() -> None:
    grower = Grower()
    grower.add([0, -1, -1], [0.5, 0, 0], [2, 0, 0], [1, 0, 0], [[0], [1], [-1]])
    assert np.array_equal(grower.trees(0.0, 3, TWO).labels(X), stump().labels(X))


def test_deep_tree_does_not_exhaust_the_stack() -> None:
    deep = 20_000
    feature = [0, -1] * deep + [-1]
    left = [n + 1 for n in range(len(feature))]
    right = [n + 2 for n in range(len(feature))]
    grower = Grower()
    grower.add(feature, [0.0] * len(feature), left, right, [[1.0]] * len(feature))
    assert grower.trees(0.0, 1, TWO).depth == deep


def test_of_two_that_are_as_good_as_equal_the_first_is_taken() -> None:
    grower = Grower()
    grower.add([-1], [0], [0], [0], [[1.0, 1.0 + 1e-9]])
    target = Target("argmax", ("a", "b"))
    sums = np.zeros(2)
    assert grower.trees(sums, 3, target, single=False).labels(X).tolist() == [1] * 50
    tied = grower.trees(sums, 3, target, single=False, sums=Sums(tie=1e-6))
    assert tied.labels(X).tolist() == [0] * 50
    assert (tied.scores(X).argmax(axis=1) == 0).all()


@given(st.sampled_from(["l1", "l2", "max"]), st.integers(0, 49))
def test_normalised_rows_have_size_one(norm: Any, row: int) -> None:
    done = normalise(norm, X)[row]
    size = {"l1": np.abs(done).sum(), "l2": np.sqrt((done**2).sum()), "max": np.abs(done).max()}
    assert size[norm] == pytest.approx(1)


def test_row_of_zeros_stays_one() -> None:
    assert normalise("l2", np.zeros((1, 3))).tolist() == [[0, 0, 0]]


def test_probability_by_the_link() -> None:
    scores = np.array([[-1e9], [0.0], [0.25], [1e9]])
    assert TWO.probability(scores).tolist() == pytest.approx([0, 0.5, 0.5621765, 1])
    assert Target("threshold", link="share").probability(scores).tolist() == [0, 0, 0.25, 1]
