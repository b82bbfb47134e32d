# SPDX-License-Identifier: Apache-2.0
"""Values that are measured again."""

from pathlib import Path

import msgspec
import pytest
from runtime.experiment.controlled import KIND, ratio, results
from runtime.measured import BASELINE, Make, Owner

from kmind.abi import layout
from kmind.extension import find_module
from kmind.extension.manifest.outcome import CircumstancePart, OutcomePart
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


@pytest.mark.parametrize("scale", [0.4, 8.0])
def test_another_level_asks_for_a_measurement_soon(owner: Make, scale: float) -> None:
    # One class for all loads: how much is done under the value tells them apart, and nothing else.
    speed = OutcomePart(name="speed", help="x", better="higher", numerator=("reads",))
    alike = CircumstancePart(
        name="alike", help="x", numerator=("reads",), bounds=(1e18,), classes=("yes", "no")
    )
    manifest = msgspec.structs.replace(
        find_module("readahead").manifest, outcomes=(speed,), circumstances=(alike,)
    )
    one = owner(ratio(2.0), manifest=manifest, recheck=20.0)
    one.run(5)
    one.recommend(512)
    one.run(400, lambda: len(one.of("result")) == 4)
    assert [each["kept"] for each in one.of("result")] == [True] * 4
    began = one.now
    one.run(60)
    assert len(one.of("experiment")) == 4, "it may stand for 160 s by now"
    one.speed = lambda value: 1000.0 * scale * (0.7 if value != BASELINE else 1.0)
    one.run(60, lambda: len(one.of("result")) == 5)
    assert not one.of("result")[-1]["kept"]
    assert one.now < began + 80
