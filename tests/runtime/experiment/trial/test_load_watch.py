# SPDX-License-Identifier: Apache-2.0
"""Watching the load: which it is, whether it lasts, and verdicts that do not count."""

from types import SimpleNamespace
from typing import Any

import pytest
from runtime.counted import BASE, HIDDEN, STARVED, CountingAgent, blocks_of

from kmind.evidence import Design, Experiment
from kmind.runtime.experiment.trial.load_watch import LoadWatch

ORDERED = {**STARVED, "read_sequential": 2900, "fault_sequential": 2400, "around_sequential": 1900}


class Rig:
    def __init__(self) -> None:
        self.now = 0.0
        self.watch = LoadWatch(
            BASE,
            CountingAgent(),
            BASE.evidence,
            now=lambda: self.now,  # type: ignore[arg-type]
        )

    def case(self, counts: dict[str, int]) -> Any:
        each: Any = SimpleNamespace(key=(1, 2))
        return self.watch.case(each, (8192, 8), "", {}, blocks_of(counts))

    def checked(self, before: dict[str, int], under: dict[str, int], **at_end: Any) -> Experiment:
        """An experiment that ended with a gain, and whose blocks were as these say."""
        case = self.case(before)
        experiment = Experiment(Design(better="higher"), SimpleNamespace(random=lambda: 0.0))  # type: ignore[arg-type]
        experiment.outcome, experiment.reason = "gain", "it was better"
        seen = {"incumbent": blocks_of(before), "candidate": blocks_of(under), **at_end}
        running: Any = SimpleNamespace(
            case=case, blocks=seen.__getitem__, trial=SimpleNamespace(experiment=experiment)
        )
        self.watch.check(running)
        return experiment


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_pause_shorter_than_a_block_is_no_end(rig: Rig) -> None:
    rig.watch.see(busy=True)
    rig.now += BASE.evidence.block_s * 0.9
    rig.watch.see(busy=False)
    assert rig.watch.busy
    rig.now += BASE.evidence.block_s
    rig.watch.see(busy=False)
    assert not rig.watch.busy


def test_case_is_of_the_load_and_its_level(rig: Rig) -> None:
    case = rig.case(HIDDEN)
    assert case.outcome.name == "requests"
    assert case.level == pytest.approx((900 + 400 + 600) / 0.2)
    assert rig.case(ORDERED).load != case.load


def test_newest_blocks_have_to_look_like_those_before(rig: Rig) -> None:
    case = rig.case(HIDDEN)
    assert rig.watch.is_still(case, blocks_of(HIDDEN))
    assert not rig.watch.is_still(case, [*blocks_of(HIDDEN, 4), *blocks_of(ORDERED, 2)])
    assert rig.watch.decides_still(case, blocks_of(HIDDEN))
    assert not rig.watch.decides_still(case, [*blocks_of(HIDDEN, 5), *blocks_of(ORDERED, 1)])


def test_gain_stands_where_nothing_speaks_against_it(rig: Rig) -> None:
    assert rig.checked(HIDDEN, HIDDEN).outcome == "gain"


def test_gain_is_void_where_another_outcome_decides_at_the_end(rig: Rig) -> None:
    experiment = rig.checked(HIDDEN, HIDDEN, incumbent=blocks_of(ORDERED))
    assert experiment.outcome == "aborted"
    assert experiment.reason.startswith("the load has changed: pages")
    assert not experiment.broken


def test_gain_is_void_and_speaks_against_the_candidate_where_it_harms(rig: Rig) -> None:
    experiment = rig.checked(HIDDEN, STARVED)
    assert experiment.outcome == "aborted"
    assert experiment.reason.startswith("guard pages_in under the candidate: effect x0.0")
    assert experiment.broken
