# SPDX-License-Identifier: Apache-2.0
"""Noise of A/A blocks, and the smallest gain that can be seen in it."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmind.evidence import Design, Noise
from kmind.evidence.noise import log_ratio, robust_scale


def learnt(values):
    noise = Noise()
    for value in values:
        noise.learn_one(value)
    return noise


@pytest.mark.parametrize("sigma", [0.01, 0.1, 0.3])
def test_sigma_is_that_of_a_pairs_log_ratio(sigma):
    rng = np.random.default_rng(0)
    noise = learnt(np.exp(rng.normal(5, sigma / math.sqrt(2), 500)))
    assert noise.sigma == pytest.approx(sigma, rel=0.15)


def test_drift_is_not_noise():
    assert learnt(1000 * 0.99 ** np.arange(60)).sigma < 0.02


def test_one_stall_does_not_make_the_noise():
    rng = np.random.default_rng(1)
    values = list(100 + rng.normal(0, 2, 60))
    before = learnt(values).sigma
    values[30] = 0.5
    assert learnt(values).sigma < 1.5 * before


def test_little_is_not_enough_to_know():
    noise = learnt([100, 110, 90])
    assert noise.sigma is None
    assert noise.detectable(Design()) == math.inf
    assert Noise().level is None


def test_what_cannot_be_used_is_a_gap_and_no_pair_spans_it():
    noise = learnt([1, None, 1000, math.nan, 1, -5, 1000, math.inf, 1])
    assert noise.blocks == 5
    assert noise.sigma is None
    assert json.dumps(noise.to_dict())


def test_autocorrelation_makes_pairs_quieter():
    rng = np.random.default_rng(2)
    shocks = rng.normal(0, 0.05, 400)
    for index in range(1, 400):
        shocks[index] += 0.8 * shocks[index - 1]
    noise = learnt(np.exp(shocks))
    assert noise.sigma < math.sqrt(2) * shocks.std() / 1.5


@given(st.lists(st.floats(0.01, 1e6), min_size=6, max_size=40), st.floats(1e-3, 1e3))
def test_noise_has_no_unit(values, factor):
    one, other = learnt(values), learnt([factor * value for value in values])
    assert one.sigma == pytest.approx(other.sigma, rel=1e-6, abs=1e-9)
    assert Noise.from_dict(json.loads(json.dumps(one.to_dict()))).sigma == one.sigma


@given(st.floats(0, 1e300), st.floats(0, 1e300))
def test_a_log_ratio_is_bounded_and_turns_its_sign_with_its_sides(value, base):
    ratio = log_ratio(value, base)
    assert abs(ratio) <= math.log(1000)
    assert ratio == -log_ratio(base, value)
    assert (ratio > 0) == (value > base) or value == pytest.approx(base)


def test_a_scale_is_never_zero():
    assert robust_scale([]) > 0
    assert robust_scale([0.0] * 9) > 0
