# SPDX-License-Identifier: Apache-2.0
"""Output of the commands when all is well."""

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sample_module import knob_file, loop_disk

from kmind.guard import Journal, Owner
from kmind.knobs import get_knob, parse_target

if TYPE_CHECKING:
    from conftest import Cli


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
