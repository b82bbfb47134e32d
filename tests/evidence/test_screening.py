# SPDX-License-Identifier: Apache-2.0
"""Ending early what shows no promise, in the design that autotune has."""

import math
from dataclasses import replace

import numpy as np
import pytest

from kmind.bench._noise import FAMILIES
from kmind.evidence import Design, Experiment

# As modules/autotune makes it: 14 pairs of 1 s, beside 0.8 s of waiting; the first of all learns.
DESIGN = Design(block_s=1, wash_out_s=0.8, max_s=36 * 1.8, min_gain=0.01, screen_pairs=2)
WITHOUT = replace(DESIGN, screen_pairs=0)


def run(effect, seed, *, family="normal", design=DESIGN, sigma=0.08):
    """An experiment at its end, of a candidate that is ``effect`` times the incumbent."""
    logs = FAMILIES[family](np.random.default_rng((seed, 11)), design.max_blocks) * sigma / 0.08
    experiment = Experiment(design, np.random.default_rng((seed, 12)))
    for log in logs:
        if experiment.outcome is None:
            times = effect if experiment.arm == "candidate" else 1.0
            experiment.learn_one(100 * times * math.exp(log))
    return experiment


def of_each_family(effect, count, design=DESIGN):
    seeds = iter(range(10_000))
    return [
        run(effect, next(seeds), family=family, design=design)
        for family in FAMILIES
        for _ in range(count)
    ]


def outcomes(experiments):
    return [experiment.outcome for experiment in experiments]


def test_it_ends_early_and_rarely_keeps_what_does_nothing():
    screened = of_each_family(1, 40)
    assert outcomes(screened).count("gain") <= 0.05 * len(screened)
    without = of_each_family(1, 40, WITHOUT)
    pairs = [sum(one.pairs for one in each) for each in (screened, without)]
    assert pairs[0] < pairs[1] / 2
    # Ending early takes from the gains, and adds none.
    for one, other in zip(screened, without, strict=True):
        assert one.outcome != "gain" or (other.outcome == "gain" and one.blocks == other.blocks)


@pytest.mark.parametrize("effect", [0.95, 0.8])
def test_a_loss_is_never_kept(effect):
    assert "gain" not in outcomes(of_each_family(effect, 25))


@pytest.mark.parametrize(("effect", "least"), [(1.15, 30), (1.5, 39)])
def test_most_of_what_gains_much_is_kept(effect, least):
    assert outcomes(run(effect, seed) for seed in range(40)).count("gain") >= least


def after(*ratios):
    """An experiment without calibration to wait for, after pairs of these ratios."""
    experiment = Experiment(DESIGN, np.random.default_rng(3))
    for number in range(8):
        experiment.learn_one(100 + number % 2)
    for ratio in ratios:
        for _ in range(2):
            experiment.learn_one(100 * ratio if experiment.arm == "candidate" else 100)
    return experiment


def test_it_is_looked_at_when_the_pairs_have_doubled():
    assert after(0.98).outcome is None
    ended = after(0.98, 0.99)
    assert ended.outcome == "no change"
    assert ended.reason.startswith("a gain has become unlikely: ")
    assert after(1.03, 1.0, 0.95).outcome is None
    assert after(1.03, 1.0, 0.95, 1.0).reason.startswith("a gain has become unlikely: ")
    # The bar is what was asked for, not 1.
    assert after(1.005, 1.005).outcome == "no change"
    assert after(1.005, 1.02).outcome is None


def test_what_is_stored_says_so():
    stored = run(1, 5).to_dict()
    assert Experiment.from_dict(stored).design.screen_pairs == 2
    del stored["design"]["screen_pairs"]  # as it was stored before there was such a thing
    assert Experiment.from_dict(stored).design.screen_pairs == 0
