# SPDX-License-Identifier: Apache-2.0
"""``kmind knobs``, as a user runs it."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kmind.cli.knobs import knobs_command
from kmind.errors import KnobError
from kmind.knobs import Target, all_knobs, get_knob
from kmind.workloads.simulated_disk import make_disk_files

if TYPE_CHECKING:
    from conftest import Cli

SWAPPINESS = Path("/proc/sys/vm/swappiness")


def test_all_knobs_that_are_here_are_shown(cli: "Cli") -> None:
    report = json.loads(cli("knobs", "--json").stdout)
    assert report["schema"] == "kmind.knobs/1"
    shown = {each["name"]: each for each in report["knobs"] if each["target"] == "system"}
    system = Target.system()
    assert set(shown) == {knob.name for knob in all_knobs() if knob.exists(system)}
    each = shown["vm.swappiness"]
    assert (each["minimum"], each["maximum"], each["settle"]) == (0, 200, "slow")
    assert str(each["value"]) == SWAPPINESS.read_text().strip()
    assert each["reference"] == get_knob("vm.swappiness").reference
    lines = cli("knobs", "show", "vm.dirty*").stdout.splitlines()
    assert lines[0].split()[:3] == ["knob", "target", "value"]
    assert {line.split()[0] for line in lines[1:]} == {
        knob.name for knob in all_knobs() if knob.name.startswith("vm.dirty")
    }


@pytest.mark.parametrize("width", [80, 120])
def test_knobs_fit_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    monkeypatch.setattr("kmind.util.table.terminal_width", lambda: width)
    knobs_command("show", [], json=False, dry_run=False)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert {knob.name for knob in all_knobs() if knob.exists(Target.system())} <= {
        line.split(" ")[0] for line in lines
    }


def test_one_knob_is_shown_whole(cli: "Cli") -> None:
    text = cli("knobs", "show", "vm.dirty_ratio").stdout
    assert "allowed: 2 to 80 %; > vm.dirty_background_ratio" in text
    assert "costs: disturbing. If it falls below" in text


def test_the_policy_narrows_what_is_shown_and_set(cli: "Cli", tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('forbidden = ["vm.page_cluster"]\n[knob."vm.swappiness"]\nmax = 80\n')
    shown = json.loads(cli("knobs", "show", "vm", "--policy", str(policy), "--json").stdout)
    by_name = {each["name"]: each for each in shown["knobs"]}
    assert by_name["vm.swappiness"]["maximum"] == 80
    assert by_name["vm.page_cluster"]["forbidden"] is True
    for wish, why in (("vm.swappiness=90", "allowed are 0 to 80"), ("vm.page_cluster=1", "forbid")):
        done = cli("knobs", "set", "-n", wish, "--policy", str(policy))
        assert done.returncode == 1
        assert why in done.stderr


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """The root of a machine with a disk whose scheduler kmind does not know."""
    disk = make_disk_files(tmp_path / "root")
    Path(get_knob("block.scheduler").place(disk)).write_text("none mq-deadline [adios]\n")
    (disk.root / "sys/block/sim0/size").write_text("8\n")
    return disk.root


def test_a_choice_that_kmind_does_not_know_is_marked(
    odd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["block", "sim0"], ["block.scheduler"]):
        knobs_command("show", words, json=False, dry_run=False, root=odd)
        assert "adios" in capsys.readouterr().out
    knobs_command("show", ["block", "sim0"], json=False, dry_run=False, root=odd)
    assert "adios (unknown)" in capsys.readouterr().out
    knobs_command("show", ["block.scheduler"], json=True, dry_run=False, root=odd)
    (each,) = json.loads(capsys.readouterr().out)["knobs"]
    assert (each["value"], each["forbidden"]) == ("adios", True)
    assert "adios is a choice that kmind does not know" in each["note"]


def test_a_knob_at_a_choice_that_kmind_does_not_know_is_left_alone(odd: Path) -> None:
    with pytest.raises(KnobError) as refused:
        knobs_command(
            "set", ["block.scheduler=mq-deadline", "sim0"], json=False, dry_run=False, root=odd
        )
    assert "stands at adios, which kmind does not know and could not put back" in str(refused.value)
    assert "[adios]" in (odd / "sys/block/sim0/queue/scheduler").read_text()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["set"], "set takes one NAME=VALUE"),
        (["set", "vm.swappiness"], "sets nothing"),
        (["set", "vm.swappiness=x"], "takes an integer"),
        (["set", "vm.swapiness=1"], "did you mean vm.swappiness"),
        (["set", "block.nomerges=1"], "is a knob of a block target"),
        (["set", "block.nomerges=1", "system"], "name a block device"),
        (["set", "vm.swappiness=1", "nosuch"], "unknown block device"),
        (["show", "nosuch"], "unknown block device"),
        (["show", "vm.nosuch"], "unknown knob"),
        (["show", "vm.swappiness", "system", "more"], "too many words"),
        (["show", "cgroup.io_weight", "cgroup:/kmind-nosuch"], "there is no cgroup"),
        (["show", "-n"], "changes nothing"),
        (["verify", "vm"], "verify takes no words"),
    ],
)
def test_bad_words_get_one_line(cli: "Cli", words: list[str], why: str) -> None:
    done = cli("knobs", *words)
    assert done.returncode == 2
    assert why in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_root_nothing_is_set(cli: "Cli") -> None:
    before = SWAPPINESS.read_text()
    done = cli("knobs", "set", f"vm.swappiness={int(before) ^ 1}", root=False)
    assert done.returncode == 77
    assert SWAPPINESS.read_text() == before


def test_nothing_was_set(cli: "Cli") -> None:
    done = cli("knobs", "verify")
    assert (done.returncode, done.stdout) == (
        0,
        "No knobs have been set since boot.\n",
    )


@pytest.mark.kernel("libbpf")
def test_a_knob_is_set_verified_and_set_back_as_it_says(cli: "Cli") -> None:
    before = int(SWAPPINESS.read_text())
    value = before ^ 1
    try:
        dry = cli("knobs", "set", "-n", f"vm.swappiness={value}")
        assert dry.stdout == f"would set vm.swappiness of system: {before} -> {value}\n"
        assert int(SWAPPINESS.read_text()) == before
        done = cli("knobs", "set", f"vm.swappiness={value}")
        assert done.returncode == 0, done.stderr
        assert int(SWAPPINESS.read_text()) == value
        assert "same" in cli("knobs", "verify", "--json").stdout
        assert cli("restore").stdout == "nothing to restore\n"
        SWAPPINESS.write_text(str(before ^ 2))
        drift = cli("knobs", "verify")
        assert drift.returncode == 1
        assert f"set {value}, and it holds {before ^ 2}" in drift.stdout
        SWAPPINESS.write_text(str(value))
        undo = done.stdout.strip().partition("to undo: kmind ")[2]
        assert cli(*shlex.split(undo)).returncode == 0
        assert int(SWAPPINESS.read_text()) == before
        assert cli("knobs", "verify").returncode == 0
    finally:
        SWAPPINESS.write_text(str(before))
