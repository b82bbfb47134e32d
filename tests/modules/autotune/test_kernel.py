# SPDX-License-Identifier: Apache-2.0
"""Autotune as it is run: real agent, sandbox, a command that measures, memory over restarts."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sample_module import loop_disk

import kmind
from kmind.runtime.evidence_store import EvidenceStore

pytestmark = pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf")

SOURCES = str(Path(kmind.__file__).parent.parent)


class Runs:
    """Runs of autotune on a disk of the test's own, for a knob whose effect is made up."""

    def __init__(self, folder: Path, disk: str) -> None:
        self.folder = folder
        self.knob = Path(f"/sys/block/{disk}/queue/nomerges")
        self.state = folder / "state"
        policy = folder / "policy.toml"
        policy.write_text(
            "".join(
                f'[knob."{name}"]\nrate = "6000 per minute"\nburst = 100\n'
                for name in ("block.nomerges", "block.scheduler")
            )
        )
        self.script = folder / "measure"
        self._argv = [
            *(sys.executable, "-m", "kmind", "run", "autotune", disk, "better=higher"),
            *("knobs=block.nomerges", "every=0.1", "block=0.1", "settle=0", "trials=6"),
            *("--mode", "auto", "--json", "--policy", str(policy)),
            f"objective=command:/bin/sh {self.script}",
        ]

    def until(self, text: str, done: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """Run with that script until something is told, then interrupt; all that was told."""
        self.script.write_text(text)
        self.script.chmod(0o755)
        environment = {**os.environ, "KMIND_STATE_DIR": str(self.state), "PYTHONPATH": SOURCES}
        process = subprocess.Popen(
            self._argv, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        told: list[dict[str, Any]] = []
        try:
            assert process.stdout
            for line in process.stdout:
                told.append(json.loads(line))
                if done(told[-1]):
                    process.send_signal(signal.SIGINT)
                    break
            rest, _ = process.communicate(timeout=60)
            told += map(json.loads, rest.splitlines())
        finally:
            process.kill()
        logs = [each for each in told if each["event"] not in ("window", "verdict")]
        assert process.returncode == 0, logs[-10:]
        return told


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    # pytest's own folder is closed to the one whom the command runs as.
    with loop_disk(tmp_path) as disk, tempfile.TemporaryDirectory(prefix="kmind-test-") as place:
        Path(place).chmod(0o755)
        made = Runs(Path(place), disk)
        before = made.knob.read_text()
        yield made
        assert made.knob.read_text() == before


def logged(event: dict[str, Any], words: str) -> bool:
    return event["event"] == "log" and words in event["message"]


def test_it_finds_keeps_remembers_and_puts_back(runs: Runs) -> None:
    baseline = runs.knob.read_text().strip()
    script = f'[ "$(cat {runs.knob})" = {baseline} ] && echo 100 || echo 150'
    found: list[dict[str, Any]] = []

    def reported(event: dict[str, Any]) -> bool:
        # Beside it are the others that it tried, and what it then applied by itself.
        if (runs.state / "evidence.db").exists():
            with EvidenceStore(runs.state / "evidence.db", read_only=True) as store:
                rows = store.latest()
            found[:] = [r for r in rows if (r["kind"], r["outcome"]) == ("by module", "gain")]
        return bool(found)

    told = runs.until(script, reported)
    assert any(event["event"] == "applied" for event in told)
    row = found[-1]
    assert not row["kept"]
    assert row["incumbent"] == {"block.nomerges": int(baseline)} != row["candidate"]
    kept = runs.state / "memory"
    assert [path.name.split("@")[0] for path in kept.iterdir()] == ["autotune"]
    again = runs.until(script, lambda event: event["event"] == "applied")
    assert any(logged(event, "remembers phases=1") for event in again)
    first = next(event for event in again if event["event"] == "applied")
    before = again[: again.index(first)]
    assert not any(logged(event, "tries ") for event in before), before[-5:]
    assert "measured effect is x1.5" in first["reason"]


def test_the_owner_confirms_what_it_found(runs: Runs) -> None:
    """Of a scheduler, too, whose change makes the kernel reset other knobs."""
    file = runs.knob.with_name("scheduler")
    before, limit = file.read_text(), runs.knob.with_name("nr_requests")
    requests = limit.read_text()
    runs._argv[runs._argv.index("knobs=block.nomerges")] = "knobs=block.scheduler"
    script = f"grep -qF '{before.strip()}' {file} && echo 100 || echo 150"
    told = runs.until(script, lambda event: event["event"] == "result")
    result = next(event for event in told if event["event"] == "result")
    assert (result["outcome"], result["kept"]) == ("gain", True), result
    assert result["knob"] == "block.scheduler"
    with EvidenceStore(runs.state / "evidence.db") as store:
        row = next(each for each in store.latest() if each["kind"] == "confirmation")
    assert row["candidate"] == {"block.scheduler": result["candidate"]}
    assert (file.read_text(), limit.read_text()) == (before, requests)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("script", "why"),
    [("sleep 600", "it did not end within"), ("echo fast", "this is not a number: 'fast'")],
)
def test_an_objective_without_values_changes_nothing(runs: Runs, script: str, why: str) -> None:
    runs._argv.append("timeout=0.5")
    told = runs.until(script, lambda event: logged(event, why))
    assert not any(event["event"] == "applied" for event in told)
    assert sum(logged(event, why) for event in told) == 1
