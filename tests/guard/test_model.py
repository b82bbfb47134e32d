# SPDX-License-Identifier: Apache-2.0
"""Chains of changes on real knobs, held against a model of what ought to be there."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from guard.support import spare_disk
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kmind.errors import KnobError
from kmind.guard import Actuator, Change, Journal, Policy, restore
from kmind.knobs import Target, Value, get_knob

VALUES: dict[str, tuple[int, ...]] = {
    "block.nomerges": (0, 1, 2),
    "block.rq_affinity": (0, 1, 2),
    "block.read_ahead_kb": (0, 64, 128, 256, 512),
}

names = st.sampled_from(sorted(VALUES))
picks = st.integers(0, 1000)


class Chains(RuleBasedStateMachine):
    """One actuator, an admin who interferes, and crashes.

    The model holds, for each knob, the value that stands, and a chain of (value
    before, value after), one link for each change that is open.
    """

    def __init__(self) -> None:
        super().__init__()
        self.target: Target = spare_disk()
        self.first = {name: get_knob(name).read(self.target) for name in VALUES}
        self.folder = tempfile.TemporaryDirectory()
        self.journal = Journal(Path(self.folder.name) / "journal.db")
        self.actuator = Actuator(self.journal, Policy())
        self.now: dict[str, Value] = dict(self.first)
        self.chain: dict[str, list[tuple[Value, Value]]] = {name: [] for name in VALUES}
        self.given_up: set[str] = set()

    def ours(self, name: str) -> set[Value]:
        return {value for link in self.chain[name] for value in link}

    def changes(self, name: str) -> list[Change]:
        return [change for change in self.actuator.held if change.knob == name]

    def give_up(self, name: str) -> None:
        self.chain[name] = []
        self.given_up.add(name)

    @rule(name=names, pick=picks)
    def apply(self, name: str, pick: int) -> None:
        value = VALUES[name][pick % len(VALUES[name])]
        interfered = self.chain[name] and self.chain[name][-1][1] != self.now[name]
        try:
            self.actuator.apply(get_knob(name), self.target, value, who="model@it", why="")
        except KnobError:
            assert interfered or name in self.given_up
            self.give_up(name)
        else:
            assert not interfered
            assert name not in self.given_up
            self.chain[name].append((self.now[name], value))
            self.now[name] = value

    @rule(name=names, pick=picks)
    def interfere(self, name: str, pick: int) -> None:
        value = VALUES[name][pick % len(VALUES[name])]
        get_knob(name).write(self.target, value)
        self.now[name] = value

    @precondition(lambda self: self.actuator.held)
    @rule(pick=picks)
    def undo(self, pick: int) -> None:
        change = self.actuator.held[pick % len(self.actuator.held)]
        name = change.knob
        index = self.changes(name).index(change)
        outcome = self.actuator.undo(change)
        if self.now[name] in self.ours(name):
            assert outcome.state == "undone"
            self.now[name] = self.chain[name][index][0]
            del self.chain[name][index:]
        else:
            assert (outcome.state, outcome.found) == ("yielded", self.now[name])
            self.give_up(name)

    @precondition(lambda self: self.actuator.held)
    @rule(pick=picks)
    def keep(self, pick: int) -> None:
        change = self.actuator.held[pick % len(self.actuator.held)]
        self.actuator.keep(change)
        self.chain[change.knob] = []

    @rule()
    def check(self) -> None:
        expected = {
            name for name, chain in self.chain.items() if chain and chain[-1][1] != self.now[name]
        }
        assert {found.knob for found in self.actuator.check()} == expected
        for name in expected:
            self.give_up(name)

    @rule(name=names)
    def acquire(self, name: str) -> None:
        self.actuator.acquire(get_knob(name), self.target)
        self.given_up.discard(name)

    @rule()
    def crash_and_restore(self) -> None:
        self.actuator = Actuator(self.journal, Policy())
        report = restore(self.journal, force=True)
        expected = set()
        for name, chain in self.chain.items():
            if chain and self.now[name] in self.ours(name):
                expected.add(name)
                self.now[name] = chain[0][0]
            self.chain[name] = []
        assert {outcome.knob for outcome in report.restored} == expected
        self.given_up.clear()

    @invariant()
    def knobs_hold_what_they_should(self) -> None:
        assert {name: get_knob(name).read(self.target) for name in VALUES} == self.now

    @invariant()
    def the_journal_knows_the_first_values(self) -> None:
        for name, chain in self.chain.items():
            expected = chain[0][0] if chain else None
            assert self.journal.baseline(name, self.target.name) == expected
            assert [c.old for c in self.changes(name)] == [old for old, _ in chain]

    def teardown(self) -> None:
        self.journal.close()
        self.folder.cleanup()
        for name, value in self.first.items():
            get_knob(name).write(self.target, value)


@pytest.mark.kernel
@pytest.mark.fault
class TestChains(Chains.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(
        max_examples=40,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
