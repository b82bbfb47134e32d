# SPDX-License-Identifier: Apache-2.0
"""The static module: what it asks for and when, and a run of it on a disk of the test's own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_module import knob_file, loop_disk

import kmind
from kmind.abi import layout
from kmind.errors import UsageError
from kmind.extension import (
    ChangeEvent,
    Context,
    Given,
    KnobInfo,
    Outlets,
    VerdictEvent,
    find_module,
    parse_parameters,
)
from kmind.modules.static.extension import Static
from kmind.testing.contract import CHECKS, Check

KNOB = "block.read_ahead_kb"
MODULE = find_module("static")
COLUMNS = MODULE.manifest.columns
PATIENCE_S = 30


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_contract(check: Check) -> None:
    check("static")


class Bench:
    """The extension with a clock; ``made`` is what it recommended, and when."""

    def __init__(self, *words: str, granted: bool = True, mode: str = "auto") -> None:
        self.now = 50.0
        self.made: list[tuple[float, int, dict[str, Any]]] = []
        self.log: list[str] = []
        info = KnobInfo(KNOB, 1, "int", "kB", 16, 4096, 4, (), 2, 128)
        self.context = Context(
            Given(
                module="static",
                target="vda",
                params=parse_parameters(MODULE.manifest, words),
                features=COLUMNS,
                knobs={KNOB: info} if granted else {},
                mode=mode,
            ),
            Outlets(port=self, now=lambda: self.now, write_log=self.log.append),
        )
        self.extension = Static(self.context)
        self.extension.start()

    def submit(self, knob: int, target: int, value: int, **words: Any) -> int:
        """Take a recommendation."""
        self.made.append((self.now, value, {**words, **json.loads(words["note"])}))
        return len(self.made)

    def pass_time(self, seconds: float) -> None:
        """Windows of a second, as an idle agent closes them."""
        for _ in range(round(seconds)):
            window = np.zeros(1, layout.WINDOW)
            window["start_ns"], window["end_ns"] = self.now * 1e9, (self.now + 1) * 1e9
            window["value"][0, COLUMNS["requests"]] = 200
            window["value"][0, COLUMNS["device_ns"]] = 200 * 150_000
            self.now += 1
            self.extension.on_windows(window)

    def answer(self, verdict: str) -> None:
        """The agent's verdict on the last one."""
        value = self.made[-1][1]
        self.extension.on_verdict(VerdictEvent(len(self.made), verdict, KNOB, value))

    def change(self, kind: Any, value: int) -> None:
        """Tell the extension about a change."""
        self.extension.on_change(ChangeEvent(kind, len(self.made), KNOB, value))

    @property
    def doing(self) -> str:
        """The extension's own word on its activity."""
        return str(self.extension.status()["doing"])


def test_the_value_is_asked_for_and_renewed_before_it_runs_out() -> None:
    bench = Bench("value=512")
    bench.pass_time(1)
    bench.answer("approved")
    bench.change("applied", 512)
    assert bench.doing == "holding 512 kB"
    bench.pass_time(20)
    assert {value for _, value, _ in bench.made} == {512}
    times = [at for at, _, _ in bench.made]
    hold_s = bench.made[0][2]["hold_ms"] / 1000
    assert max(np.diff(times)) < hold_s / 2 + 1
    evidence = bench.made[-1][2]["evidence"]
    assert evidence["asked"] == 512
    assert evidence["baseline"] == 128
    assert evidence["requests_per_s"] == 200
    assert evidence["mean_us"] == 150


@pytest.mark.parametrize(
    ("value", "why"),
    [(8, "from 16 to 4096"), (9999, "from 16 to 4096"), (18, "not a multiple of 4")],
)
def test_what_cannot_be_held_is_said_and_not_asked_for(value: int, why: str) -> None:
    bench = Bench(f"value={value}")
    bench.pass_time(10)
    bench.extension.on_mode("advise")
    bench.pass_time(10)
    assert bench.made == []
    assert why in bench.doing
    assert why in bench.log[0]


def test_a_knob_that_is_not_granted_is_said() -> None:
    bench = Bench("value=512", granted=False)
    bench.pass_time(5)
    assert bench.made == []
    assert "not granted on vda" in bench.doing


def test_a_value_has_to_be_given() -> None:
    with pytest.raises(UsageError, match="value is missing"):
        parse_parameters(MODULE.manifest, [])


def test_a_lease_that_another_holds_is_asked_for_again() -> None:
    bench = Bench("value=512")
    bench.pass_time(1)
    for _ in range(4):
        bench.answer("lease")
        assert bench.doing == "refused: lease"
        bench.pass_time(5)
    assert len(bench.made) == 5
    bench.pass_time(6)
    bench.answer("approved")
    bench.change("applied", 512)
    assert bench.doing == "holding 512 kB"


def test_the_admin_wins() -> None:
    bench = Bench("value=512")
    bench.pass_time(1)
    bench.change("applied", 512)
    bench.change("yielded", 64)
    before = len(bench.made)
    bench.pass_time(30)
    bench.extension.on_mode("auto")
    bench.pass_time(30)
    assert len(bench.made) == before
    assert "another writer" in bench.doing


def test_a_value_that_was_put_back_is_asked_for_again() -> None:
    bench = Bench("value=512")
    bench.pass_time(1)
    bench.change("applied", 512)
    bench.change("undone", 128)
    bench.pass_time(6)
    assert len(bench.made) >= 2


@pytest.mark.parametrize("verdict", ["shadowed", "advised"])
def test_other_modes_hear_it_once_and_auto_again(verdict: str) -> None:
    bench = Bench("value=512", mode="observe")
    bench.pass_time(1)
    bench.answer(verdict)
    bench.pass_time(30)
    assert len(bench.made) == 1
    bench.context.mode = "auto"
    bench.extension.on_mode("auto")
    bench.pass_time(1)
    assert len(bench.made) == 2


def test_canary_holds_it_once() -> None:
    bench = Bench("value=512", mode="canary")
    bench.pass_time(1)
    bench.change("applied", 512)
    bench.change("undone", 128)
    bench.pass_time(30)
    assert len(bench.made) == 1
    assert "canary" in bench.doing


@pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf")
def test_a_run_holds_the_value_and_puts_the_old_one_back(tmp_path: Path) -> None:
    with loop_disk(tmp_path) as disk:
        knob = knob_file(disk)
        before = knob.read_text()
        wanted = "212\n"
        assert before != wanted
        command = [sys.executable, "-m", "kmind", "run", "static", disk, f"value={wanted.strip()}"]
        process = subprocess.Popen(
            [*command, "--mode=auto", "--json"],
            stdout=(tmp_path / "events").open("w"),
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "KMIND_STATE_DIR": str(tmp_path / "state"),
                "PYTHONPATH": str(Path(kmind.__file__).parent.parent),
            },
        )
        try:
            _wait_for(lambda: knob.read_text() == wanted, process)
            # Longer than one hold: it was renewed.
            ends = time.monotonic() + 8
            while time.monotonic() < ends:
                assert knob.read_text() == wanted
                time.sleep(0.2)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)
            print((tmp_path / "events").read_text())
        assert knob.read_text() == before


def _wait_for(there: Any, process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + PATIENCE_S
    while not there():
        assert time.monotonic() < ends, "it took too long"
        assert process.poll() is None, "it ended"
        time.sleep(0.05)
