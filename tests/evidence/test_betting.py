# SPDX-License-Identifier: Apache-2.0
"""Bets are fair, whatever the noise: counted over all orders of the arms, not sampled."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmind.evidence import Design
from kmind.evidence._verdict import Judge
from kmind.evidence.betting import Bet, Bets, detectable_delta, strengths

SIZES = st.lists(st.floats(0, 5), min_size=1, max_size=6)
PAIRS = st.lists(st.floats(-5, 5), min_size=1, max_size=12)


def judges(sizes, effect=0.0):
    """One judge for each of the orders that coins could have given the same noise."""
    for signs in itertools.product((-1, 1), repeat=len(sizes)):
        judge = Judge(Design(), 0.5)
        for sign, size in zip(signs, sizes, strict=True):
            judge.learn_one(effect + sign * size)
        yield judge


@settings(max_examples=15, deadline=None)
@given(SIZES)
def test_nobody_wins_on_average_without_an_effect(sizes):
    wealth = [math.exp(judge._gain.log_wealth) for judge in judges(sizes)]
    assert np.mean(wealth) == pytest.approx(1)
    assert np.mean([math.exp(judge._loss.log_wealth) for judge in judges(sizes)]) == pytest.approx(
        1
    )


@settings(max_examples=15, deadline=None)
@given(SIZES, st.floats(0, 3))
def test_who_bets_on_a_gain_loses_on_average_when_there_is_a_loss(sizes, loss):
    wealth = [math.exp(judge._gain.log_wealth) for judge in judges(sizes, -loss)]
    assert np.mean(wealth) <= 1 + 1e-9


@pytest.mark.parametrize("size", [0.1, 0.5, 20.0])
def test_of_all_orders_no_more_than_the_error_allows_are_taken_for_a_gain(size):
    seen = list(judges([size] * 8))
    gains = sum(judge._gain.refuted(0.04) for judge in seen)
    assert gains <= 0.04 * len(seen)
    assert gains > 0 or size < 0.5, "the most lucky order must be a gain"


@settings(deadline=None)
@given(PAIRS, st.floats(0.01, 2))
def test_an_interval_is_what_single_bets_have_not_refuted(pairs, scale):
    strength = strengths(100)
    bets = Bets(strength)
    for difference in pairs:
        bets.learn_one(difference, scale)
    low, high = bets.low(0.04), bets.high(0.01)
    for end, level, above, outwards in ((low, 0.04, True, -1), (high, 0.01, False, 1)):
        for distance in (0.001, -0.001) if math.isfinite(end) else ():
            bet = Bet(end + outwards * distance, strength, above=above)
            for difference in pairs:
                bet.learn_one(difference, scale)
            assert bet.refuted(level) == (distance > 0)


@settings(deadline=None)
@given(PAIRS)
def test_an_interval_never_widens(pairs):
    bets, ends = Bets(strengths(100)), []
    for difference in pairs:
        bets.learn_one(difference, 0.2)
        ends.append((bets.low(0.04), bets.high(0.01)))
    lows, highs = zip(*ends, strict=True)
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(lows))
    assert all(a >= b - 1e-9 for a, b in itertools.pairwise(highs))


def test_more_pairs_find_less_and_too_few_find_nothing():
    found = [detectable_delta(pairs, 0.04) for pairs in (4, 6, 10, 30, 100, 1000)]
    assert found[0] == math.inf, "not even two to the fourth is 25"
    assert all(a > b for a, b in itertools.pairwise(found))
    assert detectable_delta(30, 0.01) > detectable_delta(30, 0.04)


def test_the_interval_holds_a_planted_effect():
    missed = 0
    for seed in range(100):
        rng, bets = np.random.default_rng(seed), Bets(strengths(30))
        for difference in 0.3 + 0.1 * rng.standard_t(3, 30):
            bets.learn_one(difference, 0.1)
        missed += not bets.low(0.04) <= 0.3 <= bets.high(0.01)
    assert missed <= 12  # of 100, at an error of 5%: more has probability 0.2%
