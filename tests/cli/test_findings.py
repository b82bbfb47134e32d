# SPDX-License-Identifier: Apache-2.0
"""``kmind findings`` and ``kmind reports``: from the file, and through the daemon."""

import base64
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from serve.conftest import serve

from kmind.extension.handover import Cause, Filed, Found
from kmind.extension.manifest import FindingPart, ReportPart
from kmind.runtime.findings.keeper import Finder, Findings

if TYPE_CHECKING:
    from conftest import Cli

KIND = FindingPart(
    name="slow", help="h", severity="warning", score="Times as slow.", critical_from=4.0
)
WHO = Finder("slowio@vda", "slowio", "vda", "serial x")
FOUND: dict[str, Any] = {
    "kind": "slow",
    "title": "Requests take long.",
    "evidence": {"requests": 9},
    "causes": (Cause(hint="It is hot.", evidence={"celsius": 90.5}),),
    "action": "Cool it.",
}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The command line's folder: an open, a closed and an expired finding, and a report."""
    folder = tmp_path / "state"
    path = folder / "findings.db"
    with Findings(path, lambda event: None, now=lambda: time.time() - 1000) as findings:
        findings.find(WHO, KIND, Found(part="old", score=2.0, **FOUND))
    with Findings(path, lambda event: None) as findings:
        findings.find(WHO, KIND, Found(score=5.0, **FOUND))
        findings.find(WHO, KIND, Found(part="queue 1", score=2.0, **FOUND))
        findings.close_finding(WHO.id("finding", "slow", "queue 1"))
        files = {"last.csv": b"time\n\x1b[2J\0"}
        filed = Filed(kind="failure", signature="s", title="It fails.", count=3, files=files)
        findings.file(WHO, ReportPart(name="failure", help="h"), filed)
    return folder


def test_there_is_nothing(cli: "Cli") -> None:
    assert cli("findings").stdout == "nothing is found; closed findings: kmind findings --all\n"
    assert cli("reports").stdout == "no report was filed here yet\n"
    for words, line in (
        (("findings", "show", "3fa9"), "there is no finding 3fa9"),
        (("reports", "show", "3fa9"), "there is no report 3fa9"),
    ):
        done = cli(*words)
        assert (done.returncode, line in done.stderr) == (2, True)


def test_open_findings_are_listed(cli: "Cli", state: Path) -> None:
    head, row = cli("findings").stdout.splitlines()
    assert head.split() == ["id", "severity", "state", "of", "since", "what"]
    assert row.split()[1:4] == ["critical", "open", "vda"]
    assert row.endswith("Requests take long.")
    rows = cli("findings", "--all").stdout.splitlines()[1:]
    assert sorted(each.split()[2] for each in rows) == ["closed", "closed", "open"]


def test_one_finding_is_shown_whole(cli: "Cli", state: Path) -> None:
    key = WHO.id("finding", "slow", "")
    text = cli("findings", "show", key[:8]).stdout
    assert text.startswith(f"{key}: Requests take long.\n")
    for line in (
        "critical, open (it was found); slow of vda, found by slowio@vda",
        "score 5: Times as slow.",
        "evidence: requests = 9",
        "possible cause: It is hot. (celsius = 90.5)",
        "to do: Cool it.",
        "unless it is confirmed",
    ):
        assert line in text
    old = cli("findings", "show", WHO.id("finding", "slow", "old")).stdout
    assert "closed (nobody has confirmed it for 300 s)" in old


def test_findings_as_json(cli: "Cli", state: Path) -> None:
    listed = json.loads(cli("findings", "--all", "--json").stdout)
    assert listed["schema"] == "kmind.findings/1"
    assert {row["state"] for row in listed["findings"]} == {"open", "closed"}
    (row,) = json.loads(cli("findings", "--json").stdout)["findings"]
    shown = json.loads(cli("findings", "show", row["id"], "--json").stdout)
    assert shown["findings"] == [row]


def test_one_report_is_shown_and_its_files_saved(cli: "Cli", state: Path, tmp_path: Path) -> None:
    head, row = cli("reports").stdout.splitlines()
    assert head.split() == ["id", "kind", "of", "count", "last", "what"]
    assert row.split()[1:4] == ["failure", "vda", "3"]
    key = WHO.id("report", "failure", "s")
    folder = tmp_path / "saved"
    done = cli("reports", "show", key[:4], "--save", str(folder))
    assert "file: last.csv, 10 bytes" in done.stdout
    assert f"saved: {folder / 'last.csv'}" in done.stdout
    assert (folder / "last.csv").read_bytes() == b"time\n\x1b[2J\0"
    again = cli("reports", "show", key, "--save", str(folder))
    assert (again.returncode, "cannot write" in again.stderr) == (1, True)
    (shown,) = json.loads(cli("reports", "show", key, "--json").stdout)["reports"]
    assert base64.b64decode(shown["data"]["last.csv"]) == b"time\n\x1b[2J\0"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("findings", "show"), "show needs an id"),
        (("findings", "ack"), "ack needs an id"),
        (("findings", "list", "3fa9"), "list takes no id"),
        (("reports", "remove"), "remove needs an id"),
        (("reports", "--save", "x"), "--save is for show"),
    ],
)
def test_wrong_words_are_told(cli: "Cli", words: tuple[str, ...], line: str) -> None:
    done = cli(*words)
    assert (done.returncode, line in done.stderr) == (2, True)
    assert done.stderr.count("\n") == 1


def test_what_changes_needs_the_daemon(cli: "Cli", state: Path, tmp_path: Path) -> None:
    key = WHO.id("finding", "slow", "")
    socket = ("--socket", str(tmp_path / "none.sock"))
    assert cli("findings", "ack", key, *socket).returncode == 3
    assert cli("reports", "remove", WHO.id("report", "failure", "s"), *socket).returncode == 3


def test_through_the_daemon(cli: "Cli", tmp_path: Path) -> None:
    folder = tmp_path / "served"
    folder.mkdir()
    with serve(folder) as served:
        socket = ("--socket", str(served.path))
        key = served.do(served.supervisor.find)
        done = cli("findings", "ack", key[:5], *socket)
        assert done.stdout == f"{key[:8]} is acknowledged: It is slow.\n", done.stderr
        assert (
            cli("findings", "close", key, *socket).stdout == f"{key[:8]} is closed: It is slow.\n"
        )
        assert cli("findings", "close", key, *socket).returncode == 1
        report = served.do(served.supervisor.file_report)
        assert "is removed: It fails." in cli("reports", "remove", report, *socket).stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_the_file_is_for_root_alone(state: Path) -> None:
    assert (state / "findings.db").stat().st_mode & 0o077 == 0
