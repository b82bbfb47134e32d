# SPDX-License-Identifier: Apache-2.0
"""modules, info and depends: what they print of modules and of modules.d."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kmind.cli.main import main
from kmind.extension import conf, discovery

if TYPE_CHECKING:
    from conftest import Cli

Ask = Callable[..., tuple[int, str, str]]

MANIFEST = """\
name = "{name}"
version = "2"
class = "detector"
description = "Watches {name}."
author = "A. Author"
licence = "Apache-2.0"
aliases = ["net:*"]
depends = [{depends}]
agent = {{object = "none.bpf.c"}}
extension = {{entry = "extension:Nothing"}}
target = {{kind = "system"}}

[sandbox]
files = ["/etc/hostname"]

[[knob]]
name = "vm.swappiness"
priority = 9

[[hook]]
program = "on_read"
tracepoint = "block_rq_issue"
optional = true
costs = "sizes are not known"

[[parameter]]
name = "eager"
type = "bool"
default = false
help = "Whether to hurry."

[[parameter]]
name = "label"
type = "str"
help = "Name in reports."

[[feature]]
name = "free"
kind = "gauge"
unit = "kB"
help = "Memory left."
"""


@pytest.fixture
def admin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The administrator's folder, with nothing in it; modules and modules.d below."""
    folders = {name: tmp_path / name / "modules" for name in ("admin", "vendor")}
    folders["built-in"] = discovery.MODULE_DIRS["built-in"]
    monkeypatch.setattr(discovery, "MODULE_DIRS", folders)
    conf_dir = tmp_path / "admin" / "modules.d"
    conf_dir.mkdir(parents=True)
    monkeypatch.setattr(conf, "CONF_DIRS", (conf_dir,))
    return tmp_path / "admin"


@pytest.fixture
def ask(admin: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs a command in this process, where the folders are the test's; code, out, err."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main(list(words))
        out, err = capsys.readouterr()
        return code, out, err

    return run


def place(admin: Path, name: str, *depends: str) -> Path:
    folder = admin / "modules" / name
    folder.mkdir(parents=True)
    folder.joinpath("extension.py").touch()
    names = ", ".join(f'"{each}"' for each in depends)
    folder.joinpath("module.toml").write_text(MANIFEST.format(name=name, depends=names))
    return folder


def record(ask: Ask, *words: str) -> dict[str, Any]:
    code, out, err = ask(*words, "--json")
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def test_info_of_a_built_in(cli: "Cli") -> None:
    """As a user runs it, with what this machine has."""
    done = cli("info", "readahead")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert "name:           readahead" in lines
    assert "origin:         built-in" in lines
    below = lines[lines.index("parameters:") :]
    assert any(line.startswith("    patience: Wait that long") for line in below)
    assert not any(word in done.stdout for word in ("{", "': ", "[]", "None"))
    outcome = next(line for line in lines if line.startswith("    requests = "))
    assert "(reads + faults + fault_around) in 1/s, higher is better: Reads" in outcome
    assert cli("info", "readahead", "-F", "knobs").stdout == "block.read_ahead_kb\n"
    assert "readahead" in cli("depends").stdout


def test_modules_are_a_line_each_and_fit_the_terminal(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ask("modules")[1].splitlines()
    monkeypatch.setattr("kmind.util.table.terminal_width", lambda: 80)
    lines = ask("modules")[1].splitlines()
    assert len(lines) == len(whole)
    assert max(map(len, lines)) <= 80 < max(map(len, whole))
    assert [line.split()[0] for line in lines] == [line.split()[0] for line in whole]


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
    assert rows["readahead"] == "detector system [admin, hides another] Watches readahead."
    assert rows["quiet"] == "detector system [admin, blacklisted] Watches quiet."
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
