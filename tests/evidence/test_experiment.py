# SPDX-License-Identifier: Apache-2.0
"""Experiments from the first block to the verdict, on made-up noise."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmind.bench._noise import FAMILIES
from kmind.errors import UsageError
from kmind.evidence import Design, Experiment, Guard, Noise

READINGS = st.one_of(st.none(), st.just(math.nan), st.just(0.0), st.floats(0, 1e9))


def finish(experiment, block):
    """Run it to its end; ``block`` gives a value for each arm."""
    while experiment.outcome is None:
        experiment.learn_one(block(experiment.arm))
    return experiment


def run(effect, *, seed=0, sigma=0.05, family=None, design=None, **more):
    """Run one whose candidate is ``effect`` times the incumbent; a pair has noise ``sigma``."""
    design = design or Design()
    rng = np.random.default_rng((seed, 1))
    logs = iter((family or FAMILIES["normal"])(rng, design.max_blocks) * sigma / 0.08)

    def block(arm):
        return 1000 * math.exp(next(logs)) * (effect if arm == "candidate" else 1.0)

    return finish(Experiment(design, np.random.default_rng((seed, 2)), **more), block)


@pytest.mark.parametrize("effect", [1.5, 3, 60])
def test_a_gross_gain_is_seen_within_six_pairs(effect):
    for seed in range(20):
        experiment = run(effect, seed=seed)
        assert experiment.outcome == "gain"
        assert experiment.pairs <= 6
        assert experiment.interval.low > 1


def test_a_tenfold_loss_is_cut_at_the_first_block_of_the_candidate():
    for seed in range(20):
        experiment = run(0.1, seed=seed)
        assert experiment.outcome == "aborted"
        assert [arm for arm, _ in experiment.blocks].count("candidate") == 1


def test_a_loss_is_called_one():
    experiment = run(0.8)
    assert experiment.outcome == "loss"
    assert experiment.interval.high < 1
    assert experiment.reason.startswith("the candidate is worse beyond noise: effect x0.")


def test_runs_without_an_effect_are_rarely_kept():
    # No seed serves two families: with the same coins they would be lucky together.
    seeds = itertools.count()
    kept = [
        run(1, seed=next(seeds), sigma=0.08, family=family).outcome == "gain"
        for family in FAMILIES.values()
        for _ in range(25)
    ]
    # At a true rate of 4% more than 24 of 300 have probability 0.05%.
    assert sum(kept) <= 24


def test_most_gains_of_five_percent_are_kept_within_a_minute():
    experiments = [run(1.05, seed=seed, sigma=0.08) for seed in range(60)]
    # At a true rate of 80% fewer than 38 of 60 have probability 0.1%.
    assert sum(one.outcome == "gain" for one in experiments) >= 38
    assert all(len(one.blocks) * one.design.period_s <= 60 for one in experiments)


def test_losses_of_five_percent_are_not_kept():
    assert not any(run(0.95, seed=seed, sigma=0.08).outcome == "gain" for seed in range(60))


def test_what_was_said_to_be_detectable_is_found():
    found = 0
    for seed in range(40):
        said = run(1, seed=seed, sigma=0.1).detectable
        assert 1.01 < said < 1.3
        found += run(said, seed=seed, sigma=0.1).outcome == "gain"
    # At a true rate of 80% fewer than 23 of 40 have probability 0.03%.
    assert found >= 23


def test_without_hope_it_ends_before_its_time():
    blocks = [len(run(1, seed=seed).blocks) for seed in range(20)]
    assert np.median(blocks) < Design().max_blocks / 2


def test_arms_that_take_turns_with_a_period_of_the_load_do_not_fool_it():
    def periodic(rng, blocks):
        return rng.normal(0, 0.01, blocks) + 0.2 * (np.arange(blocks) % 2)

    outcomes = [run(1, seed=seed, sigma=0.08, family=periodic).outcome for seed in range(40)]
    assert outcomes.count("gain") <= 6  # at 4%, more has probability 0.1%


@pytest.mark.parametrize("seed", range(4))
def test_each_pair_has_both_arms_and_a_coin_says_which_first(seed):
    arms = [arm for arm, _ in run(1, seed=seed, design=Design(calibration=2)).blocks]
    assert arms[:2] == ["incumbent"] * 2
    arms = arms[2:]
    pairs = list(zip(arms[::2], arms[1::2], strict=True))
    assert all(len(set(pair)) == 2 for pair in pairs)
    firsts = [first for first, _ in pairs].count("candidate")
    assert 2 <= firsts <= len(pairs) - 2


def test_the_bar_of_a_gain_can_be_raised():
    assert run(1.2, design=Design(min_gain=0.1)).outcome == "gain"
    assert run(1.2).pairs < run(1.2, design=Design(min_gain=0.1)).pairs
    assert run(1.05, design=Design(min_gain=0.3)).outcome == "no change"


def test_lower_may_be_better():
    assert run(0.5, design=Design(better="lower")).outcome == "gain"
    assert run(1.5, design=Design(better="lower")).outcome == "loss"
    assert run(10, design=Design(better="lower")).outcome == "aborted"


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.floats(0.8, 1.3), st.floats(1e-3, 1e3))
def test_neither_unit_nor_direction_matters(seed, effect, factor):
    def outcome(design, turn):
        rng = np.random.default_rng((seed, 1))

        def block(arm):
            return turn(
                1000 * math.exp(rng.normal(0, 0.05)) * (effect if arm == "candidate" else 1)
            )

        return finish(Experiment(design, np.random.default_rng((seed, 2))), block)

    one = outcome(Design(), lambda value: value)
    other = outcome(Design(better="lower"), lambda value: factor / value)
    assert one.outcome == other.outcome
    assert one.interval.low == pytest.approx(other.interval.low, rel=1e-6)
    assert one.interval.ratio == pytest.approx(other.interval.ratio, rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(READINGS, min_size=150, max_size=150), st.integers(0, 9), READINGS)
def test_any_readings_come_to_an_end_in_time(readings, seed, guarded):
    design = Design()
    experiment = Experiment(
        design, np.random.default_rng(seed), guards=[Guard("psi", "lower", 3, slack=1)]
    )
    for reading in readings:
        experiment.learn_one(reading, {"psi": guarded})
        interval = experiment.interval
        if interval is not None:
            assert 0 <= interval.low <= interval.ratio <= interval.high
            assert (experiment.outcome == "gain") <= (interval.low > 1)
        if experiment.outcome is not None:
            break
    assert experiment.outcome in ("gain", "loss", "no change", "aborted")
    assert experiment.reason
    stored = json.loads(json.dumps(experiment.to_dict(), allow_nan=False))
    assert Experiment.from_dict(stored).to_dict() == stored


def test_work_that_stops_under_the_candidate_is_a_loss_not_a_gap():
    experiment = run(0.0)
    assert experiment.outcome == "aborted"
    assert run(0.0, design=Design(collapse=0)).outcome == "loss"


def test_no_readings_end_it():
    experiment = finish(Experiment(Design(), np.random.default_rng(0)), lambda arm: None)
    assert experiment.outcome == "aborted"
    assert len(experiment.blocks) == 6


def test_readings_that_lack_under_the_candidate_end_it():
    experiment = finish(
        Experiment(Design(), np.random.default_rng(0)),
        lambda arm: None if arm == "candidate" else 100.0,
    )
    assert experiment.outcome == "aborted"
    assert "lack readings" in experiment.reason


def test_a_broken_guard_ends_it_at_once_even_in_a_gain():
    experiment = Experiment(Design(), np.random.default_rng(0), guards=[Guard("p99", "lower", 2)])
    while experiment.outcome is None:
        trial = experiment.arm == "candidate"
        experiment.learn_one(2000.0 if trial else 1000.0, {"p99": 50.0 if trial else 10.0})
    assert experiment.outcome == "aborted"
    assert experiment.reason.startswith("guard p99: 50 under the candidate, 10 under")
    assert [arm for arm, _ in experiment.blocks].count("candidate") == 2


def test_a_guard_without_a_reading_ends_it():
    experiment = Experiment(Design(), np.random.default_rng(0), guards=[Guard("psi", "lower", 2)])
    finish(experiment, lambda arm: 100.0)
    assert experiment.outcome == "aborted"


def test_known_noise_spares_the_calibration():
    noise = Noise()
    for value in np.random.default_rng(1).normal(100, 5, 40):
        noise.learn_one(value)
    experiment = run(1.5, noise=noise)
    assert experiment.calibration == 0
    assert len(experiment.blocks) <= 12
    assert 1 < experiment.detectable < 1.1
    assert noise.blocks == 40, "it is copied"


def test_a_guard_whose_level_is_unknown_asks_for_calibration():
    noise = Noise()
    for _ in range(40):
        noise.learn_one(100.0)
    experiment = Experiment(
        Design(), np.random.default_rng(0), noise=noise, guards=[Guard("psi", "lower", 2)]
    )
    assert experiment.calibrating
    assert {experiment.arm for _ in range(20)} == {"incumbent"}


@pytest.mark.parametrize("effect", [1, 1.05, 0.9, 0.1])
def test_what_is_stored_reads_back_as_it_was(effect):
    stored = json.loads(json.dumps(run(effect).to_dict()))
    assert Experiment.from_dict(stored).to_dict() == stored


def test_one_that_was_interrupted_can_go_on():
    experiment = Experiment(Design(), np.random.default_rng(0))
    for value in range(100, 115):
        experiment.learn_one(value)
    again = Experiment.from_dict(json.loads(json.dumps(experiment.to_dict())))
    assert again.arm == experiment.arm
    again.learn_one(110)
    experiment.learn_one(110)
    assert again.interval == experiment.interval


def in_pieces(effect, *, seed, blocks, guards=()):
    """As ``run``, but ended from outside each ``blocks`` blocks, and gone on with."""
    rng = np.random.default_rng((seed, 1))
    experiment = Experiment(Design(), np.random.default_rng((seed, 2)), guards=guards)
    while experiment.outcome is None:
        for _ in range(blocks):
            better = effect if experiment.arm == "candidate" else 1.0
            experiment.learn_one(1000 * math.exp(rng.normal(0, 0.035)) * better, {"psi": 1.0})
            if experiment.outcome is not None:
                return experiment
        experiment.abort("the load changed")
        stored = json.loads(json.dumps(experiment.to_dict()))
        experiment = Experiment.go_on(stored, np.random.default_rng((seed, blocks)), guards)
    raise AssertionError("it goes on for ever")


@pytest.mark.parametrize("blocks", [13, 24])
def test_one_that_is_ended_again_and_again_comes_to_a_verdict(blocks):
    for seed in range(20):
        gain = in_pieces(1.1, seed=seed, blocks=blocks, guards=[Guard("psi", "lower", 2)])
        assert gain.outcome == "gain"
        assert gain.pairs > 2
        assert in_pieces(0.9, seed=seed, blocks=blocks).outcome in ("loss", "no change")


def test_in_pieces_runs_without_an_effect_are_rarely_kept():
    kept = sum(in_pieces(1.0, seed=seed, blocks=13).outcome == "gain" for seed in range(300))
    assert kept <= 0.05 * 300 + 2.6 * math.sqrt(0.05 * 300)


def test_a_block_without_its_partner_does_not_count_when_it_goes_on():
    experiment = Experiment(Design(), np.random.default_rng(0))
    for value in range(100, 115):  # eight of calibration, three pairs, and one block
        experiment.learn_one(value)
    experiment.abort("the load changed")
    again = Experiment.go_on(experiment.to_dict(), np.random.default_rng(1))
    assert len(again.blocks) == 14
    assert again.pairs == experiment.pairs == 3
    assert again.interval == experiment.interval
    assert (again.outcome, again.reason) == (None, "")


def test_what_paused_can_go_on():
    experiment = Experiment(Design(), np.random.default_rng(0))
    for value in [*range(100, 114), *[None] * 6]:
        experiment.learn_one(value)
    assert experiment.outcome == "aborted"
    again = Experiment.go_on(experiment.to_dict(), np.random.default_rng(1))
    assert again.outcome is None
    again.learn_one(None)
    assert again.outcome is None


def test_calibration_that_was_cut_short_goes_on_too():
    experiment = Experiment(Design(calibration=5), np.random.default_rng(0))
    for value in (100, 101, 102):
        experiment.learn_one(value)
    experiment.abort("the load changed")
    again = Experiment.go_on(experiment.to_dict(), np.random.default_rng(1))
    assert len(again.blocks) == 3
    for value in (103, 104):
        assert again.calibrating
        again.learn_one(value)
    assert not again.calibrating


def test_blocks_that_are_known_already_are_not_measured_again():
    noise = Noise()
    for value in (100, 101, 102):
        noise.learn_one(value)
    assert Experiment(Design(calibration=5), np.random.default_rng(0), noise).calibration == 2


def test_what_has_a_verdict_or_broke_or_has_no_block_cannot_go_on():
    rng = np.random.default_rng(0)
    assert Experiment.go_on(run(3).to_dict(), rng) is None
    broken = run(0.1)
    assert broken.broken
    assert Experiment.go_on(broken.to_dict(), rng) is None
    fresh = Experiment(Design(), rng)
    fresh.abort("the load changed")
    assert not fresh.broken
    assert Experiment.go_on(fresh.to_dict(), rng) is None


def test_nothing_is_learnt_after_the_end():
    experiment = run(3)
    with pytest.raises(UsageError, match="over"):
        experiment.learn_one(1.0)
    experiment.abort("too late")
    assert experiment.outcome == "gain"


@pytest.mark.parametrize(
    "wrong",
    [
        {"block_s": 0},
        {"alpha": 1},
        {"max_s": math.inf},
        {"max_s": 0.5},
        {"better": "more"},
        {"collapse": 0.5},
        {"min_gain": -1},
        {"min_pairs": 0},
        {"calibration": 0},
        {"keep_share": 1},
        {"screen_pairs": -1},
    ],
)
def test_a_design_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(UsageError, match="design"):
        Design(**wrong)
