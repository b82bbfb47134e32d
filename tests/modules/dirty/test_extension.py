# SPDX-License-Identifier: Apache-2.0
"""The dirty module: what it proposes on a modelled machine, and what its agent sees."""

import contextlib
import json
import mmap
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modules.disks import agent_of
from modules.writers import BURSTS, DISK, LIMIT, MODULE, PERCENT, Load, Writeback
from programs import machine_lacks

from kmind.abi import layout
from kmind.extension import (
    ChangeEvent,
    Context,
    Given,
    KnobInfo,
    Outlets,
    VerdictEvent,
    parse_parameters,
)
from kmind.modules.dirty.extension import Dirty
from kmind.modules.dirty.holt import Holt
from kmind.modules.dirty.waiting import Waiting
from kmind.queue import Doorbell, Endpoint
from kmind.runtime.experiment.measure.metrics import Metrics
from kmind.testing.contract import CHECKS, Check

KNOB = "vm.dirty_background_ratio"
COLUMNS = MODULE.manifest.columns
PAGE = mmap.PAGESIZE
NEEDS = ("libbpf", "btf", "bpf_timer", "tp_btf")
WINDOW_S = 0.1


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_contract(check: Check) -> None:
    check("dirty")


# The parts.


def test_a_trend_is_foreseen_better_than_without_forecast() -> None:
    holt = Holt()
    for step in range(60):
        holt.learn_one(100.0 * step)
    assert holt.predict(5) == pytest.approx(100.0 * 64, rel=0.02)
    assert holt.skill > 0.5


def test_noise_has_no_trend_to_foresee() -> None:
    choose = np.random.default_rng(1)
    holt = Holt()
    for _ in range(300):
        holt.learn_one(float(choose.normal(1000, 100)))
    assert holt.predict(5) == pytest.approx(1000, rel=0.4)


def test_a_misleading_trend_is_left_out() -> None:
    holt = Holt()
    values = [1000.0 if step // 3 % 2 else 0.0 for step in range(200)]
    for value in values:
        holt.learn_one(value)
    assert holt.skill < 0
    assert holt.predict(5) == values[-1]


def test_blocks_are_cut_by_work_and_the_first_is_left_out() -> None:
    waiting = Waiting()
    for _ in range(12):
        waiting.learn_one(0.5, 0.25, 1.0)
        waiting.learn_one(0.0, 0.0, 1.0)  # nothing was written
    assert list(waiting.costs) == [0.5] * 5
    waiting.restart()
    waiting.learn_one(1.0, 9.0, 1.0)
    assert list(waiting.costs) == [0.5] * 5


# The extension on a modelled machine.


class Machine:
    """The extension on modelled writeback, and an agent and owner that answer as they are told.

    ``ends`` is how the owner's experiments end: "gain" or another outcome, after ``takes_s``.
    """

    def __init__(
        self,
        load: Load,
        *,
        mode: str = "auto",
        verdict: str = "approved",
        ends: str = "gain",
        takes_s: float = 5.0,
        **params: float,
    ) -> None:
        self.now = 100.0
        self.value = 10
        self.mode = mode
        self.made: list[dict[str, Any]] = []
        self._machine = Writeback(load)
        self._verdict, self._ends, self._takes_s = verdict, ends, takes_s
        self._due: list[tuple[int, int]] = []
        self._over: tuple[float, int, int] | None = None
        defaults = parse_parameters(MODULE.manifest, [])
        info = KnobInfo(KNOB, 1, "int", "%", 1, 60, 1, (), 0, 10)
        self.context = Context(
            Given(
                module="dirty",
                target="system",
                params={**defaults, **params},
                features=COLUMNS,
                knobs={KNOB: info},
                mode=mode,
            ),
            Outlets(port=self, now=lambda: self.now, write_log=lambda line: None),
        )
        self.extension = Dirty(self.context)
        self.extension.start()

    def submit(self, knob: int, target: int, value: int, **words: Any) -> int:
        """Take a recommendation."""
        self.made.append({"time": self.now, "value": value, **words, **json.loads(words["note"])})
        self._due.append((len(self.made), value))
        return len(self.made)

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        for _ in range(round(seconds / WINDOW_S)):
            self.extension.on_windows(self._window())
            self._answer()

    def until_it_proposes(self) -> None:
        """Run until a value is recommended, which has not been answered yet."""
        while not self.made:
            self.extension.on_windows(self._window())

    def change(self, kind: Any, value: int, outcome: Any = "") -> None:
        """Something becomes of the knob."""
        self.extension.on_change(ChangeEvent(kind, len(self.made), KNOB, value, outcome))

    @property
    def proposals(self) -> list[float]:
        """Times of new recommendations, without renewals."""
        times = [each["time"] for each in self.made]
        return [b for a, b in zip([0.0, *times], times, strict=False) if b - a > 10]

    @property
    def doing(self) -> str:
        """The extension's own word on its activity."""
        return str(self.extension.status()["doing"])

    def _window(self) -> Any:
        background = self.value * PERCENT
        pages, waited = self._machine.step(self.now, WINDOW_S, background)
        made = np.zeros(1, layout.WINDOW)
        made["start_ns"], made["end_ns"] = self.now * 1e9, (self.now + WINDOW_S) * 1e9
        row = made["value"][0]
        row[COLUMNS["dirtied_pages"]] = pages
        row[COLUMNS["pauses"]] = waited > 0
        row[COLUMNS["pause_ns"]] = waited * 1e9
        row[COLUMNS["background_pages"]] = background
        row[COLUMNS["limit_pages"]] = LIMIT
        row[COLUMNS["disk_pages_per_s"]] = DISK
        self.now += WINDOW_S
        return made

    def _answer(self) -> None:
        due, self._due = self._due, []
        for rec_id, value in due:
            renewed = value == self.value or self._over is not None
            verdict = "renewed" if renewed and self._verdict == "approved" else self._verdict
            self.extension.on_verdict(VerdictEvent(rec_id, verdict, KNOB, value))
            if verdict == "approved":
                self._over = self.now + self._takes_s, rec_id, value
        if self._over and self.now >= self._over[0]:
            (_, rec_id, value), self._over = self._over, None
            if self._ends == "gain":
                self.value = value
                self.change("kept", value)
            else:
                self.change("dropped", value, self._ends)


def test_it_proposes_that_writeback_begins_sooner_and_holds_on_to_what_is_kept() -> None:
    machine = Machine(BURSTS)
    machine.run(1200)
    assert machine.value == 5
    assert "keeping 5 %" in machine.doing
    assert {made["value"] for made in machine.made} == {5}
    first = machine.made[0]
    assert first["evidence"]["predicted_mb_per_s"] > first["evidence"]["disk_mb_per_s"]
    assert first["evidence"]["waited_s_per_gib"] > 0.01
    # It is renewed in good time, while it is measured as much as afterwards.
    times = [made["time"] for made in machine.made]
    assert max(np.diff(times)) < machine.made[0]["hold_ms"] / 1000 / 2
    assert machine.now - times[-1] < 5


def test_a_load_that_the_disk_keeps_up_with_is_left_alone() -> None:
    machine = Machine(lambda now: 50_000.0)
    machine.run(600)
    assert machine.made == []
    assert "nothing to gain" in machine.doing


@pytest.mark.parametrize("ends", ["no change", "loss"])
def test_what_does_not_help_is_proposed_less_and_less(ends: str) -> None:
    machine = Machine(BURSTS, ends=ends)
    machine.run(8000)
    assert machine.value == 10
    assert len(machine.proposals) == 4
    apart = np.diff(machine.proposals)
    assert 600 <= apart[0] < 700
    assert 1200 <= apart[1] < 1300


def test_what_was_cut_off_is_proposed_again_soon() -> None:
    machine = Machine(BURSTS, ends="aborted")
    machine.run(1000)
    assert len(machine.proposals) >= 5


def test_nothing_is_learnt_of_how_long_writers_wait_while_a_value_is_measured() -> None:
    machine = Machine(BURSTS, takes_s=1e9)
    machine.until_it_proposes()
    known = machine.extension.status()["waited_s_per_gib"]
    machine.value = 1
    machine.run(600)
    assert machine.extension.status()["waited_s_per_gib"] == known


@pytest.mark.parametrize("verdict", ["shadowed", "advised"])
def test_observe_and_advise_say_it_once(verdict: str) -> None:
    machine = Machine(BURSTS, verdict=verdict, mode="observe")
    machine.run(1200)
    assert len(machine.made) == 1
    assert verdict in machine.doing


def test_a_refusal_is_asked_again_less_and_less() -> None:
    machine = Machine(BURSTS, verdict="lease")
    machine.run(4000)
    assert len(machine.made) == 3
    assert machine.value == 10


def test_another_mode_may_let_through_what_this_one_did_not() -> None:
    machine = Machine(BURSTS, verdict="advised", mode="advise")
    machine.run(600)
    assert len(machine.made) == 1
    machine.extension.on_mode("auto")
    machine.run(600)
    assert len(machine.made) == 2


def test_an_external_change_silences_it() -> None:
    machine = Machine(BURSTS)
    machine.until_it_proposes()
    machine.change("yielded", 7)
    before = len(machine.made)
    machine.run(600)
    assert len(machine.made) == before
    assert "another writer" in machine.doing


def test_a_hold_that_ran_out_is_not_asked_for_at_once() -> None:
    machine = Machine(BURSTS)
    machine.until_it_proposes()
    machine._due.clear()
    machine.change("undone", 10)
    before = len(machine.made)
    machine.run(300)
    assert len(machine.made) == before


# The agent on the real kernel.


def _dirtied_by_kernel() -> int:
    # vm.stat_refresh folds the CPUs' shares in (Documentation/admin-guide/sysctl/vm.rst).
    Path("/proc/sys/vm/stat_refresh").write_text("1")
    lines = Path("/proc/vmstat").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("nr_dirtied ")))


@pytest.mark.kernel(*NEEDS)
def test_dirtied_pages_are_those_that_the_kernel_counts(tmp_path: Path) -> None:
    with agent_of("dirty", "system") as agent:
        column = COLUMNS["dirtied_pages"]
        # Others write too: what the kernel counts brackets what the agent counts.
        outer, first, inner = _dirtied_by_kernel(), agent.feature(column), _dirtied_by_kernel()
        (tmp_path / "data").write_bytes(bytes(4000 * PAGE))
        inner_end, last, outer_end = (
            _dirtied_by_kernel(),
            agent.feature(column),
            _dirtied_by_kernel(),
        )
    assert last - first >= 4000
    assert inner_end - inner - 64 <= last - first <= outer_end - outer + 64


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    # A loop device that may have few dirty pages only: writers to it, and to no other
    # disk, are throttled (Documentation/ABI/testing/sysfs-class-bdi).
    backing = folder / "disk"
    with backing.open("wb") as file:
        file.truncate(256 << 20)
    command = ["losetup", "--find", "--show", str(backing)]
    node = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    try:
        bdi = Path("/sys/block") / Path(node).name / "bdi"
        if not (bdi / "strict_limit").exists():
            machine_lacks("this kernel has no strict_limit for a disk")
        before = {name: (bdi / name).read_text() for name in ("strict_limit", "max_ratio")}
        try:
            (bdi / "strict_limit").write_text("1")
            (bdi / "max_bytes").write_text(str(4 << 20))
            yield Path(node)
        finally:
            for name, text in before.items():
                (bdi / name).write_text(text)
    finally:
        subprocess.run(["losetup", "--detach", node], check=True)


@pytest.mark.kernel(*NEEDS)
def test_a_throttled_writer_is_seen_waiting(tmp_path: Path) -> None:
    with _small_disk(tmp_path) as node, agent_of("dirty", "system") as agent:
        endpoint = Endpoint(agent.arena, Doorbell(agent.doorbell_fd))
        # The length of a jiffy is learnt from the first look at the thresholds on.
        ends = time.monotonic() + 1
        while time.monotonic() < ends:
            (tmp_path / "data").write_bytes(bytes(256 * PAGE))
            time.sleep(0.05)
        column = COLUMNS["pause_ns"]
        before = agent.feature(COLUMNS["pauses"]), agent.feature(column)
        began = time.monotonic()
        with node.open("r+b", buffering=0) as disk:
            for _ in range(96):
                disk.write(bytes(1 << 20))
        took = time.monotonic() - began
        pauses = agent.feature(COLUMNS["pauses"]) - before[0]
        waited = (agent.feature(column) - before[1]) / 1e9
        windows = endpoint.windows.peek().copy()
    assert pauses > 0
    # One writer waits no longer than it writes, but for a jiffy in each pause; the loop
    # device's own writer may wait as well.
    assert 0 < waited < 2 * took + pauses * 0.01
    assert waited > pauses * 0.0005
    last = windows[windows["value"][:, COLUMNS["limit_pages"]] > 0][-1]["value"]
    memory = os.sysconf("SC_PHYS_PAGES")
    background, limit = (int(last[COLUMNS[name]]) for name in ("background_pages", "limit_pages"))
    assert 0 < background < limit < memory
    percent = int(Path("/proc/sys/vm/dirty_background_ratio").read_text())
    if percent:
        assert background <= memory * percent / 100
    assert last[COLUMNS["disk_pages_per_s"]] > 0


@pytest.mark.kernel(*NEEDS)
def test_the_owner_reads_what_a_page_costs_its_writer(tmp_path: Path) -> None:
    with _small_disk(tmp_path) as node, agent_of("dirty", "system") as agent:
        meter = Metrics(MODULE.manifest, agent, now=time.monotonic)
        floor = meter.outcomes["page_cost"].floor
        # The length of a jiffy is learnt from the first look at the thresholds on.
        ends = time.monotonic() + 1
        while time.monotonic() < ends:
            (tmp_path / "data").write_bytes(bytes(256 * PAGE))
            time.sleep(0.05)
        before = meter.read()
        with node.open("r+b", buffering=0) as disk:
            for _ in range(96):
                disk.write(bytes(1 << 20))
        block = meter.between(before, meter.read())
    dirtied, cost = block.values["dirtied"], block.values["page_cost"]
    assert dirtied is not None
    assert dirtied * block.seconds >= 96 * (1 << 20) / PAGE
    # 96 MiB through 4 MiB of room: whoever writes them waits, and a pause has a jiffy at least.
    assert cost is not None
    assert cost > floor
