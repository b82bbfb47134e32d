# SPDX-License-Identifier: Apache-2.0
"""Values that are measured again."""

from pathlib import Path

from runtime.experiment.controlled import KIND, ratio, results
from runtime.measured import BASELINE, Make, Owner

from kmind.abi import layout
from kmind.runtime.evidence_store import EvidenceStore


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
