# SPDX-License-Identifier: Apache-2.0
"""Values that take turns while they are measured."""

import pytest
from runtime.experiment.controlled import ratio, results
from runtime.measured import BASELINE, Make

from kmind.errors import KmindError
from kmind.guard import Journal, Policy, restore


def test_both_values_take_turns_and_one_row_of_the_journal_covers_them(owner: Make) -> None:
    one = owner(ratio(1.0))
    one.run(5)
    one.recommend(512)
    seen = []
    for _ in range(50):
        one.run(0.1)
        seen.append(one.value)
    assert 15 < seen.count(512) < 35
    (change,) = one.journal.open_changes()
    assert (change.old, change.new) == (BASELINE, 512)


@pytest.mark.parametrize("turn", [512, BASELINE])
def test_it_can_be_killed_in_either_turn(owner: Make, turn: int) -> None:
    one = owner(ratio(1.0))
    one.run(5)
    one.recommend(512)
    one.run(5, lambda: one.value == 512)
    one.run(5, lambda: one.value == turn)
    with Journal(one.journal.path) as journal:
        done = restore(journal, Policy(), force=True, root=one.root)
    assert done.skipped == ()
    assert one.value == BASELINE
    assert one.journal.open_changes() == []


def test_the_lease_goes_to_another_instance(owner: Make) -> None:
    one = owner(ratio(1.0))
    one.run(5)
    one.recommend(512)
    one.run(5, lambda: one.value == 512)
    one.changes.hand_over(*one.granted.key, "static@sim0")
    assert one.value == BASELINE
    assert results(one) == [("aborted", False)]
    assert one.of("result")[0]["why"] == "static@sim0 has the lease now"


def test_a_knob_that_cannot_be_set_ends_it(owner: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one = owner(ratio(1.0))
    one.run(6)
    one.recommend(512)

    def refuse(*_: object, **__: object) -> None:
        raise KmindError("the kernel says no")

    monkeypatch.setattr("kmind.runtime.holds.trial_holds.TrialHolds.switch", refuse)
    one.run(5, lambda: one.of("result"))
    assert results(one) == [("aborted", False)]
    assert "the kernel says no" in one.of("result")[0]["why"]
