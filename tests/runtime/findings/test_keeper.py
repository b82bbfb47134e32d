# SPDX-License-Identifier: Apache-2.0
"""Findings open, last, and close by the owner's rules; reports are counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runtime.findings.kept import Owner, manifest, reporter

from kmind.errors import KmindError, UsageError
from kmind.extension.handover import OPEN_MOST
from kmind.extension.manifest.manifest import FindingPart
from kmind.runtime.findings.store import read_findings


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    with (made := Owner(tmp_path / "findings.db", tmp_path / "root")).findings:
        yield made


def only(owner: Owner) -> dict[str, Any]:
    (row,) = owner.rows
    return row


def test_a_finding_is_kept_with_what_the_owner_knows_of_it(owner: Owner) -> None:
    owner.slow(
        2.5, part="queue 3", evidence={"p99_us": 900.0},
        causes={"It is hot.": {"celsius": 90}}, action="Cool it.",
    )  # fmt: skip
    row = only(owner)
    assert (row["instance"], row["module"], row["target"]) == ("sample@sim0", "sample", "sim0")
    assert (row["kind"], row["subject"], row["severity"]) == ("slow", "sim0: queue 3", "warning")
    assert (row["score"], row["meaning"], row["unit"]) == (2.5, "Times as slow.", "1")
    assert (row["state"], row["since"], row["last"]) == ("open", 1e9, 1e9)
    assert row["expires"] == 1e9 + 300
    assert row["evidence"] == {"p99_us": 900.0}
    assert row["causes"] == [{"hint": "It is hot.", "evidence": {"celsius": 90}}]
    ((event, fields),) = owner.events
    assert event == "finding"
    assert fields["finding"] == row["id"]
    assert (fields["state"], fields["why"]) == ("open", "it was found")


def test_it_closes_once_it_was_gone_for_long_enough(owner: Owner) -> None:
    owner.slow()
    owner.wait(100)
    owner.clear()
    owner.wait(59)
    assert only(owner)["state"] == "open"
    owner.wait(2)
    row = only(owner)
    assert (row["state"], row["why"]) == ("closed", "it was no longer found")
    assert owner.states == ["open", "closed"]


def test_one_that_comes_and_goes_does_not_flap(owner: Owner) -> None:
    for _ in range(200):
        owner.slow()
        owner.wait(5)
        owner.clear()
        owner.wait(50)
    assert owner.states == ["open"]
    assert only(owner)["since"] == 1e9
    owner.wait(60)
    assert owner.states == ["open", "closed"]


def test_it_has_to_last_before_it_opens(owner: Owner) -> None:
    def late() -> None:
        owner.context._found_at.clear()
        owner.context.finding("late", title="It is late.", score=1)

    for _ in range(10):
        late()
        owner.wait(20)
        owner.context.clear_finding("late")
    assert owner.rows == []
    late()
    first = owner.clock
    owner.wait(30)
    late()
    assert only(owner)["since"] == first
    assert owner.states == ["open"]


def test_it_expires_unless_it_is_confirmed(owner: Owner) -> None:
    owner.slow()
    for _ in range(60):
        owner.wait(10)
        owner.context.finding("slow", title="It is slow.", score=2.0)
    assert owner.states == ["open"]
    owner.wait(299)
    assert owner.states == ["open"]
    owner.wait(2)
    assert owner.states == ["open", "closed"]
    assert only(owner)["why"] == "it was not confirmed for 300 s"


def test_the_shortest_expiry_outlasts_writes_that_are_spared(tmp_path: Path) -> None:
    kind = FindingPart(name="slow", help="h", severity="info", score="s", expires_s=30.0)
    made = Owner(tmp_path / "f.db", tmp_path / "root", manifest(findings=(kind,)))
    with made.findings:
        for _ in range(100):
            made.slow()
            made.wait(10)
        assert made.states == ["open"]


def test_found_again_it_is_the_same_finding(owner: Owner) -> None:
    owner.slow()
    owner.clear()
    owner.wait(61)
    first = only(owner)
    owner.slow()
    row = only(owner)
    assert row["id"] == first["id"]
    assert (row["times"], row["since"], row["state"]) == (2, owner.clock, "open")
    assert owner.states == ["open", "closed", "open"]


def test_severity_only_rises_and_is_news(owner: Owner) -> None:
    owner.slow(2.0)
    owner.findings.acknowledge(only(owner)["id"])
    owner.slow(11.0)
    assert (only(owner)["severity"], only(owner)["state"]) == ("critical", "open")
    for score in (2.0, 12.0, 3.0, 13.0):
        owner.slow(score)
    assert only(owner)["severity"] == "critical"
    assert owner.states == ["open", "acknowledged", "open"]


def test_root_acknowledges_and_it_stays_so(owner: Owner) -> None:
    owner.slow()
    assert owner.findings.acknowledge(only(owner)["id"][:6])["state"] == "acknowledged"
    owner.slow()
    owner.wait(100)
    assert only(owner)["state"] == "acknowledged"
    owner.wait(300)
    assert owner.states == ["open", "acknowledged", "closed"]
    with pytest.raises(KmindError, match="is closed"):
        owner.findings.acknowledge(only(owner)["id"])
    with pytest.raises(UsageError, match="there is no finding"):
        owner.findings.acknowledge("0000")


def test_what_root_has_closed_is_news_only_once_it_was_gone(owner: Owner) -> None:
    owner.slow()
    owner.findings.close_finding(only(owner)["id"])
    for _ in range(100):
        owner.slow()
        owner.clear()  # too short to be gone
        owner.wait(10)
    assert owner.states == ["open", "closed"]
    owner.clear()
    owner.wait(61)
    owner.slow()
    assert owner.states == ["open", "closed", "open"]


def test_what_root_has_closed_is_told_again_after_a_day(owner: Owner) -> None:
    owner.slow()
    owner.findings.close_finding(only(owner)["id"])
    for _ in range(86400 // 100):
        owner.clock += 100
        owner.slow()
    assert owner.states == ["open", "closed", "open"]


def test_it_outlives_the_daemon(tmp_path: Path) -> None:
    path = tmp_path / "findings.db"
    with (first := Owner(path, tmp_path / "root")).findings:
        first.slow()
        first.findings.acknowledge(only(first)["id"])
    with (second := Owner(path, first.target, clock=1e9 + 20)).findings:
        second.slow(3.0)
        row = only(second)
        assert (row["state"], row["since"], row["score"]) == ("acknowledged", 1e9, 3.0)
        assert second.events == []
    # The machine was off, and nobody has looked: it is shown as what it is.
    with (third := Owner(path, first.target, clock=1e9 + 4000)).findings:
        (shown,) = read_findings(path)
        assert (shown["state"], shown["why"]) == ("closed", "it was not confirmed for 300 s")
        third.findings.poll()
        assert third.states == ["closed"]


def test_a_clock_that_is_set_back_keeps_none_open(owner: Owner) -> None:
    owner.slow()
    owner.clock -= 1e6
    owner.findings.poll()
    owner.wait(302)
    assert owner.states == ["open", "closed"]


def test_no_other_module_or_target_can_make_the_same_id(tmp_path: Path) -> None:
    path = tmp_path / "findings.db"
    ids = set()
    for number, name in enumerate(("sample", "samples", "other")):
        with (made := Owner(path, tmp_path / str(number), manifest(name))).findings:
            for part in ("", "a", "finding", "4:slow"):
                made.slow(part=part)
            ids |= {row["id"] for row in made.rows if row["module"] == name}
    assert len(ids) == 12


def test_too_many_open_ones_are_left_out_in_a_line(owner: Owner) -> None:
    for number in range(OPEN_MOST + 5):
        owner.slow(part=str(number))
    assert len(owner.rows) == OPEN_MOST
    assert len(owner.log) == 5
    assert owner.log[0] == f"a finding is left out: {OPEN_MOST} are open already"


# Reports


@pytest.fixture
def filer(tmp_path: Path) -> Iterator[Owner]:
    with (made := Owner(tmp_path / "findings.db", tmp_path / "root", reporter())).findings:
        yield made


def test_reports_of_one_signature_are_one(filer: Owner) -> None:
    for number in range(3):
        filer.context.file_report(
            "failure", signature="read fails", title="Reads fail.", count=2,
            evidence={"number": number}, files={"last.csv": b"a" * number},
        )  # fmt: skip
        filer.clock += 3
    (row,) = filer.reports
    assert (row["count"], row["first"], row["last"]) == (6, 1e9, 1e9 + 6)
    assert row["evidence"] == {"number": 2}
    assert row["files"] == {"last.csv": 2}
    assert row["keep_until"] == 1e9 + 6 + 2 * 86400
    filer.context.file_report("failure", signature="write fails", title="Writes fail.")
    assert len(filer.reports) == 2
    found, files = filer.findings._store.find_report(row["id"][:5])
    assert (found["id"], files) == (row["id"], {"last.csv": b"aa"})


def test_a_report_is_told_once_a_minute(filer: Owner) -> None:
    for _ in range(60):
        filer.context.file_report("failure", signature="s", title="T.")
        filer.clock += 2
    counts = [fields["count"] for event, fields in filer.events if event == "report"]
    assert counts == [1, 31]


def test_reports_are_kept_for_so_long(filer: Owner) -> None:
    filer.context.file_report("failure", signature="old", title="T.")
    filer.clock += 2 * 86400 + 1
    assert filer.reports == []
    filer.context.file_report("failure", signature="new", title="T.")
    assert [row["signature"] for row in filer.reports] == ["new"]


def test_root_removes_a_report(filer: Owner) -> None:
    filer.context.file_report("failure", signature="s", title="T.", files={"a": b"x"})
    (row,) = filer.reports
    assert filer.findings.remove_report(row["id"][:4])["id"] == row["id"]
    assert filer.reports == []
    with pytest.raises(UsageError, match="there is no report"):
        filer.findings.remove_report(row["id"])
    filer.context.file_report("failure", signature="s", title="T.")
    assert filer.reports[0]["count"] == 1
