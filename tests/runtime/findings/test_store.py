# SPDX-License-Identifier: Apache-2.0
"""Findings and reports in their file: bounds, ids, and a disk that is full."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runtime.findings.kept import Owner, manifest, reporter
from small_disk import fill, small_disk

from kmind.errors import UsageError
from kmind.paths import findings_path
from kmind.runtime.findings.store import (
    CLOSED_MOST,
    REPORTS_MOST,
    FindingStore,
    closing_reason,
    make_id,
    read_findings,
    read_reports,
    shown_state,
)


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    with (made := Owner(tmp_path / "findings.db", tmp_path / "root")).findings:
        yield made


@pytest.fixture
def filer(tmp_path: Path) -> Iterator[Owner]:
    with (made := Owner(tmp_path / "findings.db", tmp_path / "root", reporter())).findings:
        yield made


def only(owner: Owner) -> dict[str, Any]:
    (row,) = owner.rows
    return row


def test_closed_ones_of_one_module_push_out_no_others(owner: Owner, tmp_path: Path) -> None:
    path = tmp_path / "findings.db"
    with (other := Owner(path, tmp_path / "other", manifest("other"))).findings:
        other.slow()
        other.findings.close_finding(only(other)["id"])
    for number in range(CLOSED_MOST + 30):
        owner.slow(part=str(number))
        owner.clock += 0.2
        row = next(row for row in owner.rows if row["part"] == str(number))
        owner.findings.close_finding(row["id"])
    closed = [row["module"] for row in owner.rows]
    assert closed.count("sample") == CLOSED_MOST
    assert closed.count("other") == 1


@pytest.mark.fault
def test_a_full_disk_loses_no_finding(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "8m") as small:
        owner = Owner(small / "findings.db", tmp_path / "root")
        owner.slow(part="before")
        ballast = fill(small)
        for number in range(40):
            owner.slow(part=f"{number}: {'x' * 90}", action="y" * 400)
        assert owner.states.count("open") == 41
        assert any("findings" in fields["message"] for e, fields in owner.events if e == "log")
        assert len([e for e, _ in owner.events if e == "log"]) == 1
        owner.clear("before")
        owner.wait(61)  # it goes on by what is in memory
        assert owner.states.count("closed") == 1
        ballast.unlink()
        for number in range(40):
            owner.slow(part=f"{number}: {'x' * 90}", action="y" * 400)
        owner.wait(2)
        owner.findings.close()
        states = [row["state"] for row in read_findings_now(owner, small / "findings.db")]
        assert sorted(states) == ["closed"] + 40 * ["open"]


def read_findings_now(owner: Owner, path: Path) -> list[dict[str, Any]]:
    with FindingStore(path, read_only=True, now=lambda: owner.clock) as store:
        return store.findings()


def test_files_of_before_are_kept_where_none_are_new(filer: Owner) -> None:
    filer.context.file_report("failure", signature="s", title="T.", files={"a": b"\0\xff"})
    filer.context.file_report("failure", signature="s", title="T.")
    assert filer.findings._store.find_report(filer.reports[0]["id"])[1] == {"a": b"\0\xff"}


def test_only_so_many_reports_are_kept_of_one_module(filer: Owner, tmp_path: Path) -> None:
    path = tmp_path / "findings.db"
    with (other := Owner(path, tmp_path / "o", reporter("other"))).findings:
        other.context.file_report("failure", signature="s", title="T.")
    for number in range(REPORTS_MOST + 20):
        filer.context.file_report("failure", signature=f"s{number}", title="T.")
        filer.clock += 3
    rows, _ = read_reports(path)
    assert rows == []  # long ago, by this machine's clock
    modules = [row["module"] for row in filer.reports]
    assert modules.count("sample") == REPORTS_MOST
    assert modules.count("other") == 1


def test_id_is_of_the_words_and_where_each_ends() -> None:
    assert make_id("a", "bc") == make_id("a", "bc") != make_id("ab", "c")
    assert len(make_id()) == 16


def test_file_is_beside_the_journal() -> None:
    assert findings_path(Path("/x/journal.db")) == Path("/x/findings.db")


def test_nothing_is_made_by_reading(tmp_path: Path) -> None:
    path = tmp_path / "findings.db"
    assert read_findings(path) == []
    assert read_reports(path) == ([], {})
    for read in (read_findings, read_reports):
        with pytest.raises(UsageError, match="there is no"):
            read(path, "3fa9")
    assert not path.exists()


def test_id_may_be_short_where_one_begins_so(owner: Owner) -> None:
    owner.slow(part="a")
    row = only(owner)
    store = owner.findings._store
    assert store.find_finding(row["id"][:4])["id"] == row["id"]
    for name in ("", row["id"][:3], "%%%%", "____", row["id"] + "0"):
        with pytest.raises(UsageError, match="there is no finding"):
            store.find_finding(name)


def test_finding_that_is_due_is_shown_closed(owner: Owner) -> None:
    owner.slow()
    row = only(owner)
    assert shown_state(row, row["due"] - 1) == row
    closed = shown_state(row, row["due"])
    assert (closed["state"], closed["closed"]) == ("closed", row["due"])
    assert closed["why"] == closing_reason(row) == "it was not confirmed for 300 s"
