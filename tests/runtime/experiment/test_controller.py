# SPDX-License-Identifier: Apache-2.0
"""From an approved value to what stands: experiments of the owner, in made-up time."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from runtime.measured import BASELINE, KNOB, Make, Owner, Speed

from kmind.abi import layout
from kmind.agent.types import Mode
from kmind.errors import KmindError
from kmind.extension import find_module
from kmind.guard import Journal, Policy, restore
from kmind.knobs import get_knob
from kmind.runtime.experiment.store import EvidenceStore

KIND = layout.KIND


def ratio(by: float) -> Speed:
    return lambda value: 1000.0 * (by if value != BASELINE else 1.0)


def results(owner: Owner) -> list[tuple[str, bool]]:
    return [(each["outcome"], each["kept"]) for each in owner.of("result")]


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


def test_the_lease_goes_to_another_instance(owner: Make) -> None:
    one = owner(ratio(1.0))
    one.run(5)
    one.recommend(512)
    one.run(5, lambda: one.value == 512)
    one.changes.hand_over(*one.granted.key, "static@sim0")
    assert one.value == BASELINE
    assert results(one) == [("aborted", False)]
    assert one.of("result")[0]["why"] == "static@sim0 has the lease now"


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


def test_what_showed_no_gain_waits_twice_as_long_each_time(owner: Make) -> None:
    one = owner(ratio(0.7))
    one.run(5)
    for pause in (30.0, 60.0):
        one.recommend(512)
        one.run(70, lambda: not one.trials.running)
        one.recommend(512)
        assert "showed no gain 0 s ago" in one.of("failed")[-1]["why"]
        assert one.value == BASELINE
        one.stop_renewing()
        one.run(pause - 1)
        one.recommend(512)
        assert "not tried again for 1 s" in one.of("failed")[-1]["why"]
        one.stop_renewing()
        one.run(1.1)
    assert len(one.of("result")) == 2
    one.recommend(1024)  # another value may be tried
    one.run(1)
    assert one.trials.running


def test_another_word_of_the_extension_shortens_no_wait(owner: Make) -> None:
    one = owner(ratio(0.7))
    one.run(5)
    one.recommend(512, context="this")
    one.run(70, lambda: one.of("result"))
    one.recommend(512, context="that")
    assert "showed no gain" in one.of("failed")[0]["why"]
    assert not one.trials.running


def test_what_was_kept_is_remembered_in_its_context(owner: Make) -> None:
    one = owner(lambda value: {BASELINE: 1000.0, 512: 1500.0, 1024: 2000.0}[value])
    one.run(5)
    for value in (512, 1024):
        one.recommend(value, context="random")
        one.run(70, lambda value=value: one.value == value and not one.trials.running)
    one.recommend(BASELINE)
    one.recommend(1024, context="random")  # never measured against the baseline itself
    assert one.value == BASELINE  # which load it is has to be seen first
    one.run(3, lambda: one.of("applied"))
    assert one.value == 1024
    applied = one.of("applied")
    assert [each["value"] for each in applied] == [1024]
    assert "remembered: " in applied[0]["measured"]
    assert (KIND["APPLIED"], 1024) in one.records()
    one.recommend(BASELINE)
    one.recommend(1024, context="stream")
    one.run(3)
    assert len(one.of("experiment")) == 3


def test_what_was_cut_short_is_gone_on_with_in_its_context(owner: Make) -> None:
    one = owner(ratio(1.06), noise=0.2)
    one.run(5)
    for _ in range(20):
        one.recommend(512, context="random")
        one.run(4, lambda: one.of("kept"))
        if one.of("kept"):
            break
        one.recommend(BASELINE)
        one.run(3)
    pieces = one.of("result")
    assert [each["outcome"] for each in pieces[:-1]] == ["aborted"] * (len(pieces) - 1)
    assert (pieces[-1]["outcome"], pieces[-1]["kept"]) == ("gain", True)
    assert len(pieces) > 1
    assert pieces[-1]["blocks"] > pieces[0]["blocks"] + 4
    assert one.value == 512
    # Elsewhere nothing is known.
    one.recommend(BASELINE)
    one.recommend(512, context="stream")
    one.run(1.5)
    one.recommend(BASELINE)
    assert one.of("result")[-1]["blocks"] < 6


def test_what_a_guard_ended_is_not_gone_on_with(owner: Make) -> None:
    one = owner(ratio(0.1))
    one.run(5)
    one.recommend(512, context="random")
    one.run(20, lambda: one.of("result"))
    assert one.of("result")[0]["why"].startswith("guard ")
    one.run(40)
    one.recommend(512, context="random")
    one.run(0.1)
    assert one.trials.status()["blocks"] == 0


def test_memory_fades_and_a_later_verdict_overrules(tmp_path: Path) -> None:
    now = [1e9]
    with EvidenceStore(tmp_path / "evidence.db", now=lambda: now[0]) as store:
        for _ in range(2):
            folder = tmp_path / str(len(store.latest()))
            folder.mkdir()
            one = Owner(folder, ratio(1.5), store=store)
            one.run(5)
            one.recommend(512, context="x")
            one.run(70, lambda one=one: one.of("kept"))
            assert len(one.of("experiment")) == 1  # the week has passed: it is measured anew
            one.agent.close()
            one.journal.close()
            now[0] += 8 * 86400
        now[0] -= 8 * 86400 - 1
        one = Owner(tmp_path, ratio(0.5), store=store, recheck=2.0)
        one.recommend(512, context="x")
        one.run(3, lambda one=one: one.of("applied"))
        assert one.value == 512
        one.run(90, lambda: one.of("result"))
        assert results(one) == [("loss", False)]  # measured again, and refuted
        assert one.value == BASELINE
        now[0] += 1
        question = {"module": "readahead", "knob": KNOB, "target": one.target, "context": "x"}
        pair = {"incumbent": BASELINE, "candidate": 512, "younger_s": 1e6}
        assert store.gains(**question, **pair) == []  # type: ignore[arg-type]
        one.agent.close()
        one.journal.close()


def test_what_no_longer_looks_like_a_gain_goes(tmp_path: Path) -> None:
    with EvidenceStore(tmp_path / "evidence.db") as store:
        for turn, effect in enumerate((1.5, 1.0)):
            folder = tmp_path / str(turn)
            folder.mkdir()
            one = Owner(folder, ratio(effect), store=store, recheck=2.0, min_gain=0.02)
            one.run(5)
            one.recommend(512, context="x")
            assert turn == 0 or one.value == 512  # remembered
            one.run(90, lambda one=one: one.of("result"))
            assert results(one) == [[("gain", True)], [("no change", False)]][turn]
            one.agent.close()
            one.journal.close()
        assert one.value == BASELINE


def test_what_stands_is_measured_again_and_stays(owner: Make) -> None:
    one = owner(ratio(1.5), recheck=10.0)
    one.run(5)
    one.recommend(512)
    one.run(70, lambda: one.of("kept"))
    began = one.now
    one.run(100, lambda: len(one.of("result")) == 2)
    assert one.of("experiment")[1]["kind"] == "recheck"
    assert one.now - began > 10
    assert one.value == 512
    second = one.now
    one.run(100, lambda: len(one.of("result")) == 3)
    assert one.now - second > 20  # twice as long
    assert one.value == 512
    assert len(one.of("kept")) == 1  # the extension hears of it once


def test_what_helps_no_longer_goes(owner: Make) -> None:
    one = owner(ratio(1.5), recheck=5.0)
    one.run(5)
    one.recommend(512)
    one.run(70, lambda: one.of("kept"))
    one.speed = ratio(0.8)
    one.run(100, lambda: one.of("dropped"))
    assert one.value == BASELINE
    assert one.records()[-1] == (KIND["DROPPED"], layout.OUTCOME["LOSS"])


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
    before = one.trials.status()
    one.now += 4.0  # SIGSTOP, or a machine that slept: less than the hold
    one.run(0.1)
    after = one.trials.status()
    assert before
    assert after
    assert after["blocks"] <= before["blocks"] + 1
    one.run(70, lambda: one.of("result"))
    assert results(one) == [("gain", True)]


def test_a_knob_that_cannot_be_set_ends_it(owner: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one = owner(ratio(1.0))
    one.run(6)
    one.recommend(512)

    def refuse(*_: object, **__: object) -> None:
        raise KmindError("the kernel says no")

    monkeypatch.setattr("kmind.runtime.holds.trial_holds.MeasuredChanges.switch", refuse)
    one.run(5, lambda: one.of("result"))
    assert results(one) == [("aborted", False)]
    assert "the kernel says no" in one.of("result")[0]["why"]


def test_what_is_not_measured_stands_and_says_so(owner: Make) -> None:
    manifest = find_module("readahead").manifest
    one = owner(ratio(0.5), manifest=msgspec.structs.replace(manifest, outcomes=()))
    one.run(1)
    one.recommend(512)
    one.run(10)
    said = "not measured: the module declares no outcome"
    assert one.value == 512
    assert [each["measured"] for each in one.of("applied")] == [said]
    (row,) = one.store.latest()
    assert (row["kind"], row["outcome"], row["why"]) == ("unmeasured", "not measured", said)


def test_another_knob_has_to_wait(owner: Make) -> None:
    one = owner(ratio(1.0))
    one.run(5)
    one.recommend(512)
    other = replace(one.granted, knob=get_knob("block.nr_requests"))
    one.trials.approved(other, one._action(64, 5.0), "The test says so.", {})
    assert "read_ahead_kb is just being measured" in one.of("failed")[0]["why"]
    assert one.trials.running


def test_a_store_that_cannot_be_written_stops_nothing(owner: Make, tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path / "closed.db")
    one = owner(ratio(1.5), store=store)
    store.close()
    one.run(5)
    one.recommend(512, context="x")
    one.run(70, lambda: one.of("result"))
    assert one.value == 512
    assert any("cannot" in each["message"] for each in one.of("log"))
