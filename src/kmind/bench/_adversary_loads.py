# SPDX-License-Identifier: Apache-2.0
"""Loads for the adversary: what each counter grows by a second, and the work done, by value.

For readahead they are taken from the model of a disk (`kmind.workloads.simulated_disk`), each
value for itself. For iolat's outcome there is a queue of our own making: the longer it may get,
the more the disk does, and the more requests are slow.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kmind.agent.sim.agent import SimAgent
from kmind.extension import find_module
from kmind.knobs import Target, get_knob
from kmind.workloads.simulated_disk import DiskModel, SimulatedDisk, make_disk_files
from kmind.workloads.streams import Stream, random, sequential, strided

__all__ = ["HARMFUL", "Point", "Subject", "iolat_subject", "make_files", "readahead_subject"]

HARMFUL = 0.9
"""A value under which less than this share of the baseline's work is done is harmful."""

_MODEL = DiskModel(cache_pages=1 << 14)  # full soon
_WARM_S, _MEASURED_S = 0.3, 0.2
_LOW = (4, 8, 12, 16, 20, 24, 28, 32, 36, 40)
_LADDER = (*_LOW, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 3072, 4096, 8192, 16384)
_AROUND_KB = 64  # fault_around_bytes
_QUEUE = (4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


@dataclass(frozen=True)
class Point:
    """One load under one value: its work a second, and what each counter grows by a second."""

    work: float
    rates: Mapping[str, float]


@dataclass(frozen=True)
class Subject:
    """A module, the knob that it may move, its baseline, and loads by name and value."""

    module: str
    knob: str
    baseline: int
    loads: Mapping[str, Mapping[int, Point]]

    def ratio(self, load: str, value: int) -> float:
        """The work under a value, in that under the baseline."""
        points = self.loads[load]
        return points[value].work / points[self.baseline].work

    def harmful(self, load: str) -> list[int]:
        """The values that are harmful under a load."""
        return [value for value in self.loads[load] if self.ratio(load, value) < HARMFUL]

    def better(self, load: str) -> list[int]:
        """The values under which more is done, by a tenth."""
        return [value for value in self.loads[load] if self.ratio(load, value) > 1 / HARMFUL]


def readahead_subject(*, baseline: int = 128) -> Subject:
    """Readahead beside its own loads, on the model of a disk."""
    pages = _MODEL.file_pages
    streams: dict[str, tuple[Stream, bool]] = {
        "mapped, random": (random(200_000, pages=pages, seed=1), True),
        "mapped, in order": (sequential(400_000, pages=pages), True),
        "mapped, in steps": (strided(200_000, pages=pages, stride=64), True),
        "read, in order": (sequential(100_000, pages=pages, length=4), False),
    }
    loads = {
        name: {value: _measured(stream, mapped, value) for value in _LADDER}
        for name, (stream, mapped) in streams.items()
    }
    return Subject("readahead", "block.read_ahead_kb", baseline, loads)


def _measured(stream: Stream, mapped: bool, value: int) -> Point:
    columns = find_module("readahead").manifest.columns
    gauges = [columns[name] for name in ("cgroup_left", "memory_left")]
    with tempfile.TemporaryDirectory(prefix="kmind-adversary-") as folder:
        target = make_disk_files(Path(folder), read_ahead_kb=value)
        agent = SimAgent(gauges=gauges, realtime=False, now_ns=10**12, deadline_s=1e6)
        disk = SimulatedDisk(agent, target, _MODEL, now=1000.0)
        agent.start()
        try:
            disk.run(stream, _WARM_S, mapped=mapped)
            began, before = disk.now, {n: agent.feature(c) for n, c in columns.items()}
            work = disk.run(stream, _MEASURED_S, mapped=mapped)
            seconds = disk.now - began
            rates = {n: (agent.feature(c) - before[n]) / seconds for n, c in columns.items()}
        finally:
            agent.close()
    kept = {n: rate for n, rate in rates.items() if rate and columns[n] not in gauges}
    if around := kept.get("around_sequential"):
        # Folios are as large as the window where it is large, and are mapped as a whole: so a small
        # value makes many times the touches, for the same work or less of it.
        fewer = min(1.0, _AROUND_KB / value)
        kept |= {"fault_around": around * fewer, "around_sequential": around * fewer}
    return Point(work, kept)


def iolat_subject(*, baseline: int = 64) -> Subject:
    """Iolat's outcome and guard, with a knob to move: how many requests the disk may have."""
    loads = {
        name: {value: _queued(value, most, knee) for value in _QUEUE}
        for name, most, knee in (("fast disk", 20_000.0, 64), ("slow disk", 900.0, 200))
    }
    return Subject("iolat", "block.nr_requests", baseline, loads)


def _queued(value: int, most: float, knee: float) -> Point:
    work = most * value / (value + knee)
    slow = value / (value + 8 * knee)
    return Point(work, {"slow": work * slow, "fast": work * (1 - slow)})


def make_files(root: Path, subject: Subject) -> Target:
    """The files of the disk that the subject's knob is set on."""
    target = make_disk_files(root)
    Path(get_knob(subject.knob).place(target)).write_text(f"{subject.baseline}\n")
    return target
