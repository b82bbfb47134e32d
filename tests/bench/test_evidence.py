# SPDX-License-Identifier: Apache-2.0
"""The bench of experiments: shares with intervals, families of noise, rivals, the result."""

import json

import numpy as np
import pytest

from kmind.bench import Share, evidence
from kmind.bench._noise import FAMILIES, SIGMA
from kmind.bench._rivals import mixture_t_keeps, peeking_t_keeps
from kmind.evidence import Noise


def test_a_share_has_wilsons_interval():
    # Wilson's example as worked out in Newcombe 1998 (Statistics in Medicine 17), table I.
    low, high = Share("kept", 81, 263).interval
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    low, high = Share("kept", 0, 20).interval
    assert (low, round(high, 4)) == (0, 0.1611)
    assert Share("kept", 0, 0).interval == (0, 1)


def test_normal_noise_is_as_large_as_it_says():
    noise = Noise()
    for value in np.exp(FAMILIES["normal"](np.random.default_rng(0), 500)):
        noise.learn_one(value)
    assert noise.sigma == pytest.approx(SIGMA, rel=0.15)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_drawn_anew_from_each_seed_alone(name):
    draw = FAMILIES[name]
    one = draw(np.random.default_rng(0), 100)
    assert one.shape == (100,)
    assert np.isfinite(one).all()
    assert np.array_equal(one, draw(np.random.default_rng(0), 100))
    assert not np.array_equal(one, draw(np.random.default_rng(1), 100))


def test_rivals_keep_a_plain_gain_and_drop_a_loss():
    noise = np.random.default_rng(0).normal(0, 0.1, 60)
    for keeps in (peeking_t_keeps, lambda pairs: mixture_t_keeps(pairs, 0.04)):
        assert keeps(noise + 0.3)
        assert not keeps(noise - 0.3)


def test_to_peek_at_an_interval_made_for_one_look_keeps_too_much():
    rng = np.random.default_rng(1)
    runs = [rng.normal(0, 1, 60) for _ in range(200)]
    assert sum(peeking_t_keeps(run) for run in runs) > 20  # the level would be five
    assert sum(mixture_t_keeps(run, 0.025) for run in runs) <= 14  # at 2.5%, more: 0.02%


def test_the_result_has_what_the_documentation_names(monkeypatch):
    monkeypatch.setattr(evidence, "FAMILIES", {"normal": FAMILIES["normal"]})
    monkeypatch.setattr(evidence, "_NOISES", ((0.05, 20),))
    monkeypatch.setattr(evidence, "_GROSS", (3.0,))
    real = evidence._run(evidence._series(FAMILIES["normal"], 0, 0), 1.0, (0, 0))
    monkeypatch.setattr(evidence, "real_aa", lambda runs, where: [real] * runs)
    result = evidence.run_evidence_bench(quick=True)
    assert (result["aa_runs_real"], len(result["real"]), result["real_lacks"]) == (4, 4, "")
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["schema"] == evidence.SCHEMA
    assert result["aa_runs"] - result["aa_runs_real"] == 40
    for name in ("aa_false_keep", "gain_kept", "loss_kept"):
        assert result[f"{name}_low"] <= result[name] <= result[f"{name}_high"]
        if name != "aa_false_keep":  # the real ones are among those
            assert result["families"][0][name] == result[name]
    assert result["gain_kept"] > result["aa_false_keep"]
    for rows in ("courses", "rivals", "noise", "gross"):
        assert len(result[rows]) == 1
