# SPDX-License-Identifier: Apache-2.0
"""The reference in numpy against the same rules in plain Python."""

import numpy as np
import pytest
import scalar_model
from hypothesis import given, settings
from hypothesis import strategies as st

from kmind.errors import ModelError
from kmind.infer.integer import IntMlp
from kmind.infer.integer_parts import Layer, Output
from kmind.infer.reference import evaluate
from kmind.testing.models import random_inputs, random_mlp, random_model, random_trees


@settings(max_examples=250, deadline=None)
@given(st.integers(0, 2**32), st.data())
def test_numpy_and_plain_python_say_the_same(seed: int, data: st.DataObject) -> None:
    """12 vectors each, one of them drawn: thousands of cases."""
    rng = np.random.default_rng(seed)
    model = random_model(rng)
    x = random_inputs(rng, model, 12)
    x[0] = data.draw(
        st.lists(
            st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-3, 3)),
            min_size=len(model.input),
            max_size=len(model.input),
        )
    )
    decisions = evaluate(model, x)
    for row, label, score, probability in zip(
        x.tolist(),
        decisions.label.tolist(),
        decisions.score.tolist(),
        decisions.probability.tolist(),
        strict=True,
    ):
        assert scalar_model.decide(model, row) == (label, score, probability)


def test_a_tie_goes_to_the_first_and_a_threshold_is_not_above_itself() -> None:
    rng = np.random.default_rng(0)
    stage = random_mlp(rng, (1, 1), norms=False).input
    one = np.ones((3, 1), np.int16)
    tie = IntMlp(stage, (Layer(one, np.zeros(3, np.int64)),), Output("argmax"))
    assert evaluate(tie, np.array([[5]])).label.tolist() == [0]
    flat = Layer(np.zeros((1, 1), np.int16), np.array([7]))
    for threshold, label in ((6, 1), (7, 0), (8, 0)):
        model = IntMlp(stage, (flat,), Output("threshold", threshold))
        assert evaluate(model, np.array([[5]])).label.tolist() == [label]


def test_unsigned_numbers_beyond_63_bits_are_the_largest_signed_one() -> None:
    rng = np.random.default_rng(3)
    model = random_trees(rng, 5, 4, 3, norms=False)
    large = np.array([[2**64 - 1, 2**63, 5]], np.uint64)
    capped = np.array([[2**63 - 1, 2**63 - 1, 5]], np.int64)
    assert np.array_equal(evaluate(model, large).score, evaluate(model, capped).score)


@pytest.mark.parametrize("x", [np.zeros((2, 9), int), np.zeros(3, int), np.zeros((2, 3))])
def test_what_is_no_vector_of_integers_is_refused(x: np.ndarray) -> None:
    with pytest.raises(ModelError, match="the model takes integers"):
        evaluate(random_trees(np.random.default_rng(1), features=3), x)
