# SPDX-License-Identifier: Apache-2.0
"""Bad input gives one line with the fault and the remedy, and the right exit code."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sample_module import MANIFEST, make_module

if TYPE_CHECKING:
    from conftest import Cli

WRONG = [
    (["run", "readahed", "vda"], 2, "there is no module 'readahed'; did you mean 'readahead'?"),
    (["run", "./nowhere", "vda"], 2, "nowhere/module.toml: No such file"),
    (["run", "readahead", "vdnope"], 2, "unknown block device 'vdnope'"),
    (["run", "readahead", "system"], 2, "works on a block target, and system is a system one"),
    (["run", "readahead"], 2, "module readahead needs a target: a block device"),
    (["run", "readahead", "DISK", "patience"], 2, "'patience' is not a parameter"),
    (["run", "readahead", "DISK", "patienc=3"], 2, "no parameter 'patienc'; did you mean"),
    (["run", "readahead", "DISK", "random-kb=x"], 2, "parameter random_kb is 'x', and must be an"),
    (["run", "readahead", "DISK", "events=7"], 2, "parameter events is '7', and must be true"),
    (
        ["run", "readahead", "DISK", "--mode", "emergency"],
        2,
        "invalid choice: 'emergency' (choose from",
    ),
    (["run", "readahead", "DISK", "--duration", "-1"], 2, "--duration"),
    (["run", "readahead", "DISK", "--duration", "long"], 2, "--duration"),
    (["run", "readahead", "DISK", "--policy", "/nowhere.toml"], 1, "policy /nowhere.toml"),
    (["bench", "fast"], 2, "there is no command 'bench fast'"),
    (["bench", "queue", "--device", "vda"], 2, "there is no option '--device'"),
    (["evaluate", "static", "DISK", "block.nomerges=1"], 2, "module static declares no outcome"),
    (["evaluate", "readahead", "DISK", "nomerges"], 2, "'nomerges' is not KNOB=VALUE"),
    (["evaluate", "readahead", "DISK", "block.nomerge=1"], 2, "unknown knob 'block.nomerge'"),
    (
        ["evaluate", "readahead", "DISK", "block.nomerges=many"],
        2,
        "takes a whole number, not 'many'",
    ),
    (["evaluate", "readahead", "DISK", "block.scheduler=x"], 2, "has no choice 'x'"),
    (
        ["evaluate", "readahead", "DISK", "block.nomerges=1", "--metric", "joy"],
        2,
        "module readahead has no outcome 'joy'; it has pages_in, pages_in_steps, pages, requests",
    ),
    (
        ["evaluate", "readahead", "DISK", "block.nomerges=1", "--against", "no"],
        2,
        "takes a whole number, not 'no'",
    ),
    (["evaluate", "readahead", "DISK", "block.nomerges=1", "--duration", "1"], 2, "--duration"),
    (["evaluate", "dirty", "DISK", "vm.swappiness=1"], 2, "works on a system target"),
    (["evaluate", "dirty", "system", "vm.swappiness=1"], 2, "a pair of blocks takes 140 s"),
    (["why", "7"], 2, "there is no experiment 7; there are no experiments yet"),
    (["fly"], 2, "there is no command 'fly'"),
    (["restore", "--frce"], 2, "no option '--frce'; did you mean --force?"),
]


def one_line(text: str) -> str:
    assert text.count("\n") == 1, text
    assert text.startswith("kmind: ")
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize(("words", "code", "message"), WRONG)
def test_wrong(cli: "Cli", words: list[str], code: int, message: str) -> None:
    disk = sorted(path.name for path in Path("/sys/block").iterdir())[0]
    done = cli(*(disk if word == "DISK" else word for word in words))
    assert message.lower() in one_line(done.stderr).lower()
    assert done.returncode == code
    assert done.stdout == ""


@pytest.mark.parametrize("words", [["run", "readahead"], ["restore"]])
def test_without_root(cli: "Cli", tmp_path: Path, words: list[str]) -> None:
    disk = sorted(path.name for path in Path("/sys/block").iterdir())[0]
    state = tmp_path / "state"
    state.mkdir()
    (state / "journal.db").touch()
    done = cli(*words, *([disk] if "run" in words else []), root=False)
    assert "run as root" in one_line(done.stderr)
    assert done.returncode == 77


def test_without_root_usage_comes_first(cli: "Cli") -> None:
    assert cli("run", "readahead", "vdnope", root=False).returncode == 2


def test_manifest_error_names_file_and_line(cli: "Cli", tmp_path: Path) -> None:
    module = make_module(tmp_path, manifest=MANIFEST.replace('class = "tuner"', 'class = "x"'))
    done = cli("run", str(module), "vda")
    assert f"{module}/module.toml:3: class: no class is called 'x'" in one_line(done.stderr)
    assert done.returncode == 2


def test_agent_that_is_not_compiled(cli: "Cli", tmp_path: Path) -> None:
    module = make_module(tmp_path)
    (module / "readahead.bpf.o").unlink()
    disk = sorted(path.name for path in Path("/sys/block").iterdir())[0]
    done = cli("run", str(module), disk)
    if "run as root" not in done.stderr:
        assert "is not compiled" in one_line(done.stderr)
    assert done.returncode in (1, 77)


def test_journal_that_is_none(cli: "Cli", tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "journal.db").write_text("this is no database, and long enough to be read as one" * 9)
    done = cli("restore")
    assert done.returncode in (1, 77)
    one_line(done.stderr)


def test_unexpected_error_is_one_line_too(cli: "Cli", tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import kmind.extension.discovery.discovery as d\n"
        "def fail():\n    raise RuntimeError('first\\nsecond')\n"
        "import kmind.extension\nkmind.extension.list_modules = fail\n"
    )
    cli.environment["PYTHONPATH"] += f":{tmp_path}"
    done = cli("modules")
    assert "unexpected error: RuntimeError: first" in one_line(done.stderr)
    assert done.returncode == 1
    assert "Traceback" in cli("--debug", "modules").stderr
