# SPDX-License-Identifier: Apache-2.0
"""The reference in numpy against the same rules in plain Python."""

import numpy as np
import pytest
import scalar_model
from hypothesis import given, settings
from hypothesis import strategies as st

from kmind.errors import ModelError
from kmind.infer.integer import IntMlp, IntTrees
from kmind.infer.integer_parts import Input, Layer, Output, Step
from kmind.infer.reference import evaluate
from kmind.infer.slot import NODE, read_slot, slot_bytes
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


def test_random_models_are_not_all_alike() -> None:
    """What tests evaluators must itself reach both labels, tables, norms and saturation."""
    seen: set[str] = set()
    for seed in range(300):
        rng = np.random.default_rng(seed)
        model = random_model(rng)
        decisions = evaluate(model, random_inputs(rng, model, 60))
        kind = type(model).__name__
        seen |= {kind, model.output.kind, model.input.norm}
        if len(np.unique(decisions.label)) > 1:
            seen.add(f"{kind} {model.output.kind} varies")
        if len(np.unique(decisions.probability)) > 2:
            seen.add(f"{kind} probability varies")
        if isinstance(model, IntMlp):
            seen |= {
                "table" for layer in model.layers if layer.step and layer.step.table is not None
            }
        else:
            seen.add(f"width {min(model.width, 2)}")
    assert seen == {
        "IntMlp", "IntTrees", "value", "threshold", "argmax", "none", "l1", "l2", "max",
        "table", "width 1", "width 2",
        *(f"{kind} {output} varies" for kind in ("IntMlp", "IntTrees")
          for output in ("threshold", "argmax")),
        *(f"{kind} probability varies" for kind in ("IntMlp", "IntTrees")),
    }  # fmt: skip


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


def test_a_slot_holds_the_whole_model() -> None:
    for seed in range(60):
        rng = np.random.default_rng(seed)
        model = random_model(rng)
        plain = slot_bytes(model, bytes(range(32)))
        back = read_slot(plain)
        assert slot_bytes(back, bytes(range(32))) == plain
        x = random_inputs(rng, model, 20)
        assert np.array_equal(evaluate(back, x).score, evaluate(model, x).score)
    assert NODE.itemsize == 16


def good() -> IntTrees:
    return random_trees(np.random.default_rng(5), 3, 3, 4, 2, complete=True, norms=False)


FIELDS = ("root", "output_of", "feature", "threshold", "left", "right", "leaf", "base")


@pytest.mark.parametrize(
    ("field", "place", "value", "why"),
    [
        ("left", 0, 0, "child"),
        ("right", 0, 10**6, "child"),
        ("left", 0, 2, "parent"),
        ("feature", 0, 4, "feature"),
        ("feature", 0, -2, "feature"),
        ("output_of", 1, 2, "score"),
        ("root", 1, 1, "child|parent"),
        ("base", 0, 2**31, "begin"),
        ("leaf", 0, -(2**31), "32 bits"),
    ],
)
def test_trees_that_point_astray_are_refused(field: str, place: int, value: int, why: str) -> None:
    model = good()
    arrays = {name: np.array(getattr(model, name)) for name in FIELDS}
    arrays[field].reshape(-1)[place] = value
    with pytest.raises(ModelError, match=why):
        IntTrees(input=model.input, output=model.output, **arrays)


def test_roots_whose_differences_wrap_are_refused() -> None:
    model = good()
    arrays = {name: np.array(getattr(model, name)) for name in FIELDS}
    arrays["root"] = np.array([0, 1 << 25, -(1 << 31) + (1 << 24)], np.int32)
    with pytest.raises(ModelError, match="not in order"):
        IntTrees(input=model.input, output=model.output, **arrays)


def test_what_could_overflow_is_refused() -> None:
    one, zero = np.ones(1, np.int32), np.zeros(1, np.int64)
    far = np.array([2**62])
    with pytest.raises(ModelError, match="32 bits"):
        Input(zero, far, zero, zero, one, np.zeros(1, np.int32))
    with pytest.raises(ModelError, match="64 bits"):
        Input(zero, far, zero, zero, one * 9, one * 62)
    stage = Input(zero, zero + 32767, zero, zero, one, np.zeros(1, np.int32))
    wide = np.full((1, 1), 32767, np.int16)
    with pytest.raises(ModelError, match="64 bits"):
        IntMlp(
            stage,
            (
                Layer(wide, np.array([2**45]), Step(2**30, 0, 40, 0, 1)),
                Layer(wide, np.array([0])),
            ),
            Output("value"),
        )
    with pytest.raises(ModelError, match="0 to 32767"):
        IntMlp(
            Input(zero - 1, zero, zero, zero, one, np.zeros(1, np.int32)),
            (Layer(wide, zero),),
            Output("value"),
        )
