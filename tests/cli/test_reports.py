# SPDX-License-Identifier: Apache-2.0
"""``kmind reports``: a list, one with its files, and removed through the daemon."""

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cli.found import WHO
from serve.conftest import serve

if TYPE_CHECKING:
    from conftest import Cli


def test_one_report_is_shown_and_its_files_saved(cli: "Cli", found: Path, tmp_path: Path) -> None:
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
        (("show",), "show needs an id"),
        (("list", "3fa9"), "list takes no id"),
        (("remove",), "remove needs an id"),
        (("--save", "x"), "--save goes with: kmind reports show"),
        (("show", "3fa9"), "there is no report 3fa9"),
        (("show", "3f"), "there is no report 3f"),
    ],
)
def test_wrong_words_are_one_line(cli: "Cli", words: tuple[str, ...], line: str) -> None:
    done = cli("reports", *words)
    assert (done.returncode, line in done.stderr, done.stderr.count("\n")) == (2, True, 1)


def test_none_yet(cli: "Cli") -> None:
    assert cli("reports").stdout == "There are no reports yet.\n"


def test_one_is_removed_by_the_daemon_alone(cli: "Cli", found: Path, tmp_path: Path) -> None:
    key = WHO.id("report", "failure", "s")
    assert cli("reports", "remove", key, "--socket", str(tmp_path / "none")).returncode == 3
    folder = tmp_path / "served"
    folder.mkdir()
    with serve(folder) as served:
        key = served.do(served.supervisor.file_report)
        done = cli("reports", "remove", key, "--socket", str(served.path))
    assert "is removed: It fails." in done.stdout
