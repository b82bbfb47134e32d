# SPDX-License-Identifier: Apache-2.0
"""Findings and reports are checked, bounded and cleaned, and stay with their own target."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtime.findings.kept import Owner, manifest, reporter

from kmind.extension.handover import (
    FILES_MOST,
    FINDINGS_A_MINUTE,
    NOTE_MOST,
    REPORTS_A_MINUTE,
    Filed,
    Found,
)

FOUND: dict[str, Any] = {
    "kind": "slow",
    "part": "queue 1",
    "title": "It is slow.",
    "score": 2.0,
    "evidence": {"a": 1, "b": 2.5, "c": "text"},
    "causes": [{"hint": "It is hot.", "evidence": {"celsius": 90}}],
    "action": "Cool it.",
}
FILED: dict[str, Any] = {
    "kind": "failure",
    "signature": "s",
    "title": "T.",
    "count": 1,
    "evidence": {"a": 1},
    "files": {"a.csv": "AAAA"},
}


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    with (made := Owner(None, tmp_path / "root")).findings:
        yield made


@pytest.fixture
def filer(tmp_path: Path) -> Iterator[Owner]:
    with (made := Owner(None, tmp_path / "filer", reporter())).findings:
        yield made


def found(**more: Any) -> bytes:
    return json.dumps(FOUND | more).encode()


def filed(**more: Any) -> bytes:
    return json.dumps(FILED | more).encode()


def test_the_examples_are_whole() -> None:
    assert set(FOUND) == set(Found.__struct_fields__)
    assert set(FILED) == set(Filed.__struct_fields__)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (found(kind="other"), "declares no finding 'other'"),
        (found(kind="failure"), "declares no finding"),
        (found(title=""), "length"),
        (found(title="x" * 201), "length"),
        (found(part="x" * 101), "length"),
        (found(score="high"), "float"),
        (found().replace(b"2.0", b"NaN"), "malformed"),
        (found().replace(b"2.0", b"1e999"), ""),
        (found(evidence={"a": [1]}), "array"),
        (found(evidence={"a": True}), "bool"),
        (found(evidence={"a": None}), "null"),
        (found(evidence={"": 1}), "length"),
        (found(evidence={"a": 1 << 80}), ""),
        (found(evidence={str(n): n for n in range(25)}), "length"),
        (found(causes=[{"hint": "x"}] * 9), "length"),
        (found(causes=[{"hint": ""}]), "length"),
        (found(causes=[{"hint": "x", "evidence": {"a": {}}}]), "object"),
        (found(action="x" * 401), "length"),
        (found(instance="other@sim0"), "unknown field"),
        (found(id="0" * 16), "unknown field"),
        (found(since=0), "unknown field"),
        (found(severity="critical"), "unknown field"),
        (found(target="vda"), "unknown field"),
        (b"[" * 20000, ""),
        (b" " * NOTE_MOST + b"{}", "bytes"),
        (b"", "truncated"),
        (b"\xff\xfe", ""),
        (b'{"kind": "slow", "title": "\\ud800", "score": 1}', ""),
    ],
)
def test_a_finding_that_is_not_so_is_left_out_in_a_line(
    owner: Owner, text: bytes, why: str
) -> None:
    owner.finding.handle("finding", text)
    assert owner.rows == []
    (line,) = owner.log
    assert line.startswith("a finding is left out: ")
    assert why in line.lower() or why in line
    assert line.isprintable()
    owner.finding.handle("finding", found())  # and the next good one is taken
    assert len(owner.rows) == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (filed(kind="slow"), "declares no report 'slow'"),
        (filed(signature=""), "length"),
        (filed(count=0), ">= 1"),
        (filed(count=1e300), "int"),
        (filed(count=True), "bool"),
        (filed(files={"../../etc/passwd": "AAAA"}), "match"),
        (filed(files={"a/b": "AAAA"}), "match"),
        (filed(files={".hidden": "AAAA"}), "match"),
        (filed(files={"a\n": "AAAA"}), "match"),
        (filed(files={"a": "no base64!"}), "base64"),
        (filed(files={str(n): "AAAA" for n in range(9)}), "length"),
        (filed(files={"a": "AAAA" * (FILES_MOST // 3 + 2)}), f"may take {FILES_MOST}"),
        (filed(first=0), "unknown field"),
        (filed(keep_until=1e12), "unknown field"),
    ],
)
def test_a_report_that_is_not_so_is_left_out_in_a_line(filer: Owner, text: bytes, why: str) -> None:
    filer.report.handle("report", text)
    assert filer.reports == []
    (line,) = filer.log
    assert line.startswith("a report is left out: ")
    assert why in line
    filer.report.handle("report", filed())
    assert len(filer.reports) == 1


def test_a_tuner_can_hand_over_neither(tmp_path: Path) -> None:
    with (made := Owner(None, tmp_path, manifest(class_="tuner", findings=()))).findings:
        made.finding.handle("finding", found())
        made.finding.handle("cleared", b'{"kind": "slow"}')
        made.report.handle("report", filed())
        assert made.rows == made.reports == []
        assert len(made.log) == 3


def test_what_root_reads_is_printable(owner: Owner, filer: Owner) -> None:
    evil = "\x1b[2J\r\n‮⁦ ok"
    owner.finding.handle(
        "finding",
        found(
            part=evil,
            title=evil,
            action=evil,
            evidence={evil: evil},
            causes=[{"hint": evil, "evidence": {evil: evil}}],
        ),
    )
    filer.report.handle("report", filed(signature=evil, title=evil, evidence={evil: evil}))
    for rows, events in ((owner.rows, owner.events), (filer.reports, filer.events)):
        assert len(rows) == len(events) == 1
        for text in texts([rows, events]):
            assert text.isprintable(), ascii(text)
    assert owner.rows[0]["title"].endswith("ok")


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from texts([*value, *value.values()])
    elif isinstance(value, list | tuple):
        for each in value:
            yield from texts(each)


def test_it_clears_only_what_is_its_own(owner: Owner, tmp_path: Path) -> None:
    owner.slow()
    other = Owner(None, tmp_path / "other", manifest("other"))
    other.findings.close()
    other.finding._findings = owner.findings
    other.clear()
    owner.wait(100)
    assert owner.rows[0]["state"] == "open"


def test_no_more_than_a_minute_allows(owner: Owner, filer: Owner) -> None:
    for number in range(3 * FINDINGS_A_MINUTE):
        owner.finding.handle("finding", found() if number % 2 else b"bad")
    assert len(owner.log) <= 22
    assert any(f"more than {FINDINGS_A_MINUTE} a minute" in line for line in owner.log)
    for _ in range(3 * REPORTS_A_MINUTE):
        filer.report.handle("report", filed())
        filer.report.handle("report", b"bad")
    assert filer.reports[0]["count"] == REPORTS_A_MINUTE / 2
    assert len(filer.log) == REPORTS_A_MINUTE / 2 + 1


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Owner, Owner]:
    return (
        Owner(None, tmp_path_factory.mktemp("finder") / "root"),
        Owner(None, tmp_path_factory.mktemp("filer") / "root", reporter()),
    )


@given(data=st.data())
def test_any_json_and_any_bytes_do_no_harm(
    fuzzed: tuple[Owner, Owner], data: st.DataObject
) -> None:
    finder, filer = fuzzed
    for owner, example, kind in ((finder, FOUND, "finding"), (filer, FILED, "report")):
        name = data.draw(st.sampled_from([*example, "more"]))
        text = json.dumps(example | {name: data.draw(JSON)}).encode()
        owner.clock += 60
        owner.events.clear()
        owner.log.clear()
        owner.hand_over(kind, text)
        owner.hand_over(kind, data.draw(st.binary(max_size=80)))
        owner.inbox.handle([data.draw(st.binary(max_size=80))])
        owner.findings.poll()
        for text_of in texts([owner.rows, owner.reports, owner.events, owner.log]):
            assert text_of.isprintable()
        json.dumps([owner.rows, owner.reports], allow_nan=False)


def test_an_id_is_not_another_ones_by_where_words_are_cut(owner: Owner) -> None:
    changed: Callable[[str, str], Any] = lambda kind, part: owner.finding._who.id(kind, part)  # noqa: E731
    assert changed("ab", "c") != changed("a", "bc")
    assert changed("a", "") != changed("", "a")
    assert copy.copy(owner.finding._who).id("a", "b") == changed("a", "b")
