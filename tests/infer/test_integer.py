# SPDX-License-Identifier: Apache-2.0
"""Integer models that point astray or overflow are refused."""

import numpy as np
import pytest

from kmind.errors import ModelError
from kmind.infer.integer import IntTrees
from kmind.testing.models import random_trees


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
