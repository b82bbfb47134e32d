# SPDX-License-Identifier: Apache-2.0
"""Stages before a tree: what each operation gives, and the integers at their edges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmind.errors import ModelError
from kmind.infer.stages import DOUBLE, SINGLE, Stage, apply_stages, integer_edges

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)
FACTORS = st.floats(1e-3, 1e3)
INT64 = np.iinfo(np.int64)


@pytest.mark.parametrize(
    ("stage", "wanted"),
    [
        (Stage("round", single=True), [1.0, float(np.float32(0.1))]),
        (Stage("add", [1.0, 2.0]), [2.0, 2.1]),
        (Stage("sub", [1.0, 2.0]), [0.0, -1.9]),
        (Stage("mul", 2.0), [2.0, 0.2]),
        (Stage("div", [2.0, 1.0]), [0.5, 0.1]),
        (Stage("clip", [0.5, 0.75]), [0.75, 0.5]),
    ],
)
def test_each_operation(stage: Stage, wanted: list[float]) -> None:
    x = np.array([1.0, 0.1])
    assert stage(x[None, :])[0].tolist() == pytest.approx(wanted)
    assert stage(x, np.array([0, 1])).tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("op", ["mul", "div"])
@pytest.mark.parametrize("value", [0.0, -1.0, [1.0, -1.0], float("nan")])
def test_factor_that_turns_the_order_round_is_refused(op: str, value: object) -> None:
    with pytest.raises(ModelError, match="not positive"):
        Stage(op, value)  # type: ignore[arg-type]


def test_constant_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ModelError, match="not finite"):
        Stage("add", float("inf"))


@given(threshold=NUMBERS, shift=NUMBERS, factor=FACTORS, single=st.booleans())
def test_edge_is_the_last_integer_that_goes_left(
    threshold: float, shift: float, factor: float, single: bool
) -> None:
    stages = (Stage("sub", shift, single), Stage("mul", factor, single))
    edge, always, never = integer_edges(stages, np.ones(1), np.array([0]), np.array([threshold]))
    assert not always[0]
    assert not never[0]
    sides = apply_stages(stages, np.array([edge[0], edge[0] + 1])) <= np.float64(threshold)
    assert sides.tolist() == [True, False]


@pytest.mark.parametrize("stages", [SINGLE, DOUBLE])
def test_threshold_beyond_all_integers(stages: tuple[Stage, ...]) -> None:
    feature, scale = np.zeros(2, int), np.ones(1)
    edge, always, never = integer_edges(stages, scale, feature, np.array([1e30, -1e30]))
    assert always.tolist() == [True, False]
    assert never.tolist() == [False, True]
    assert edge[0] == INT64.max


@given(st.integers(INT64.min // 4, INT64.max // 4), FACTORS)
def test_scale_is_the_worth_of_one_integer(threshold: int, scale: float) -> None:
    edge, always, never = integer_edges(
        DOUBLE, np.array([scale]), np.array([0]), np.array([float(threshold)])
    )
    if not (always[0] or never[0]):
        assert float(edge[0]) * scale <= float(threshold)
