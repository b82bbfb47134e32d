# SPDX-License-Identifier: Apache-2.0
"""Passing an objective's answers on."""

from kmind.agent.types import Kind
from kmind.runtime.objective.relay import Answer, Relay
from kmind.runtime.objective.sources import GapName, Heard


class Rig:
    """A relay, and what it told whom; also its agent."""

    def __init__(self) -> None:
        self.now = 100.0
        self.notices: list[tuple[Kind, int, int]] = []
        self.lines: list[str] = []
        self.heard: list[Heard] = []
        self.relay = Relay(self, self.lines.append, self.heard.append, now=lambda: self.now)  # type: ignore[arg-type]

    def notify(self, kind: Kind, span_ms: int, value: int) -> None:
        self.notices.append((kind, span_ms, value))

    def value(self, value: float) -> None:
        self.relay.pass_on(Answer(self.now - 0.5, value))

    def gap(self, gap: GapName, why: str) -> None:
        self.relay.pass_on(Answer(self.now - 0.5, None, gap, why))


def test_values_are_handed_on_in_millionths() -> None:
    rig = Rig()
    for value in (1.5, 2.0, 1e-7):
        rig.value(value)
    assert rig.notices == [
        (Kind.OBJECTIVE, 500, 1_500_000),
        (Kind.OBJECTIVE, 500, 2_000_000),
        (Kind.OBJECTIVE, 500, 0),
    ]
    assert rig.heard[0] == Heard(99.5, 100.0, 1.5)
    assert rig.lines == []


def test_gaps_are_handed_on_and_said_once() -> None:
    rig = Rig()
    rig.gap("text", "this is not a number: 'x'")
    rig.gap("text", "this is not a number: 'x'")
    rig.gap("timeout", "no answer within 2 s")
    rig.value(1.0)
    assert [kind for kind, _, _ in rig.notices] == [Kind.NO_OBJECTIVE] * 3 + [Kind.OBJECTIVE]
    assert [value for _, _, value in rig.notices[:3]] == [4, 4, 2]
    assert [heard.value for heard in rig.heard] == [None, None, None, 1.0]
    assert rig.lines == [
        "the objective has no value: this is not a number: 'x'; nothing is kept without one",
        "the objective has no value: no answer within 2 s; nothing is kept without one",
        "the objective has a value again, after 3 without",
    ]


def test_gaps_that_come_and_go_do_not_fill_the_log() -> None:
    rig = Rig()
    for _ in range(30):
        rig.gap("text", "this is not a number: 'x'")
        rig.value(1.0)
    assert len(rig.lines) == 6
    rig.now += 10
    rig.gap("text", "this is not a number: 'x'")
    assert len(rig.lines) == 7


def test_a_long_time_is_told_as_the_longest_that_fits() -> None:
    rig = Rig()
    rig.relay.pass_on(Answer(-1e9, 1.0))
    assert rig.notices == [(Kind.OBJECTIVE, (1 << 32) - 1, 1_000_000)]
