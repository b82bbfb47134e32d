# SPDX-License-Identifier: Apache-2.0
"""Guards: what breaks them, how soon, and that they fail closed."""

import math

import pytest

from kmind.errors import UsageError
from kmind.evidence import Guard


def guard(level=100.0, **more):
    made = Guard("p99", **{"better": "lower", "limit": 2.0, **more})
    for _ in range(4):
        made.learn_one(level)
    return made


def test_bad_blocks_in_a_row_break_it():
    made = guard()
    assert not made.judge(250)
    assert not made.judge(190)
    assert not made.judge(250)
    assert made.judge(250) == (
        "guard p99: 250 under the candidate, 100 under the incumbent, more than 2 times worse"
    )


def test_higher_may_be_better():
    made = guard(better="higher", patience=1)
    assert not made.judge(51)
    assert made.judge(49)


@pytest.mark.parametrize("reading", [None, math.nan, math.inf, -1])
def test_no_reading_counts_as_bad(reading):
    made = guard()
    assert not made.judge(reading)
    assert "no reading" in made.judge(reading)


def test_no_level_counts_as_bad():
    made = Guard("psi", "lower", 2.0, patience=1)
    made.learn_one(None)
    assert "no level" in made.judge(1)


def test_slack_lets_small_numbers_pass():
    made = guard(level=0, slack=5, patience=1)
    assert not made.judge(4)
    assert made.judge(6)


def test_an_untried_candidate_is_cut_at_once():
    made = guard(at_once=True)
    assert made.judge(250)
    tried = guard(at_once=True)
    assert not tried.judge(100)
    assert not tried.judge(100)
    assert not tried.judge(250)


def test_not_at_once_if_the_incumbent_was_as_bad():
    made = guard(at_once=True)
    made.learn_one(300)
    made.learn_one(100)
    assert not made.judge(250)
    assert made.judge(250)


def test_a_load_that_has_just_changed_is_not_held_against_the_candidate():
    made = guard(at_once=True)
    made.learn_one(300)
    assert not made.judge(500)
    assert not made.judge(700)
    assert made.judge(700)  # two in a row


@pytest.mark.parametrize(
    "wrong", [{"limit": 1}, {"limit": math.inf}, {"patience": 0}, {"better": "more"}]
)
def test_a_guard_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(UsageError, match="p99"):
        guard(**wrong)
