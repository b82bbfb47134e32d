# SPDX-License-Identifier: Apache-2.0
"""One experiment, block by block, by hand: what a block counts that is far below all others."""

from __future__ import annotations

from runtime.experiment.two_arms import Load


def test_a_candidate_that_stops_the_load_ends_it() -> None:
    load = Load()
    load.up_to("candidate")
    load.rate["candidate"] = 0.0
    load.block()
    assert load.arm == "incumbent"  # at once, before anything is said
    assert not load.trial.over
    load.block()
    assert load.trial.over
    assert load.trial.experiment.broken


def test_a_load_that_ends_is_not_held_against_the_candidate() -> None:
    for rate in (0.0, 30.0):
        load = Load()
        load.up_to("candidate")
        load.rate = {"incumbent": rate, "candidate": rate}
        load.block()
        load.block()
        assert load.last is None
        assert not load.trial.experiment.broken


def test_nor_against_the_incumbent() -> None:
    load = Load()
    load.up_to("incumbent")
    load.rate = {"incumbent": 30.0, "candidate": 30.0}
    load.block()
    load.block()
    assert load.last is None


def test_a_dip_of_the_incumbent_counts() -> None:
    load = Load()
    load.up_to("incumbent")
    load.rate["incumbent"] = 30.0
    load.block()
    load.rate["incumbent"] = 1000.0
    load.block()
    assert load.last == 30.0


def test_a_load_that_stays_changed_ends_it_without_a_verdict() -> None:
    load = Load()
    load.up_to("candidate")
    load.rate = {"incumbent": 30.0, "candidate": 30.0}
    for _ in range(20):
        if not load.trial.over:
            load.block()
    assert load.trial.experiment.outcome == "aborted"
    assert not load.trial.experiment.broken
