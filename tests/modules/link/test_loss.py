# SPDX-License-Identifier: Apache-2.0
"""Losses have the shares and the bursts that were asked for."""

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmind.modules.link.loss import Loss

COUNT = 200_000


def losses(loss: Loss, *, seed: int = 3, parts: int = 7) -> np.ndarray:
    model = loss.start(np.random.SeedSequence(seed))
    return np.concatenate([model.lose(COUNT // parts) for _ in range(parts)])


@pytest.mark.parametrize(
    "loss",
    [
        Loss(0.02),
        Loss(1.0),
        Loss(0.0, 0.01, 0.25),
        Loss(0.001, 0.005, 0.1, 0.7),
        Loss(0.0, 1.0, 1.0),
        Loss(0.3, 0.3, 0.3, 0.3),
    ],
)
def test_the_share_is_that_of_the_model(loss: Loss) -> None:
    lost = losses(loss)
    # Bursts make neighbours alike, so fewer draws count: some 1 / turns_good packets are one.
    draws = COUNT * min(loss.turns_good, 1.0) / 2
    error = 5 * np.sqrt(loss.mean * (1 - loss.mean) / draws)
    assert abs(lost.mean() - loss.mean) <= error


def test_a_path_may_turn_bad_before_its_first_packet() -> None:
    first = [Loss(0.0, 0.5, 0.5).start(np.random.SeedSequence(seed)).lose(1) for seed in range(400)]
    assert abs(np.mean(first) - 0.5) < 0.15
    assert Loss(0.0, 1.0, 1.0).start(np.random.SeedSequence(1)).lose(4).tolist() == [1, 0, 1, 0]


def test_bursts_last_as_long_as_asked() -> None:
    lost = losses(Loss(0.0, 0.01, 0.2))
    bursts = [len(list(run)) for is_lost, run in groupby(lost.tolist()) if is_lost]
    gaps = [len(list(run)) for is_lost, run in groupby(lost.tolist()) if not is_lost]
    assert abs(np.mean(bursts) - 5) < 0.5
    assert abs(np.mean(gaps) - 100) < 10
    alone = losses(Loss(Loss(0.0, 0.01, 0.2).mean))
    singles = [len(list(run)) for is_lost, run in groupby(alone.tolist()) if is_lost]
    assert np.mean(singles) < 1.2


@given(
    st.sampled_from([Loss(0.3), Loss(0.1, 0.2, 0.4, 0.9), Loss(0.0, 1e-9, 1e-9)]),
    st.lists(st.integers(0, 30), max_size=10),
)
def test_batches_make_no_difference(loss: Loss, counts: list[int]) -> None:
    model = loss.start(np.random.SeedSequence(5))
    whole = loss.start(np.random.SeedSequence(5)).lose(sum(counts))
    assert [x for count in counts for x in model.lose(count).tolist()] == whole.tolist()


@pytest.mark.parametrize(
    "wrong",
    [{"good": 1.1}, {"good": -0.1}, {"bad": float("nan")}, {"turns_bad": 0.1, "turns_good": 0.0}],
)
def test_shares_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="loss: "):
        Loss(**wrong)
