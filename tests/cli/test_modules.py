# SPDX-License-Identifier: Apache-2.0
"""modules and depends: what they print of modules and of modules.d."""

import json
import os
from pathlib import Path

import pytest
from cli.placed import Ask, place, record

from kmind.extension.discovery import discovery


def test_modules_are_a_line_each_and_fit_the_terminal(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ask("modules")[1].splitlines()
    monkeypatch.setattr("kmind.util.table.terminal_width", lambda: 80)
    lines = ask("modules")[1].splitlines()
    assert len(lines) == len(whole)
    assert max(map(len, lines)) <= 80 < max(map(len, whole))
    assert [line.split()[0] for line in lines] == [line.split()[0] for line in whole]


def test_depends(ask: Ask, admin: Path) -> None:
    top, base = place(admin, "top", "base"), place(admin, "base")
    assert ask("depends", "top") == (0, f"base {base}\ntop {top}\n", "")
    found = record(ask, "depends", "top")
    assert found["schema"] == "kmind.depends/1"
    assert found["modules"][0]["depends"] == ["base"]
    assert [each["name"] for each in found["modules"][0]["order"]] == ["base", "top"]
    code, out, _ = ask("depends")
    assert code == 0
    assert {"base:", "top: base", "readahead:"} <= set(out.splitlines())


def test_a_circle_is_named_and_costs_no_other(ask: Ask, admin: Path) -> None:
    place(admin, "one", "two")
    place(admin, "two", "one")
    code, _, err = ask("depends", "one")
    assert code == 2
    assert err.startswith("kmind: modules depend on each other in a circle: ")
    code, out, _ = ask("depends", "--json")
    assert code == 1
    report = json.loads(out)
    assert set(report["broken"]) == {"one", "two"}
    assert "readahead" in [each["name"] for each in report["modules"]]


def test_modules_says_where_each_comes_from(ask: Ask, admin: Path) -> None:
    place(admin, "readahead")
    place(admin, "quiet")
    (admin / "modules.d" / "a.conf").write_text("blacklist quiet\noptions quite x=1\n")
    code, out, err = ask("modules")
    assert code == 0
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in out.splitlines()}
    assert rows["readahead"] == "tuner system [admin, hides another] Watches readahead."
    assert rows["quiet"] == "tuner system [admin, blacklisted] Watches quiet."
    hidden = f"built-in: {discovery.MODULE_DIRS['built-in']}/readahead"
    assert ask("info", "readahead", "-F", "hides")[1] == f"{hidden}\n"
    assert ask("info", "quiet", "-F", "blacklisted")[1] == f"{admin}/modules.d/a.conf:1\n"
    assert err == (
        f"kmind: {admin}/modules.d/a.conf:2: there is no module 'quite'; did you mean 'quiet'?\n"
    )
    assert record(ask, "modules")["unknown"] == [err.removeprefix("kmind: ").rstrip()]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is protected from others' files")
def test_what_others_can_change_is_refused(ask: Ask, admin: Path) -> None:
    os.chown(place(admin, "quiet") / "extension.py", 65534, 65534)
    code, out, _ = ask("modules")
    assert code == 1
    assert "quiet: broken: " in out
    assert "extension.py belongs to user 65534, and root relies on it" in out
    code, _, err = ask("info", "quiet")
    assert code == 2
    assert "belongs to user 65534" in err
