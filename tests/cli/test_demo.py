# SPDX-License-Identifier: Apache-2.0
"""The demo tells a story, ends with its result, and says first where it took place."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cli.demo_support import KEPT, STOP, fake_run

from kmind.cli import demo
from kmind.guard import Journal
from kmind.workloads.disk import Result
from kmind.workloads.simulated_disk import make_disk_files

if TYPE_CHECKING:
    from conftest import Cli

RUN = {"before", "after", "gain", "changes", "read_ahead_kb"}
KEYS = RUN | {"schema", "backend", "device", "runs", "restored"}


def check(lines: list[str]) -> dict[str, Any]:
    records = [json.loads(line) for line in lines]
    assert {record["schema"] for record in records} == {"kmind.demo/1"}
    result: dict[str, Any] = records[-1]
    assert set(result) == KEYS
    assert result["restored"]
    for run in result["runs"]:
        assert set(run) == RUN
        assert run["gain"] == pytest.approx(run["after"] / run["before"])
        assert run["gain"] > 1
        assert {"knob", "old", "value", "reason", "evidence"} == set(run["changes"][0])
        assert run["changes"][0]["old"] == run["read_ahead_kb"]
    assert result["gain"] == min(run["gain"] for run in result["runs"])
    assert {name: result[name] for name in RUN} == result["runs"][0]
    return result


@pytest.mark.slow
def test_without_root_it_is_simulated(cli: "Cli") -> None:
    done = cli("demo", "--json", root=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "simulated disk, not on this machine's kernel: you are not root" in lines[0]
    assert check(lines)["backend"] == "sim"


@pytest.mark.slow
@pytest.mark.quiet
@pytest.mark.fault
@pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf", "tp_filemap")
def test_on_the_kernel(cli: "Cli") -> None:
    done = cli("demo", "--json")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "on the real kernel" in lines[0]
    result = check(lines)
    assert result["backend"] == "bpf"
    assert Path("/sys/block", result["device"]).exists()
    found = int(Path("/sys/block", result["device"], "queue/read_ahead_kb").read_text())
    assert {run["read_ahead_kb"] for run in result["runs"]} == {128, found}


TUNES = f"""\
STOP = {STOP!r}
KEPT = {KEPT!r}
"""
TUNES += """\
import json, os, signal, sys
disk = os.environ["FAKE_DISK"]
if "observe" not in sys.argv:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    old = int(open(disk).read())
    open(disk, "w").write("16")
    print(json.dumps(json.loads(KEPT) | {"old": old, "value": 16}), flush=True)
    signal.sigwait({signal.SIGINT})
    open(disk, "w").write(str(old))
print(STOP)
"""


KEEPS_NOTHING = f"""\
STOP = {STOP!r}
"""
KEEPS_NOTHING += """\
import json, signal, sys
if "observe" not in sys.argv:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    open("started", "a").write("!")
    signal.sigwait({signal.SIGINT})
print(STOP)
"""


class Warming:
    """A disk that is three times as fast in each second run, whatever is set."""

    def __init__(self) -> None:
        self._runs = 0

    def prepare(self, dir: Path) -> None:
        pass

    def run(self, duration: float) -> Result:
        self._runs += 1
        started, deadline = Path("started"), time.monotonic() + 60
        while self._runs % 2 == 0 and len(started.read_text() if started.exists() else "") < (
            self._runs // 2
        ):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        rate = 300.0 if self._runs % 2 == 0 else 100.0
        return Result(rate, 0.0, "IOPS", [rate] * 6)


class Reader:
    """As fast as the knob lets it, once `kmind run` has changed it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._runs = 0

    def prepare(self, dir: Path) -> None:
        pass

    def run(self, duration: float) -> Result:
        deadline = time.monotonic() + 60
        self._runs += 1
        while self._runs % 2 == 0 and self._file.read_text() != "16":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        rate = {16: 9000.0, 128: 3000.0, 8192: 100.0}[int(self._file.read_text())]
        return Result(rate, 0.0, "IOPS", [rate] * 6)


def simulated(folder: Path, monkeypatch: pytest.MonkeyPatch, found: int, run: str) -> Path:
    """A disk of files for the demo, and a `kmind run` that does this; the knob's file."""
    target = make_disk_files(folder / "root", read_ahead_kb=found)
    file = folder / "root/sys/block/sim0/queue/read_ahead_kb"
    fake_run(folder, run)
    monkeypatch.chdir(folder)
    for name, value in {
        "PYTHONPATH": folder,
        "FAKE_DISK": file,
        "KMIND_STATE_DIR": folder / "state",
        "KMIND_CACHE_DIR": folder / "cache",
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(demo, "device_of", lambda folder: "sim0")
    monkeypatch.setattr(demo, "parse_target", lambda name: target)
    return file


@pytest.mark.parametrize("found", [8192, 128])
def test_smaller_gain_leads_and_what_was_found_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: int
) -> None:
    """A machine's own 8192 made the headline, 92 times, and not the kernel's default."""
    file = simulated(tmp_path, monkeypatch, found, TUNES)
    monkeypatch.setattr(demo, "make_workload", lambda name, quick: Reader(file))
    told: list[str] = []
    result = demo._on_the_kernel(told.append)
    starts = [128, 8192] if found == 8192 else [128]
    assert [run["read_ahead_kb"] for run in result["runs"]] == starts
    assert [run["gain"] for run in result["runs"]] == [3.0, 90.0][: len(starts)]
    assert result["gain"] == 3.0
    assert result["restored"]
    assert [run["changes"][0]["old"] for run in result["runs"]] == starts
    assert int(file.read_text()) == found
    with Journal() as journal:
        assert journal.open_changes() == []
    gains = [line.split()[0] for line in told if "times as many reads" in line]
    assert gains == ["3.0", "90.0"][: len(starts)]


def test_what_the_disk_does_by_itself_is_no_gain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that kept nothing was told as "3.3 times as many reads"."""
    simulated(tmp_path, monkeypatch, 8192, KEEPS_NOTHING)
    load = Warming()
    monkeypatch.setattr(demo, "make_workload", lambda name, quick: load)
    told: list[str] = []
    result = demo._on_the_kernel(told.append)
    assert [run["changes"] for run in result["runs"]] == [[], []]
    assert not [line for line in told if "times as many reads" in line]
    assert len([line for line in told if line.startswith("Nothing was kept from ")]) == 2


def test_a_value_that_another_sets_between_two_runs_stops_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run found the knob held by the demo itself, and ended with an error."""
    file = simulated(tmp_path, monkeypatch, 8192, KEEPS_NOTHING)
    monkeypatch.setattr(demo, "make_workload", lambda name, quick: Warming())
    journals: list[Path | None] = []

    def measure(say: Any, load: Any, device: str, state: Path | None) -> dict[str, Any]:
        journals.append(state)
        with Journal() as journal:
            assert bool(journal.open_changes()) == (state is not None)
        file.write_text("64")
        return {"before": 1.0, "after": 1.0, "gain": 1.0, "changes": [], "restored": True}

    monkeypatch.setattr(demo, "_measure", measure)
    result = demo._on_the_kernel(lambda line: None)
    assert all(journals)
    assert not result["restored"]  # it is another's now: left at 64
    assert file.read_text() == "64"
