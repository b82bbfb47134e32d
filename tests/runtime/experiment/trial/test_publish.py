# SPDX-License-Identifier: Apache-2.0
"""Experiments told as events, and as rows of the store."""

from pathlib import Path

import msgspec
from runtime.experiment.controlled import ratio
from runtime.measured import Make

from kmind.extension import find_module
from kmind.runtime.evidence_store import EvidenceStore


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


def test_a_store_that_cannot_be_written_stops_nothing(owner: Make, tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path / "closed.db")
    one = owner(ratio(1.5), store=store)
    store.close()
    one.run(5)
    one.recommend(512, context="x")
    one.run(70, lambda: one.of("result"))
    assert one.value == 512
    assert any("cannot" in each["message"] for each in one.of("log"))
