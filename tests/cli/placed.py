# SPDX-License-Identifier: Apache-2.0
"""Folders of modules for the tests of modules, info and depends."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kmind.cli.main import main
from kmind.extension.discovery import conf, discovery

Ask = Callable[..., tuple[int, str, str]]

MANIFEST = """\
name = "{name}"
version = "2"
class = "tuner"
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
    monkeypatch.setattr(conf, "CONF_FOLDERS", (conf_dir,))
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
