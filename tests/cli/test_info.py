# SPDX-License-Identifier: Apache-2.0
"""``kmind info``: all about a module, or one field of it."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cli.placed import Ask, place, record

from kmind.extension.discovery import discovery

if TYPE_CHECKING:
    from conftest import Cli


def test_info_of_a_built_in(cli: "Cli") -> None:
    """As a user runs it, with what this machine has."""
    done = cli("info", "readahead")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert "name:           readahead" in lines
    assert "origin:         built-in" in lines
    below = lines[lines.index("parameters:") :]
    assert any(line.startswith("    patience: Wait for files") for line in below)
    assert not any(word in done.stdout for word in ("{", "': ", "[]", "None"))
    outcome = next(line for line in lines if line.startswith("    requests = "))
    assert "(reads + faults + fault_around) in 1/s, higher is better: Reads" in outcome
    assert cli("info", "readahead", "-F", "knobs").stdout == "block.read_ahead_kb\n"
    assert "readahead" in cli("depends").stdout


def test_info_fits_the_terminal(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ask("info", "readahead")[1]
    monkeypatch.setattr("kmind.cli.info.terminal_width", lambda: 80)
    shown = ask("info", "readahead")[1]
    folder = str(discovery.MODULE_DIRS["built-in"])
    assert all(len(line) <= 80 or folder in line for line in shown.splitlines())
    assert shown.split() == whole.split()


def test_info(ask: Ask, admin: Path) -> None:
    folder = place(admin, "quiet", "base")
    (admin / "modules.d" / "a.conf").write_text(
        "options quiet eager=yes mode=canary\nalias block:sd* quiet\nblacklist quiet\n"
    )
    found = record(ask, "info", "quiet")
    assert found["schema"] == "kmind.info/1"
    assert (found["origin"], found["folder"]) == ("admin", str(folder))
    assert found["aliases"] == ["net:*", "block:sd*"]
    assert (found["depends"], found["conflicts"], found["hides"]) == (["base"], [], [])
    assert found["limits"] == {"cpu_percent": 50, "memory_mib": 256, "pids": 16}
    assert found["sandbox"] == {"files": ["/etc/hostname"], "network": False}
    assert found["priorities"] == {"vm.swappiness": 9}
    assert found["mode"] == "canary"
    assert found["blacklisted"] == f"{admin}/modules.d/a.conf:3"
    eager, label = found["parameters"]
    assert (eager["default"], eager["set"]) == (False, "yes")
    assert eager["set_at"] == f"{admin}/modules.d/a.conf:1"
    assert (label["default"], label["set"], label["set_at"]) == (None, None, None)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("version", "2\n"),
        ("aliases", "net:*\n"),
        ("depends", ""),
        ("blacklisted", ""),
        ("priorities", "vm.swappiness=9\n"),
        ("limits", "cpu_percent=50\nmemory_mib=256\npids=16\n"),
        ("sandbox", "files=/etc/hostname\nnetwork=false\n"),
        ("hooks", "on_read on block_rq_issue, optional; without it sizes are not known\n"),
        ("features", "free (gauge, in kB): Memory left.\n"),
        (
            "parameters",
            "eager: Whether to hurry. (true or false; default false)\n"
            "label: Name in reports. (text; required)\n",
        ),
    ],
)
def test_one_field(ask: Ask, admin: Path, field: str, text: str) -> None:
    place(admin, "quiet")
    assert ask("info", "quiet", "-F", field) == (0, text, "")
    assert record(ask, "info", "quiet", "-F", field).keys() == {"schema", field}


def test_info_of_what_is_not_there(ask: Ask, admin: Path) -> None:
    place(admin, "quiet")
    assert ask("info", "quite") == (
        2, "", "kmind: there is no module 'quite'; did you mean 'quiet'?\n",
    )  # fmt: skip
    code, out, err = ask("info", "quiet", "-F", "alias")
    assert (code, out) == (2, "")
    assert err == "kmind: a module has no field 'alias'; did you mean 'aliases'?\n"
