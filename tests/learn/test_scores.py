# SPDX-License-Identifier: Apache-2.0
"""Scores and their intervals."""

import numpy as np
import pytest

from kmind.learn.scores import balanced_accuracy, blocks_of, score


def test_scores() -> None:
    truth = np.array([0, 0, 0, 1])
    assert balanced_accuracy(truth, np.array([0, 0, 0, 0])) == 0.5
    payoff = np.array([[1, 0.5]] * 3 + [[0.2, 1]])
    blocks = blocks_of(np.zeros(4), np.arange(4.0), 1.0)
    found = score(truth, np.array([0, 0, 1, 0]), payoff, blocks, 0)
    assert found["accuracy"]["value"] == 0.5
    assert found["payoff"]["value"] == pytest.approx((1 + 1 + 0.5 + 0.2) / 4)
    assert score(truth, truth, payoff, blocks[:3], 0)["accuracy"]["interval"] is None


def test_intervals_cover_where_neighbours_resemble_each_other() -> None:
    """Rows come in runs of one outcome: intervals by rows would be far too narrow."""
    covered = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        right = np.repeat(rng.random(60) < 0.7, 10)
        truth = np.zeros(600, np.int64)
        blocks = blocks_of(np.zeros(600), np.arange(600.0), 10.0)
        low, high = score(truth, (~right).astype(int), None, blocks, seed)["accuracy"]["interval"]
        covered += low <= 0.7 <= high
    assert covered >= 24  # of 30 at 95%: below that once in 1,500; by rows it were 13
