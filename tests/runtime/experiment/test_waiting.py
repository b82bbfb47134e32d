# SPDX-License-Identifier: Apache-2.0
"""Approved values that wait."""

from typing import Any

import pytest
from runtime.experiment.controlled import ratio
from runtime.measured import Make, Owner

from kmind.runtime.experiment.case import Pending
from kmind.runtime.experiment.waiting import Waiting


class Rig:
    """Waiting recommendations for one knob of an owner."""

    def __init__(self, owner: Owner) -> None:
        self.owner, self.granted = owner, owner.granted
        self.waiting = Waiting(owner.changes, lambda: owner.now, "measured")

    def action(self, value: int, hold_s: float) -> Any:
        return self.owner._action(value, hold_s)

    def add(self, value: int, *, hold_s: float = 5.0) -> None:
        action = self.action(value, hold_s)
        until = self.owner.now + hold_s
        self.waiting.add(Pending(self.granted, action, "The test says so.", {}, until))

    @property
    def failed(self) -> list[str]:
        return [each["why"] for each in self.owner.of("failed")]


@pytest.fixture
def rig(owner: Make) -> Rig:
    return Rig(owner(ratio(1.0)))


def test_one_value_a_knob_waits(rig: Rig) -> None:
    assert not rig.waiting
    rig.add(16)
    rig.add(32)
    assert [pending.action.value for pending in rig.waiting] == [32]
    assert rig.waiting.pop(rig.granted.key)
    assert rig.waiting.pop(rig.granted.key) is None
    assert rig.failed == []


def test_what_is_not_recommended_again_is_refused(rig: Rig) -> None:
    rig.add(16)
    assert rig.waiting.until == rig.owner.now + 5
    rig.owner.now += 4
    rig.waiting.expire()
    assert rig.waiting
    rig.owner.now += 1
    rig.waiting.expire()
    assert not rig.waiting
    assert rig.failed == ["it was not renewed before it could be measured"]


def test_only_the_same_value_waits_for_longer(rig: Rig) -> None:
    rig.add(16)
    assert not rig.waiting.renew(rig.granted, rig.action(32, 60))
    assert rig.waiting.until == rig.owner.now + 5
    assert rig.waiting.renew(rig.granted, rig.action(16, 60))
    assert rig.waiting.until == rig.owner.now + 60


def test_whoever_recommended_it_is_told_that_it_is_not_done(rig: Rig) -> None:
    rig.add(16)
    rig.waiting.pass_over("something else is", (0, 0))
    assert rig.waiting
    rig.waiting.pass_over("something else is", rig.granted.key)
    rig.add(32)
    rig.waiting.pass_over("something else is")
    rig.add(64)
    rig.waiting.refuse("the run ended")
    assert not rig.waiting
    assert rig.failed == ["something else is", "something else is", "the run ended"]
