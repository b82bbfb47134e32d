# SPDX-License-Identifier: Apache-2.0
"""The paired trial: what it concludes, and how often it is wrong."""

import math

import numpy as np
import pytest

from kmind.modules.readahead.trial import Trial


def _run(ratio: float, noise: float, rng: np.random.Generator) -> str:
    trial = Trial(16, 8192, min_gain=0.05)
    while trial.outcome is None:
        factor = ratio if trial.next_value == trial.candidate else 1.0
        trial.learn_one(1000 * factor * float(rng.lognormal(0, noise)))
    return trial.outcome


def test_blocks_alternate_from_the_incumbent() -> None:
    trial = Trial(16, 8192, min_gain=0.05)
    values = []
    for _ in range(6):
        values.append(trial.next_value)
        trial.learn_one(100.0)
    assert values == [8192, 16] * 3


@pytest.mark.parametrize("ratio", [1.5, 3.0, 60.0])
def test_a_clear_gain_is_found(ratio: float) -> None:
    rng = np.random.default_rng(1)
    outcomes = [_run(ratio, 0.02, rng) for _ in range(200)]
    assert outcomes.count("gain") > 190


def test_a_much_slower_first_block_ends_the_trial_at_once() -> None:
    trial = Trial(16, 8192, min_gain=0.05)
    trial.learn_one(1000.0)
    trial.learn_one(600.0)
    assert trial.outcome == "loss"


def test_equal_values_are_rarely_a_gain() -> None:
    rng = np.random.default_rng(2)
    for noise in (0.02, 0.1, 0.3):
        outcomes = [_run(1.0, noise, rng) for _ in range(1000)]
        assert outcomes.count("gain") <= 25, (noise, outcomes.count("gain"))


def test_a_loss_is_never_a_gain() -> None:
    rng = np.random.default_rng(3)
    assert "gain" not in {_run(0.9, 0.05, rng) for _ in range(500)}


def test_the_interval_is_students() -> None:
    trial = Trial(16, 8192, min_gain=0.05)
    for before, after in ((100, 200), (100, 220), (100, 180)):
        trial.learn_one(before)
        trial.learn_one(after)
    effect = trial.effect
    assert effect is not None
    logs = [math.log((after + 0.5) / 100.5) for after in (200, 220, 180)]
    mean = sum(logs) / 3
    deviation = math.sqrt(sum((x - mean) ** 2 for x in logs) / 2)
    assert effect.ratio == pytest.approx(math.exp(mean))
    # scipy.stats.t.ppf(1 - 0.05 / 2 / 4, 2) is 8.8602
    assert effect.low == pytest.approx(math.exp(mean - 8.860 * deviation / math.sqrt(3)))
    assert effect.high == pytest.approx(math.exp(mean + 8.860 * deviation / math.sqrt(3)))


def test_silence_on_both_sides_is_no_gain() -> None:
    trial = Trial(16, 8192, min_gain=0.05)
    while trial.outcome is None:
        trial.learn_one(0.0)
    assert trial.outcome == "no change"
