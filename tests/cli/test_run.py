# SPDX-License-Identifier: Apache-2.0
"""kmind run, as text and as JSON."""

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sample_module import knob_file, loop_disk, make_module

if TYPE_CHECKING:
    from conftest import Cli

BPF = pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf", "tp_filemap")


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
