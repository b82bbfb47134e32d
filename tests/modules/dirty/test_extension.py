# SPDX-License-Identifier: Apache-2.0
"""The dirty module: what it tries and keeps on a modelled machine, and what its agent sees."""

import contextlib
import json
import mmap
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modules.disks import agent_of
from programs import machine_lacks

from kmind.abi import layout
from kmind.extension import (
    ChangeEvent,
    Context,
    KnobInfo,
    VerdictEvent,
    find_module,
    parse_parameters,
)
from kmind.modules.dirty.extension import Dirty
from kmind.modules.dirty.holt import Holt
from kmind.modules.dirty.waiting import Waiting, spared
from kmind.queue import Doorbell, Endpoint
from kmind.testing.contract import CHECKS, Check

KNOB = "vm.dirty_background_ratio"
MODULE = find_module("dirty")
COLUMNS = MODULE.manifest.columns
PAGE = mmap.PAGESIZE
NEEDS = ("libbpf", "btf", "arena", "bpf_timer", "tp_btf")
WINDOW_S = 0.1
PERCENT = 50_000  # pages in a percent of the modelled machine's memory
LIMIT = 20 * PERCENT


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
    waiting.restart(forget=False)
    waiting.learn_one(1.0, 9.0, 1.0)
    assert list(waiting.costs) == [0.5] * 5


def test_chance_is_rarely_taken_for_a_gain() -> None:
    choose = np.random.default_rng(1)
    taken = sum(spared(*choose.exponential(1, (2, 5)).tolist()) > 0 for _ in range(2000))
    assert taken < 2000 * 0.07


def test_a_gain_is_measured() -> None:
    assert spared([2.0, 2.2, 1.9, 2.1, 2.0], [1.0, 1.1, 0.9, 1.0, 1.2]) == pytest.approx(0.49, 0.01)
    assert spared([0.0] * 5, [0.0] * 5) == 0.0
    assert spared([], []) == 0.0


# The extension on a modelled machine.


class Machine:
    """A disk, dirty pages, writers and the agent, in steps of a window.

    The model of mm/page-writeback.c is coarse: what is above the background threshold is
    written; half-way from there to the limit a writer waits until the disk has caught up.
    """

    def __init__(
        self,
        load: Callable[[float], float],
        *,
        disk: float,
        mode: str = "auto",
        verdict: str = "approved",
        follows: bool = True,
        **params: float,
    ) -> None:
        self.now = 100.0
        self.value = 10
        self.mode = mode
        self.made: list[dict[str, Any]] = []
        self.log: list[str] = []
        self.waited = 0.0
        self._load, self._disk, self._verdict = load, disk, verdict
        self._follows = follows  # whether the kernel goes by the value
        self._dirty = 0.0
        self._backlog = 0.0
        self._due: list[tuple[int, int]] = []
        defaults = parse_parameters(MODULE.manifest, [])
        info = KnobInfo(KNOB, 1, "int", "%", 1, 60, 1, (), 0, 10)
        self.context = Context(
            module="dirty",
            target="system",
            params={**defaults, **params},
            features=COLUMNS,
            knobs={KNOB: info},
            port=self,
            mode=mode,
            now=lambda: self.now,
            write_log=self.log.append,
        )
        self.extension = Dirty(self.context)
        self.extension.start()

    def submit(self, knob: int, target: int, value: int, **words: Any) -> int:
        """Take a recommendation."""
        self.made.append({"value": value, **json.loads(words["note"])})
        self._due.append((len(self.made), value))
        return len(self.made)

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        for _ in range(round(seconds / WINDOW_S)):
            self.extension.on_windows(self._window())
            self._answer()

    def change(self, kind: Any, value: int) -> None:
        """Something becomes of the knob."""
        self.value = value
        self.extension.on_change(ChangeEvent(kind, len(self.made), KNOB, value))

    @property
    def values(self) -> list[int]:
        """What was recommended, in order."""
        return [each["value"] for each in self.made]

    @property
    def doing(self) -> str:
        """What the extension says that it does."""
        return str(self.extension.status()["doing"])

    def _window(self) -> Any:
        background = (self.value if self._follows else 10) * PERCENT
        ceiling = (LIMIT + background) / 2
        if self._dirty > background:
            self._dirty = max(background, self._dirty - self._disk * WINDOW_S)
        self._backlog += self._load(self.now) * WINDOW_S
        pages = min(self._backlog, max(0.0, ceiling - self._dirty))
        self._backlog -= pages
        self._dirty += pages
        paused = WINDOW_S if self._backlog > 0 else 0.0
        self.waited += paused
        made = np.zeros(1, layout.WINDOW)
        made["start_ns"], made["end_ns"] = self.now * 1e9, (self.now + WINDOW_S) * 1e9
        row = made["value"][0]
        row[COLUMNS["dirtied_pages"]] = pages
        row[COLUMNS["pauses"]] = paused > 0
        row[COLUMNS["pause_ns"]] = paused * 1e9
        row[COLUMNS["background_pages"]] = background
        row[COLUMNS["limit_pages"]] = LIMIT
        row[COLUMNS["disk_pages_per_s"]] = self._disk
        self.now += WINDOW_S
        return made

    def _answer(self) -> None:
        due, self._due = self._due, []
        for rec_id, value in due:
            self.extension.on_verdict(VerdictEvent(rec_id, self._verdict, KNOB, value))
            if self._verdict == "approved" and value != self.value:
                self.value = value
                self.extension.on_change(ChangeEvent("applied", rec_id, KNOB, value))


def _bursts(rate: float, seconds: float, every: float) -> Callable[[float], float]:
    return lambda now: rate if now % every < seconds else 0.0


# A burst leaves 450,000 pages more than the disk takes, on top of what is dirty already.
# Half-way to the limit are 250,000 at 10 %, 375,000 at 5 %, and 475,000 at 1 %.
BURSTS = _bursts(150_000, 9, 40)
DISK = 100_000.0


def test_bursts_that_an_earlier_begin_serves_without_waiting_keep_it() -> None:
    machine = Machine(BURSTS, disk=DISK)
    machine.run(1200)
    assert machine.value < 10
    assert "keeping" in machine.doing
    first = machine.made[0]
    assert first["evidence"]["predicted_mb_per_s"] > first["evidence"]["disk_mb_per_s"]
    assert first["evidence"]["waited_s_per_gib"] > 0.01
    kept = next(made for made in machine.made if "so it is kept" in made["reason"])
    assert kept["evidence"]["spared"] >= 0.2
    waited = machine.waited
    machine.run(200)
    left = machine.waited - waited
    alone = Machine(BURSTS, disk=DISK, verdict="range")
    alone.run(1200)
    waited = alone.waited
    alone.run(200)
    assert left < 0.8 * (alone.waited - waited)


def test_a_value_that_changes_nothing_is_let_go_of() -> None:
    machine = Machine(BURSTS, disk=DISK, follows=False)
    machine.run(1200)
    assert machine.values[0] < 10
    assert machine.values[-1] == 10
    assert machine.value == 10
    assert any("does not spare" in line for line in machine.log)


def test_a_load_that_the_disk_keeps_up_with_is_left_alone() -> None:
    machine = Machine(lambda now: 50_000.0, disk=DISK)
    machine.run(600)
    assert machine.made == []
    assert "nothing to gain" in machine.doing


def test_a_disk_that_never_keeps_up_is_not_helped() -> None:
    machine = Machine(lambda now: 400_000.0, disk=DISK)
    machine.run(1200)
    assert machine.values[0] < 10
    assert machine.values[-1] == 10
    assert machine.value == 10
    # Each time it waits twice as long before it tries again.
    assert sum("does not spare" in line for line in machine.log) <= 5


def test_a_kept_value_is_let_go_when_it_is_time_to_look_again() -> None:
    machine = Machine(BURSTS, disk=DISK, recheck=400.0)
    machine.run(1500)
    assert any("time to see" in line for line in machine.log)
    # It is measured anew without it, and tried again.
    machine.run(1500)
    back = machine.values.index(10)
    assert any(value < 10 for value in machine.values[back:])


def test_nothing_is_written_any_more_so_a_trial_ends() -> None:
    quiet_from = float("inf")
    machine = Machine(lambda now: BURSTS(now) if now < quiet_from else 0.0, disk=DISK)
    while not machine.made:
        machine.run(1)
    quiet_from = machine.now
    machine.run(400)
    assert machine.value == 10
    assert any("Too little" in line for line in machine.log)


@pytest.mark.parametrize("verdict", ["shadowed", "advised"])
def test_observe_and_advise_say_it_once(verdict: str) -> None:
    machine = Machine(BURSTS, disk=DISK, verdict=verdict, mode="observe")
    machine.run(1200)
    assert len(machine.made) == 1
    assert verdict in machine.doing


def test_a_refusal_is_asked_again_less_and_less() -> None:
    machine = Machine(BURSTS, disk=DISK, verdict="lease")
    machine.run(2000)
    assert 2 <= len(machine.made) <= 6
    assert machine.value == 10


def test_an_external_change_silences_it() -> None:
    machine = Machine(BURSTS, disk=DISK)
    while not machine.made:
        machine.run(1)
    machine.change("yielded", 7)
    before = len(machine.made)
    machine.run(600)
    assert len(machine.made) == before
    assert "somebody else" in machine.doing


def test_a_hold_that_ran_out_is_not_asked_for_at_once() -> None:
    machine = Machine(BURSTS, disk=DISK)
    while not machine.made:
        machine.run(1)
    machine.change("undone", 10)
    before = len(machine.made)
    machine.run(30)
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
