# SPDX-License-Identifier: Apache-2.0
"""``kmind why``: experiments on record, without a daemon and without a kernel."""

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from serve.conftest import serve

from kmind.evidence import Design, Experiment
from kmind.knobs import get_knob
from kmind.runtime.evidence_store import UNMEASURED, EvidenceStore
from kmind.serve import peers
from kmind.workloads.simulated_disk import make_disk_files

if TYPE_CHECKING:
    from conftest import Cli


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The folder of the command line, with four experiments on record."""
    folder = tmp_path / "state"
    common: dict[str, Any] = {
        "instance": "readahead@sim0",
        "module": "readahead",
        "backend": "sim",
        "knob": get_knob("block.read_ahead_kb"),
        "target": make_disk_files(tmp_path / "root"),
        "incumbent": 128,
        "metric": "requests",
        "unit": "1/s",
        "reason": "Because.",
        "evidence": {"n": 3},
    }
    with EvidenceStore(folder / "evidence.db") as store:
        for candidate, effect in ((16, 1.5), (64, 0.8)):
            number = store.begin(kind="trial", candidate=candidate, **common)
            experiment = _made(effect)
            store.end(number, experiment.to_dict(), kept=experiment.outcome == "gain")
        number = store.begin(kind="unmeasured", candidate=4, **common)
        store.end(number, {**UNMEASURED, "reason": "not measured: so"}, kept=True)
        store.begin(kind="trial", candidate=32, **common)
        store._db.execute("UPDATE experiment SET pid = 1, start = 1 WHERE candidate = '32'")
        store.mark_interrupted()
    return folder


def _made(effect: float) -> Experiment:
    rng = np.random.default_rng(3)
    experiment = Experiment(Design(), rng)
    while experiment.outcome is None:
        factor = effect if experiment.arm == "candidate" else 1.0
        experiment.learn_one(1000 * factor * float(np.exp(rng.normal(0, 0.03))))
    return experiment


@pytest.mark.parametrize("version", [1, 99])
def test_experiments_of_another_version_are_shown_and_not_changed(
    cli: "Cli", state: Path, version: int
) -> None:
    path = state / "evidence.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE budget")
        db.execute(f"PRAGMA user_version = {version}")
    before = path.read_bytes()
    done = cli("why")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 5
    assert path.read_bytes() == before


def test_the_list(cli: "Cli", state: Path) -> None:
    done = cli("why")
    assert (done.returncode, done.stderr) == (0, "")
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["id", "when", "instance", "change", "outcome", "effect"]
    assert [row.split()[0] for row in rows] == ["4", "3", "2", "1"]
    assert "interrupted" in rows[0]
    assert "not measured: so" in rows[1]
    assert "loss" in rows[2]
    assert "gain, kept" in rows[3]
    assert "requests x" in rows[3]


def test_one_with_its_chart(cli: "Cli", state: Path) -> None:
    done = cli("why", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "experiment 1, trial, simulated: block.read_ahead_kb 128 -> 16" in done.stdout
    assert "proposed: Because." in done.stdout
    assert "evidence: n = 3" in done.stdout
    assert "gain" in done.stdout
    assert len(done.stdout.splitlines()) > 15
    assert all(len(line) <= 120 for line in done.stdout.splitlines()[1:])


@pytest.mark.parametrize(("id", "said"), [("3", "not measured: so"), ("4", "its owner was killed")])
def test_one_without_blocks(cli: "Cli", state: Path, id: str, said: str) -> None:
    done = cli("why", id)
    assert done.returncode == 0
    assert said in done.stdout


def test_one_that_a_module_made(cli: "Cli", state: Path, tmp_path: Path) -> None:
    with EvidenceStore(state / "evidence.db") as store:
        number = store.begin(
            kind="by module", instance="autotune@sim0", module="autotune", backend="bpf",
            knob="block.scheduler, block.nr_requests", target=make_disk_files(tmp_path / "again"),
            incumbent={"block.scheduler": "none", "block.nr_requests": 64},
            candidate={"block.scheduler": "bfq", "block.nr_requests": 128},
            metric="block.latency", unit="", context="phase 0",
        )  # fmt: skip
        store.end(number, _made(1.5).to_dict(), kept=False)
    change = "block.scheduler none -> bfq, block.nr_requests 64 -> 128"
    listed = cli("why").stdout.splitlines()[1]
    assert change in listed
    assert "gain, by module" in listed
    done = cli("why", "5")
    assert f"experiment 5, by module: {change} of sim0" in done.stdout
    assert "measured by the module itself, and not by kmind" in done.stdout
    assert "context: phase 0" in done.stdout
    assert len(done.stdout.splitlines()) > 15


def test_one_that_confirms_what_a_module_set(cli: "Cli", state: Path, tmp_path: Path) -> None:
    with EvidenceStore(state / "evidence.db") as store:
        number = store.begin(
            kind="confirmation", instance="autotune@sim0", module="autotune", backend="bpf",
            knob="block.nomerges, block.nr_requests", target=make_disk_files(tmp_path / "again"),
            incumbent={"block.nomerges": 0, "block.nr_requests": 64},
            candidate={"block.nomerges": 1, "block.nr_requests": 128},
            metric="block.latency", unit="",
        )  # fmt: skip
        store.end(number, _made(1.5).to_dict(), kept=True)
    change = "block.nomerges 0 -> 1, block.nr_requests 64 -> 128"
    listed = cli("why").stdout.splitlines()[1]
    assert change in listed
    assert "gain, kept" in listed
    done = cli("why", "5")
    assert f"experiment 5, confirmation: {change} of sim0" in done.stdout
    assert "measured by: block.latency\n" in done.stdout
    assert "measured by the module itself" not in done.stdout


def test_as_json(cli: "Cli", state: Path) -> None:
    listed = json.loads(cli("why", "--json").stdout)
    assert listed["schema"] == "kmind.why/2"
    assert [each["id"] for each in listed["experiments"]] == [4, 3, 2, 1]
    assert all("record" not in each for each in listed["experiments"])
    (one,) = json.loads(cli("why", "1", "--json").stdout)["experiments"]
    assert (one["incumbent"], one["candidate"], one["kept"]) == (128, 16, True)
    assert one["record"]["blocks"]


def test_nothing_yet(cli: "Cli") -> None:
    done = cli("why")
    assert (done.returncode, done.stdout) == (0, "There are no experiments yet.\n")
    assert json.loads(cli("why", "--json").stdout)["experiments"] == []


def test_a_number_that_is_none(cli: "Cli", state: Path) -> None:
    done = cli("why", "99")
    assert done.returncode == 2
    assert done.stderr == "kmind: there is no experiment 99; see: kmind why\n"


def test_a_file_that_is_none(cli: "Cli", tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/evidence.db").write_bytes(b"nonsense" * 999)
    done = cli("why")
    assert done.returncode == 1
    assert "cannot open the record of experiments" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, as only root may")
@pytest.mark.parametrize("words", [(), ("1",), ("1", "--json"), ("99",), ("../health",)])
def test_members_of_the_group_are_shown_it_by_the_daemon(
    cli: "Cli", state: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(peers, "_group", lambda: 65534)
    cli.environment["KMIND_RUN_DIR"] = str(state)
    with serve(state):
        found = cli("why", *words, root=False)
    wanted = cli("why", *words)
    assert (found.returncode, found.stdout, found.stderr) == (
        wanted.returncode, wanted.stdout, wanted.stderr,
    )  # fmt: skip


def test_of_somebody_else(cli: "Cli", state: Path) -> None:
    done = cli("why", root=False)
    assert (done.returncode, done.stdout) == (77, "")
    assert "members of the group kmind may ask the daemon" in done.stderr
