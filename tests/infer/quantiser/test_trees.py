# SPDX-License-Identifier: Apache-2.0
"""Trees brought to integers: thresholds and edges."""

from typing import Any

import numpy as np
import pytest
from infer.agreed import whole
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from kmind.infer import (
    evaluate,
    from_sklearn,
)
from kmind.infer.floating import FloatTrees
from kmind.infer.integer import IntTrees
from kmind.infer.quantiser._integers import integer_trees
from kmind.infer.quantiser.agreement import edge_rows
from kmind.infer.stages import DOUBLE, SINGLE, integer_edges

ONE = np.ones(1)


def test_tree_that_asks_first_whether_a_number_is_missing() -> None:
    rng = np.random.default_rng(0)
    latency = rng.integers(100, 1000, 60).astype(float)
    missing = rng.random(60) < 0.4
    x = np.where(missing, np.nan, latency)[:, None]
    y = np.where(missing, 1, (latency > 500) & (latency < 700)).astype(int)
    tree = DecisionTreeClassifier(random_state=0).fit(x, y)
    assert np.isinf(tree.tree_.threshold).any()
    ask = np.arange(100, 1000, 50)[:, None]
    assert whole(tree, ask) == tree.predict(ask).tolist()
    assert sum(whole(tree, ask)) == 4


@pytest.mark.parametrize("scaler", [MinMaxScaler(), MinMaxScaler(clip=True), StandardScaler()])
def test_middle_between_two_values_behind_a_scaler(scaler: Any) -> None:
    differ = 0
    for size in (16, 24, 48, 100, 512, 4096):
        x, y = np.array([[8], [size], [2 * size], [9000]] * 3), np.array([0, 0, 1, 1] * 3)
        model = make_pipeline(scaler, DecisionTreeClassifier()).fit(x, y)
        ask = np.arange(8, 3 * size)[:, None]
        differ += int((np.array(whole(model, ask)) != model.predict(ask)).sum())
    assert not differ


@pytest.mark.parametrize(("stages", "kind"), [(SINGLE, np.float32), (DOUBLE, np.float64)])
def test_edges_are_the_last_integers_that_the_library_sends_left(stages: Any, kind: Any) -> None:
    rng = np.random.default_rng(0)
    sizes = rng.choice([1.0, 1e6, 1e9, 8.64e13, 1e17, 1e18], 300)
    threshold = (rng.normal(0, 1, 300) * sizes).astype(kind).astype(np.float64)
    feature = np.zeros(300, np.int64)
    edge, always, never = integer_edges(stages, ONE, feature, threshold)
    here = ~(always | never)
    assert here.all()
    assert (edge.astype(kind) <= threshold).all()
    assert ((edge + 1).astype(kind) > threshold).all()
    ends = np.array([np.inf, -np.inf, 1e30, -1e30, 2.0**63])
    _, always, never = integer_edges(stages, ONE, np.zeros(5, np.int64), ends)
    assert always.tolist() == [True, False, True, False, True]
    assert never.tolist() == [False, True, False, True, False]


def test_rows_at_thresholds_are_on_both_sides_of_each() -> None:
    x = np.array([[0], [10], [20], [30]])
    model = from_sklearn(DecisionTreeClassifier().fit(x, [0, 1, 0, 1]))
    assert isinstance(model, FloatTrees)
    rows = edge_rows(model, ONE, x, 100)[:, 0].tolist()
    assert {4, 5, 6, 14, 15, 16, 24, 25, 26} <= set(rows)


def test_thresholds_over_more_than_32_bits_are_searched_for() -> None:
    x = np.array([[-(1 << 60)], [-5], [7], [1 << 40], [1 << 61]])
    tree = DecisionTreeClassifier().fit(x, [0, 1, 0, 1, 0])
    model = integer_trees(from_sklearn(tree), ONE)
    assert isinstance(model, IntTrees)
    assert len(model.input.edges[0]) == 4
    assert evaluate(model, x).label.tolist() == [0, 1, 0, 1, 0]
