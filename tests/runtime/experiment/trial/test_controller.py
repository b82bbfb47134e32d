# SPDX-License-Identifier: Apache-2.0
"""From an approved value to a kept one: experiments of the owner, in simulated time."""

from dataclasses import replace
from pathlib import Path

import pytest
from runtime.experiment.controlled import KIND, ratio, results
from runtime.measured import BASELINE, KNOB, Make

from kmind.abi import layout
from kmind.agent.types import Mode
from kmind.knobs import get_knob


def test_a_gain_is_kept_and_stands_while_it_is_renewed(owner: Make) -> None:
    one = owner(ratio(1.5))
    one.run(5)
    one.recommend(512)
    one.run(70, lambda: one.of("result"))
    assert results(one) == [("gain", True)]
    kept = one.of("kept")[0]
    assert (kept["old"], kept["value"]) == (BASELINE, 512)
    assert kept["evidence"]["low"] > 1 < kept["evidence"]["pairs"]
    assert (KIND["KEPT"], 512) in one.records()
    one.run(20)
    assert one.value == 512
    one.stop_renewing()
    one.run(6)
    assert one.value == BASELINE
    assert one.of("undone")[0]["why"] == "its hold ended"
    assert one.journal.open_changes() == []


def test_a_loss_is_put_back_and_told(owner: Make) -> None:
    one = owner(ratio(0.7))
    one.run(5)
    one.recommend(512)
    one.run(70, lambda: one.of("result"))
    assert results(one) == [("loss", False)]
    assert one.value == BASELINE
    assert one.records()[-1] == (KIND["DROPPED"], layout.OUTCOME["LOSS"])
    assert one.journal.open_changes() == []
    assert [change.state for change in one.journal.history()] == ["undone"]


def test_what_changes_nothing_is_not_kept(owner: Make) -> None:
    one = owner(ratio(1.0))
    one.run(5)
    one.recommend(512)
    one.run(70, lambda: one.of("result"))
    assert results(one) == [("no change", False)]
    assert one.value == BASELINE


def test_a_collapse_is_cut_at_the_first_block(owner: Make) -> None:
    one = owner(ratio(0.1))
    one.run(6)
    one.recommend(512)
    one.run(70, lambda: one.of("result"))
    assert results(one) == [("aborted", False)]
    assert one.of("result")[0]["blocks"] <= 2
    assert "worse" in one.of("result")[0]["why"]


def test_the_noise_is_known_before_a_proposal_comes(owner: Make) -> None:
    one = owner(ratio(1.0))
    one.run(10)
    one.recommend(512)
    told = one.of("experiment")  # at once: nothing has to be calibrated first
    assert len(told) == 1
    assert 1 < told[0]["detectable"] < 1.2
    assert one.value in (BASELINE, 512)


def test_without_it_the_first_blocks_are_under_the_incumbent(owner: Make) -> None:
    one = owner(ratio(1.5))
    one.recommend(512)
    assert one.of("experiment") == []
    one.run(0.7)
    assert one.value == BASELINE
    one.run(70, lambda: one.of("result"))
    assert results(one) == [("gain", True)]
    assert one.of("experiment")[0]["detectable"] > 1


def test_the_next_owner_puts_back_what_was_not_measured_to_the_end(
    owner: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = owner(lambda value: {BASELINE: 1000.0, 512: 1500.0}.get(value, 1500.0))
    one.run(5)
    one.recommend(512)
    one.run(70, lambda: one.of("kept"))
    one.recommend(2048)
    one.run(5, lambda: one.value == 2048)
    holds = one.changes.holds()
    assert [hold.value for hold in holds] == [512]
    # Another process: whoever wrote the rows has ended.
    monkeypatch.setattr("kmind.guard._owner.start_time", lambda pid: 12345)
    one.open()
    one.changes.adopt([one.granted], holds, (), one.trials.adopt())
    assert one.value == 512
    assert one.changes.holding(*one.granted.key)
    (row,) = (each for each in one.store.latest() if each["candidate"] == 2048)
    assert (row["state"], row["why"]) == ("interrupted", "its owner was killed")
    assert "not measured to the end" in one.of("log")[0]["message"]


def test_the_next_owner_measures_again_what_was_kept(
    owner: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = owner(ratio(1.5), recheck=10.0)
    one.run(5)
    one.recommend(512)
    one.run(70, lambda: one.of("kept"))
    holds = one.changes.holds()
    monkeypatch.setattr("kmind.guard._owner.start_time", lambda pid: 12345)
    one.open()
    one.changes.adopt([one.granted], holds, (), one.trials.adopt())
    one.trials.take_up()
    began = one.now
    one.run(60, lambda: len(one.of("result")) == 2)
    assert one.of("experiment")[1]["kind"] == "recheck"
    assert one.now - began > 10
    assert one.value == 512


def test_silence_of_the_extension_ends_it(owner: Make) -> None:
    one = owner(ratio(1.0))
    one.run(5)
    one.recommend(512, renew=False, hold_s=2.0)
    one.run(3)
    assert results(one) == [("aborted", False)]
    assert one.of("result")[0]["why"] == "its hold ended"
    assert one.value == BASELINE
    assert one.trials.due < 1e9  # it goes on looking


def test_another_value_ends_it_and_is_measured_next(owner: Make) -> None:
    one = owner(ratio(1.0))
    one.run(5)
    one.recommend(512)
    one.run(2)
    one.recommend(1024)
    assert results(one) == [("aborted", False)]
    one.run(70, lambda: len(one.of("result")) == 2)
    assert one.of("result")[1]["candidate"] == 1024


def test_the_same_value_approved_again_goes_on(owner: Make) -> None:
    one = owner(ratio(1.5))
    one.run(5)
    one.recommend(512)
    one.run(1)
    one.recommend(512)
    assert one.of("result") == []
    one.run(70, lambda: one.of("kept"))
    one.recommend(512)
    one.run(3)
    assert one.value == 512
    assert len(one.of("experiment")) == 1


def test_the_baseline_is_no_experiment(owner: Make) -> None:
    one = owner(ratio(1.5))
    one.run(5)
    one.recommend(512)
    one.run(70, lambda: one.of("kept"))
    one.recommend(BASELINE)
    assert one.value == BASELINE
    assert len(one.of("experiment")) == 1
    assert one.of("undone")[0]["why"] == "The test says so."


@pytest.mark.parametrize("in_turn_of", [512, BASELINE])
def test_somebody_else_sets_the_knob_meanwhile(owner: Make, in_turn_of: int) -> None:
    one = owner(ratio(1.0))
    one.run(5)
    one.recommend(512)
    one.run(5, lambda: one.value == 512)
    one.run(5, lambda: one.value == in_turn_of)
    KNOB.write(one.target, 64)
    one.run(3)
    assert one.value == 64
    assert results(one) == [("aborted", False)]
    assert "somebody else" in one.of("result")[0]["why"]
    assert len(one.of("yielded")) == 1
    assert one.journal.open_changes() == []


@pytest.mark.parametrize("mode", [Mode.CANARY, Mode.ADVISE, Mode.OBSERVE])
def test_another_mode_ends_it(owner: Make, mode: Mode) -> None:
    one = owner(ratio(1.0))
    one.run(5)
    one.recommend(512)
    one.run(2)
    one.trials.set_mode(mode)
    one.changes.set_mode(mode)
    assert one.value == BASELINE
    assert results(one) == [("aborted", False)]


def test_canary_measures_and_keeps_nothing(owner: Make) -> None:
    one = owner(ratio(1.5), mode=Mode.CANARY)
    one.run(5)
    one.recommend(512)
    one.run(70, lambda: one.of("result"))
    assert results(one) == [("gain", False)]
    assert one.value == BASELINE
    assert one.records()[-1] == (KIND["DROPPED"], layout.OUTCOME["GAIN"])


def test_a_step_begins_at_once_after_the_step_before(owner: Make) -> None:
    one = owner(lambda value: {BASELINE: 1000.0, 512: 1500.0, 1024: 2000.0}[value])
    one.run(5)
    one.recommend(512)
    one.run(70, lambda: one.of("kept"))
    one.recommend(1024)
    assert len(one.of("experiment")) == 2  # what is known of 512 is known from the last one
    one.run(70, lambda: len(one.of("kept")) == 2)
    assert one.value == 1024


def test_a_step_that_loses_goes_back_to_the_step_before(owner: Make) -> None:
    one = owner(lambda value: {BASELINE: 1000.0, 512: 1500.0, 1024: 1200.0}[value])
    one.run(5)
    one.recommend(512)
    one.run(70, lambda: one.of("kept"))
    one.recommend(1024)
    one.run(70, lambda: one.of("dropped"))
    assert one.value == 512
    one.recommend(512)  # renewed by the test from now on
    one.run(10)
    assert one.value == 512


def test_a_load_that_ends_is_no_verdict(owner: Make) -> None:
    one = owner(ratio(1.0))
    one.run(5)
    one.recommend(512)
    one.run(1)
    one.speed = lambda value: 0.0
    one.run(20, lambda: one.of("result"))
    assert results(one) == [("aborted", False)]
    assert one.value == BASELINE


def test_nothing_is_read_while_nothing_happens(owner: Make) -> None:
    one = owner(lambda value: 0.0)
    one.run(20)
    assert one.wakes == 0
    assert one.trials.due == float("inf")


def test_an_owner_that_was_stopped_measures_the_block_again(owner: Make) -> None:
    one = owner(ratio(1.5))
    one.run(6)
    one.recommend(512)
    one.run(1.0)
    before = one.trials.status()["experiment"]
    one.now += 4.0  # SIGSTOP, or a machine that slept: less than the hold
    one.run(0.1)
    after = one.trials.status()["experiment"]
    assert before
    assert after
    assert after["blocks"] <= before["blocks"] + 1
    one.run(70, lambda: one.of("result"))
    assert results(one) == [("gain", True)]


def test_another_knob_has_to_wait(owner: Make) -> None:
    one = owner(ratio(1.0))
    one.run(5)
    one.recommend(512)
    other = replace(one.granted, knob=get_knob("block.nr_requests"))
    one.trials.approved(other, one._action(64, 5.0), "The test says so.", {})
    assert "read_ahead_kb is being measured" in one.of("failed")[0]["why"]
    assert one.trials.running
