# SPDX-License-Identifier: Apache-2.0
"""Clocks of settings that are not confirmed, and of those that are."""

from collections.abc import Callable

import pytest

from kmind.runtime.experiment.exploring import Collapse, Exploring, Proof, Proofs, level_class

HOUR = 3600.0
SETTING = frozenset({((1, 1), 5)})
OTHER = frozenset({((1, 1), 6)})


def test_exploring_is_a_sixth_of_the_time_in_the_long_run() -> None:
    exploring, setting = Exploring(), frozenset({((1, 1), 5)})
    stood = now = 0.0
    while now < 100 * HOUR:
        now += 1.0
        if exploring.left_s > 0:
            stood += 1.0
        exploring.tick(now, setting if exploring.left_s > 0 else frozenset())
    assert stood <= 600 + now / 6 + 10


def test_a_refuted_setting_is_measured_sooner_when_it_comes_back() -> None:
    proofs, setting = Proofs(60.0), frozenset({((1, 1), 5)})
    pauses = []
    for _ in range(4):
        proofs.confirmed(setting, 1, 100.0)
        proof = proofs.get(setting)
        assert proof
        pauses.append(proof.pause_s)
        proofs.refuted(setting)
    assert pauses == [60.0, 30.0, 15.0, 15.0]


def test_what_comes_back_after_long_is_measured_sooner() -> None:
    proofs, setting = Proofs(60.0), frozenset({((1, 1), 5)})
    proofs.remember(setting, Proof(1, HOUR))
    proofs.tick(0.0, setting)
    proofs.tick(1.0, frozenset())
    proofs.tick(500.0, setting)
    proof = proofs.get(setting)
    assert proof
    assert proof.pause_s == 60.0


@pytest.mark.parametrize(
    ("better", "worse"), [("higher", lambda v: v / 3.1), ("lower", lambda v: v * 3.1)]
)
def test_two_readings_far_below_the_usual_are_a_collapse(
    better: str, worse: Callable[[float], float]
) -> None:
    collapse = Collapse(better)  # type: ignore[arg-type]
    assert not collapse.learn_one(1.0, unconfirmed=True)  # nothing is usual yet
    for _ in range(8):
        assert not collapse.learn_one(100.0, unconfirmed=False)
    assert not collapse.learn_one(worse(100.0), unconfirmed=True)
    assert not collapse.learn_one(100.0, unconfirmed=True)
    assert not collapse.learn_one(worse(100.0), unconfirmed=True)
    assert not collapse.learn_one(None, unconfirmed=True)  # a gap says nothing
    assert collapse.learn_one(worse(100.0), unconfirmed=True)


def test_stretch_begins_anew_where_nothing_unconfirmed_is_in_place() -> None:
    exploring = Exploring()
    for now, setting in ((0.0, SETTING), (30.0, OTHER), (70.0, frozenset()), (80.0, SETTING)):
        exploring.tick(now, setting)
    assert exploring.stretch_s == 0.0
    exploring.tick(90.0, SETTING)
    assert exploring.stretch_s == 10.0


def test_longest_of_a_stretch_dominates_it() -> None:
    exploring = Exploring()
    for now, setting in ((0.0, SETTING), (30.0, OTHER), (70.0, OTHER)):
        exploring.tick(now, setting)
    assert exploring.dominates(OTHER)
    assert not exploring.dominates(SETTING)


def test_longer_blocks_lengthen_a_stretch_and_give_no_time_back() -> None:
    exploring = Exploring()
    exploring.tick(0.0, SETTING)
    exploring.tick(500.0, SETTING)
    left = exploring.left_s
    exploring.begin(70.0)
    assert (exploring.longest_s, exploring.left_s) == (280.0, left)


def test_clock_that_goes_back_gives_nothing() -> None:
    exploring = Exploring()
    exploring.tick(100.0, SETTING)
    exploring.tick(50.0, SETTING)
    assert exploring.left_s == 600.0


def test_part_of_a_confirmed_setting_is_within_it() -> None:
    whole = SETTING | {((2, 2), 7)}
    proofs = Proofs(60.0)
    proofs.confirmed(whole, 1, 100.0)
    assert proofs.within(SETTING)
    assert not proofs.within(whole)
    assert not proofs.within(OTHER)


def test_new_level_asks_for_a_measurement() -> None:
    proofs = Proofs(60.0)
    proofs.remember(SETTING, Proof(1, HOUR, levels={level_class(100.0)}))
    proofs.under(SETTING, 110.0)
    assert proofs.get(SETTING).pause_s == HOUR  # type: ignore[union-attr]
    proofs.under(SETTING, 1000.0)
    assert proofs.get(SETTING).pause_s == 60.0  # type: ignore[union-attr]


def test_of_many_proofs_the_oldest_goes() -> None:
    proofs = Proofs(60.0)
    for number in range(300):
        proofs.confirmed(frozenset({((1, 1), number)}), number, None)
    assert proofs.get(frozenset({((1, 1), 0)})) is None
    assert proofs.get(frozenset({((1, 1), 299)})) is not None
