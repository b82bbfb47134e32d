# SPDX-License-Identifier: Apache-2.0
"""Experiments from the first block to the verdict, on made-up noise."""

import json

import numpy as np
import pytest

from kmind.errors import UsageError
from kmind.evidence import Design, Experiment, Guard, Noise


def run(effect, *, seed=0, sigma=0.05, design=None, **more):
    """Run one on log-normal blocks whose candidate is ``effect`` times the incumbent."""
    rng = np.random.default_rng(seed)
    experiment = Experiment(design or Design(), rng, **more)
    while experiment.outcome is None:
        factor = effect if experiment.arm == "candidate" else 1.0
        experiment.learn_one(1000 * factor * float(np.exp(rng.normal(0, sigma))))
    return experiment


@pytest.mark.parametrize("effect", [1.5, 3, 60])
def test_a_gross_gain_is_seen_within_six_pairs(effect):
    for seed in range(20):
        experiment = run(effect, seed=seed)
        assert experiment.outcome == "gain"
        assert experiment.pairs <= 6


def test_a_tenfold_loss_is_cut_at_the_first_block_of_the_candidate():
    for seed in range(20):
        experiment = run(0.1, seed=seed)
        assert experiment.outcome == "aborted"
        assert [arm for arm, _ in experiment.blocks].count("candidate") == 1


@pytest.mark.parametrize("effect", [1, 1.05, 0.9, 0.2])
def test_what_is_stored_reads_back_as_it_was(effect):
    experiment = run(effect, guards=[Guard("psi", "lower", 2, slack=5)] if effect == 0.9 else [])
    stored = json.loads(json.dumps(experiment.to_dict()))
    assert Experiment.from_dict(stored).to_dict() == stored


def test_nothing_is_learnt_after_the_end():
    experiment = run(3)
    with pytest.raises(UsageError, match="over"):
        experiment.learn_one(1.0)


def test_known_noise_spares_the_calibration():
    noise = Noise()
    for value in np.random.default_rng(1).normal(100, 5, 40):
        noise.learn_one(value)
    experiment = run(1.5, noise=noise)
    assert experiment.calibration == 0
    assert len(experiment.blocks) <= 12
    assert 1 < noise.detectable(Design()) < 1.1
