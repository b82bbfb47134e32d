# SPDX-License-Identifier: Apache-2.0
"""What a decision costs, and the gate that is built on it."""

import numpy as np
import pytest

from kmind.errors import ModelError
from kmind.infer.cost import check_budget, estimate_ns
from kmind.testing.models import random_mlp, random_trees


def test_more_work_costs_more() -> None:
    rng = np.random.default_rng(0)
    shapes = [(5, 8, 2), (5, 25, 15, 4), (31, 256, 2), (31, 512, 2)]
    nets = [estimate_ns(random_mlp(rng, shape, norms=False)) for shape in shapes]
    assert nets == sorted(nets)
    forests = [
        estimate_ns(random_trees(rng, trees, 6, 16, 1, complete=True, norms=False))
        for trees in (1, 10, 100, 400)
    ]
    assert forests == sorted(forests)
    assert forests[-1] > 20 * forests[0] > 0


def test_a_model_over_the_budget_is_refused() -> None:
    model = random_trees(np.random.default_rng(0), 100, 6, 16, 1, complete=True, norms=False)
    estimate = estimate_ns(model)
    assert check_budget(model, estimate) == estimate
    with pytest.raises(ModelError, match="budget is 10 ns"):
        check_budget(model, 10)
    with pytest.raises(ModelError):
        check_budget(model, float("nan"))
