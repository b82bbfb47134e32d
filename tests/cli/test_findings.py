# SPDX-License-Identifier: Apache-2.0
"""``kmind findings``: from the file, and through the daemon."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cli.found import WHO
from serve.conftest import serve

if TYPE_CHECKING:
    from conftest import Cli


def test_there_is_nothing(cli: "Cli") -> None:
    assert cli("findings").stdout == "No open findings; for closed ones: kmind findings --all\n"
    done = cli("findings", "show", "3fa9")
    assert (done.returncode, "there is no finding 3fa9" in done.stderr) == (2, True)


def test_open_findings_are_listed(cli: "Cli", found: Path) -> None:
    head, row = cli("findings").stdout.splitlines()
    assert head.split() == ["id", "severity", "state", "of", "since", "what"]
    assert row.split()[1:4] == ["critical", "open", "vda"]
    assert row.endswith("Requests take long.")
    rows = cli("findings", "--all").stdout.splitlines()[1:]
    assert sorted(each.split()[2] for each in rows) == ["closed", "closed", "open"]


def test_one_finding_is_shown_whole(cli: "Cli", found: Path) -> None:
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
    assert "closed (it was not confirmed for 300 s)" in old


def test_findings_as_json(cli: "Cli", found: Path) -> None:
    listed = json.loads(cli("findings", "--all", "--json").stdout)
    assert listed["schema"] == "kmind.findings/1"
    assert {row["state"] for row in listed["findings"]} == {"open", "closed"}
    (row,) = json.loads(cli("findings", "--json").stdout)["findings"]
    shown = json.loads(cli("findings", "show", row["id"], "--json").stdout)
    assert shown["findings"] == [row]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("findings", "show"), "show needs an id"),
        (("findings", "ack"), "ack needs an id"),
        (("findings", "list", "3fa9"), "list takes no id"),
    ],
)
def test_wrong_words_are_told(cli: "Cli", words: tuple[str, ...], line: str) -> None:
    done = cli(*words)
    assert (done.returncode, line in done.stderr) == (2, True)
    assert done.stderr.count("\n") == 1


def test_what_changes_needs_the_daemon(cli: "Cli", found: Path, tmp_path: Path) -> None:
    key = WHO.id("finding", "slow", "")
    socket = ("--socket", str(tmp_path / "none.sock"))
    assert cli("findings", "ack", key, *socket).returncode == 3


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


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_the_file_is_for_root_alone(found: Path) -> None:
    assert (found / "findings.db").stat().st_mode & 0o077 == 0
