# SPDX-License-Identifier: Apache-2.0
"""Verdicts of the agent: who is told of them, and what is done about them."""

from types import SimpleNamespace
from typing import Any

import pytest

from kmind import events
from kmind.agent.types import Action, Mode, Verdict
from kmind.knobs import get_knob, parse_target
from kmind.runtime.budget import OwnerBudget
from kmind.runtime.instance.verdicts import Verdicts

KNOB = get_knob("vm.swappiness")


class Rig:
    """Verdicts of one instance that was granted one knob; all that it tells and asks is kept."""

    def __init__(self) -> None:
        self.now = self.cpu = 0.0
        self.told: list[Any] = []
        self.asked: list[tuple[str, int]] = []
        self.refused: list[int] = []
        each = SimpleNamespace(knob=KNOB, target=parse_target("system"))
        holds: Any = SimpleNamespace(
            knobs=SimpleNamespace(get=lambda knob, target: each if knob == 1 else None),
            refuse=lambda each, number, error: self.refused.append(number),
        )
        services: Any = SimpleNamespace(
            emit=self.told.append, now=lambda: self.now, name_of=lambda slot: f"number {slot}"
        )
        budget = OwnerBudget(lambda: self.now, cpu=lambda: self.cpu)
        self.verdicts = Verdicts("sample@system", services, holds, self, budget)
        self.budget = budget

    def approved(self, each: Any, action: Action, reason: str, evidence: Any) -> None:
        self.asked.append(("approved", action.id))

    def renewed(self, each: Any, action: Action) -> None:
        self.asked.append(("renewed", action.id))

    def handle(self, verdict: Verdict, *, id: int = 7, **fields: Any) -> None:
        fields = {"knob": 1, "value": 10, "current": 60, "note": b"{}"} | fields
        self.verdicts.handle(
            Action(kind="verdict", time_ns=1, mode=Mode.AUTO, verdict=verdict, id=id, **fields)
        )


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.mark.parametrize("verdict", list(Verdict))
def test_only_approval_and_renewal_do_anything(rig: Rig, verdict: Verdict) -> None:
    rig.handle(verdict)
    done = {Verdict.APPROVED: ["approved"], Verdict.RENEWED: ["renewed"]}.get(verdict, [])
    assert [what for what, _ in rig.asked] == done
    assert isinstance(rig.told[0], events.Verdict)
    assert rig.told[0].verdict == verdict.name.lower()


def test_advice_comes_with_its_command(rig: Rig) -> None:
    rig.handle(Verdict.ADVISED)
    advice = rig.told[-1]
    assert isinstance(advice, events.Advice)
    assert "swappiness" in advice.command
    assert "10" in advice.command


def test_holder_of_a_lease_is_named(rig: Rig) -> None:
    rig.handle(Verdict.LEASE, holder=3)
    assert rig.told[0].holder == "number 3"


def test_halted_instance_is_told_of_and_nothing_is_done(rig: Rig) -> None:
    rig.verdicts.halted = True
    for verdict in (Verdict.APPROVED, Verdict.RENEWED, Verdict.ADVISED):
        rig.handle(verdict)
    assert len(rig.told) == 3
    assert rig.asked == []


def test_knob_that_was_not_granted_is_only_told(rig: Rig) -> None:
    rig.handle(Verdict.APPROVED, knob=99)
    assert rig.told[0].knob == 99
    assert rig.asked == []


def test_flood_is_told_in_part_and_done_whole(rig: Rig) -> None:
    for number in range(1, 1001):
        rig.handle(Verdict.APPROVED, id=number)
    assert len(rig.told) == 200
    assert len(rig.asked) == 1000
    assert rig.verdicts.last_id == 1000


def test_highest_id_stays_where_a_lower_one_comes_late(rig: Rig) -> None:
    rig.handle(Verdict.APPROVED, id=9)
    rig.handle(Verdict.APPROVED, id=2)
    assert rig.verdicts.last_id == 9


def test_without_budget_an_approval_is_refused_and_not_told(rig: Rig) -> None:
    with rig.budget.spend("log"):
        rig.cpu += 100.0
    rig.handle(Verdict.APPROVED)
    rig.handle(Verdict.ADVISED, id=8)
    assert (rig.told, rig.asked, rig.refused) == ([], [], [7])


@pytest.mark.parametrize("note", [b"", b"\xff", b"[1]", b'{"reason": "\x1b[2J"}', b"{" * 5000])
def test_note_that_nobody_can_read_harms_nothing(rig: Rig, note: bytes) -> None:
    rig.handle(Verdict.APPROVED, note=note)
    assert rig.asked == [("approved", 7)]
    assert rig.told[0].reason.isprintable()
