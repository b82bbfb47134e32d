# SPDX-License-Identifier: Apache-2.0
"""What the commands print when all is well."""

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sample_module import knob_file, loop_disk, make_module

import kmind
from kmind.guard import Journal, Owner
from kmind.knobs import get_knob, parse_target

if TYPE_CHECKING:
    from conftest import Cli

BPF = pytest.mark.kernel("libbpf", "btf", "arena", "bpf_timer", "tp_btf", "tp_filemap")


def test_version(cli: "Cli") -> None:
    assert cli("--version").stdout == f"kmind {kmind.__version__}\n"


def test_help_has_an_example(cli: "Cli") -> None:
    done = cli("run", "--help")
    assert done.returncode == 0
    assert "Examples:\n  kmind run readahead vda\n" in done.stdout
    assert "\x1b[" not in done.stdout


def test_no_command_shows_help(cli: "Cli") -> None:
    done = cli()
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == cli("--help").stdout


def test_modules(cli: "Cli") -> None:
    done = cli("modules", "--json")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert report["schema"] == "kmind.modules/1"
    found = {module["name"]: module for module in report["modules"]}
    assert found["readahead"]["knobs"] == ["block.read_ahead_kb"]
    head, *lines = cli("modules").stdout.splitlines()
    assert head.split() == ["module", "class", "target", "description"]
    assert [line.split()[0] for line in lines] == list(found)
    assert found["readahead"]["description"] in lines[list(found).index("readahead")]


def test_nothing_to_restore(cli: "Cli") -> None:
    done = cli("restore", "--json")
    assert json.loads(done.stdout) == {
        "schema": "kmind.restore/1", "restored": [], "skipped": [], "kept": [],
    }  # fmt: skip
    assert cli("restore").stdout == "nothing to restore\n"


@pytest.mark.kernel("root")
@pytest.mark.fault
def test_restore_after_a_dead_owner(cli: "Cli", tmp_path: Path) -> None:
    with loop_disk(tmp_path) as disk:
        baseline = knob_file(disk).read_text().strip()
        subprocess.run(
            [
                sys.executable, "-c",
                "from kmind.guard import *; from kmind.knobs import *\n"
                "j = Journal(); a = Actuator(j, Policy())\n"
                "a.apply(get_knob('block.read_ahead_kb'), "
                f"parse_target('{disk}'), 512, who='t@d', why='test')",
            ],
            env=cli.environment, check=True,
        )  # fmt: skip
        assert knob_file(disk).read_text() == "512\n"
        dry = cli("restore", "-n")
        assert f"would set block.read_ahead_kb of {disk} to {baseline}" in dry.stdout
        assert knob_file(disk).read_text() == "512\n"
        done = cli("restore")
        assert done.stdout == f"block.read_ahead_kb of {disk}: 512 -> {baseline}\n"
        assert done.returncode == 0
        assert knob_file(disk).read_text().strip() == baseline
        assert cli("restore").stdout == "nothing to restore\n"


@pytest.mark.kernel("root")
@pytest.mark.fault
def test_restore_leaves_what_a_living_owner_holds(cli: "Cli", tmp_path: Path) -> None:
    with loop_disk(tmp_path) as disk, Journal(tmp_path / "state/journal.db") as journal:
        knob, target = get_knob("block.read_ahead_kb"), parse_target(disk)
        baseline = knob.read(target)
        change = journal.intend(knob, target, baseline, 512, Owner.me("t@d"), why="test")
        knob.write(target, 512)
        try:
            done = cli("restore")
            assert "not put back: held by t@d" in done.stdout
            assert done.returncode == 1
            assert knob.read(target) == 512
            forced = json.loads(cli("restore", "--force", "--json").stdout)
            assert forced["restored"][0]["to"] == baseline
            assert knob.read(target) == baseline
        finally:
            knob.write(target, baseline)
            journal.finish([change], "undone")


@BPF
def test_run_as_json(cli: "Cli", tmp_path: Path) -> None:
    module = make_module(tmp_path)
    with loop_disk(tmp_path) as disk:
        done = cli("run", str(module), disk, "--mode=auto", "--duration=3", "--json")
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        events = [json.loads(line) for line in done.stdout.splitlines()]
        assert {event["schema"] for event in events} == {"kmind.run/1"}
        kinds = [event["event"] for event in events]
        assert kinds[0] == "start"
        assert kinds[-1] == "stop"
        assert {"window", "verdict", "applied", "undone"} <= set(kinds)
        assert events[0]["backend"] == "bpf"
        assert events[-1]["restored"]
        assert events[-1]["changes"][0]["values"] == [512]
        assert knob_file(disk).read_text().strip() == str(events[-1]["changes"][0]["baseline"])


@BPF
def test_run_as_text(cli: "Cli", tmp_path: Path) -> None:
    module = make_module(tmp_path)
    with loop_disk(tmp_path) as disk:
        done = cli("run", str(module), disk, "--duration=3")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"sample@{disk}: watching, mode advise")
    advice = [line for line in lines if "advises" in line]
    assert len(advice) == 1  # the same advice is said once
    assert f"To do so: echo 512 > {knob_file(disk)}" in advice[0]
    assert lines[-1] == f"sample@{disk}: stopped; nothing was changed"
    assert "\x1b" not in done.stdout


@BPF
@pytest.mark.fault
def test_run_says_what_it_put_back_first(cli: "Cli", tmp_path: Path) -> None:
    module = make_module(tmp_path)
    with loop_disk(tmp_path) as disk:
        baseline = knob_file(disk).read_text().strip()
        subprocess.run(
            [
                sys.executable, "-c",
                "from kmind.guard import *; from kmind.knobs import *\n"
                "Actuator(Journal(), Policy()).apply(get_knob('block.read_ahead_kb'), "
                f"parse_target('{disk}'), 256, who='t@d', why='test')",
            ],
            env=cli.environment, check=True,
        )  # fmt: skip
        done = cli("run", str(module), disk, "--mode=observe", "--duration=0.3")
        first = f"put back from an earlier run: block.read_ahead_kb of {disk}: 256 -> {baseline}"
        assert done.stdout.splitlines()[0] == first
        assert knob_file(disk).read_text().strip() == baseline
