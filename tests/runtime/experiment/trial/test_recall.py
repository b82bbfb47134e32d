# SPDX-License-Identifier: Apache-2.0
"""Recall of earlier experiments on a case."""

from pathlib import Path

from runtime.experiment.controlled import KIND, ratio, results
from runtime.measured import BASELINE, KNOB, Make, Owner

from kmind.runtime.evidence_store import EvidenceStore


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
    assert one.trials.status()["experiment"]["blocks"] == 0


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
