# SPDX-License-Identifier: Apache-2.0
"""Records of experiments: names of the circumstances, keys, and what lets a candidate stand."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from runtime.counted import BASE, HIDDEN, blocks_of

from kmind.runtime.experiment.case import Case, Running

GRANTED: Any = SimpleNamespace(key=(1, 2))


def case(load: str = "order=random", **evidence: Any) -> Case:
    return Case(GRANTED, 128, 16, "", evidence, BASE.outcomes[0], (), load, None)


def test_word_of_the_extension_splits_and_never_joins() -> None:
    assert case().context == "order=random"
    assert case(context="x").context == "order=random; x"
    assert case(context="x").context != case(context="y").context
    assert case("order=ordered", context="x").context != case(context="x").context


def test_word_is_cut_and_may_be_anything() -> None:
    assert len(case(context="x" * 5000).word) == 100
    assert case(context=7).word == "7"


def test_back_off_is_of_the_load_alone() -> None:
    assert case(context="x").back_off == case(context="y").back_off
    assert case("order=ordered").back_off != case().back_off


def running(outcome: str, ratio: float | None, *, again: bool) -> Running:
    experiment = SimpleNamespace(
        outcome=outcome,
        interval=None if ratio is None else SimpleNamespace(ratio=ratio),
        design=SimpleNamespace(min_gain=0.05, block_s=0.2),
        pairs=3,
    )
    trial: Any = SimpleNamespace(experiment=experiment, arm="candidate")
    return Running(case(), trial, number=1, rec_id=1, again=again, pairs=3)


@pytest.mark.parametrize(
    ("outcome", "ratio", "again", "convinces"),
    [
        ("gain", 1.5, False, True),
        ("no change", 1.5, False, False),
        ("no change", 1.5, True, True),
        ("no change", 1.05, True, False),
        ("no change", None, True, False),
        ("loss", 1.5, True, False),
        ("aborted", 1.5, True, False),
    ],
)
def test_outcome_that_lets_the_candidate_stand(
    outcome: str, ratio: float | None, again: bool, convinces: bool
) -> None:
    assert running(outcome, ratio, again=again).convinces is convinces


def test_only_a_candidate_that_was_never_kept_is_unproven() -> None:
    assert running("", None, again=False).unproven == {((1, 2), 16)}
    assert not running("", None, again=True).unproven


def test_block_that_took_too_long_is_left_out() -> None:
    made = running("", None, again=False)
    (short,) = blocks_of(HIDDEN, 1)
    long = replace(short, seconds=0.7)
    made.seen = [("candidate", short), ("candidate", long), ("incumbent", short)]
    assert made.blocks("candidate") == [short]
    assert made.seen_nothing
