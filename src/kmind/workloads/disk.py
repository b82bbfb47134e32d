# SPDX-License-Identifier: Apache-2.0
"""Loads on a real disk with known access patterns, run by fio and db_bench.

A load lays out its files once, in ``prepare``, and finds them again later. Each
``run`` starts from the page cache that the load is about: dropped for the cold
ones, filled for the warm one. How fast a file is read into memory depends on where
free memory is, too: see ``kmind.workloads.host.back_memory``. Those that read in order
go through a file four times as large as the memory that they may use, again and again.

The databases come twice. Those read by pread may use a quarter of what their files
take, as KML's did, so that readahead keeps its price; those mapped have all memory.

The two mmap-random loads differ only in memory. ``mmap-random`` may use less
than its file needs, so that large readahead evicts what it fetched;
``mmap-random-fits`` may use all, so that large readahead fills the cache and
wins although the pattern is random. A tuner has to tell them apart.
"""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kmind.errors import UsageError
from kmind.paths import cache_folder
from kmind.util.scratch import scratch_folder
from kmind.workloads.db_bench import BENCHMARKS, build_database, database_size, run_benchmark
from kmind.workloads.fio import FioJob, lay_out_file, run_fio, warm_file
from kmind.workloads.host import back_memory, drop_caches, find_tool, memory_limit, need_space

__all__ = [
    "DEFAULT_DIR",
    "Alternating",
    "DbBench",
    "Fio",
    "Result",
    "Workload",
    "make_workload",
    "workload_names",
]

DEFAULT_DIR = cache_folder() / "bench"
"""Folder that keeps the loads' files between runs."""

_MIB = 1 << 20


@dataclass(frozen=True)
class Result:
    """Result of one run of a load.

    ``bytes_per_s`` counts the bytes that the load received; 0 if unknown. ``unit`` is the unit of
    ``value``. ``series`` holds operations a second, one entry a second, if the tool reports them.
    ``raw`` is the tool's own report, ``started`` the time when the tool was started, in seconds of
    CLOCK_MONOTONIC.
    """

    ops_per_s: float
    bytes_per_s: float
    unit: str
    series: list[float] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)
    started: float = 0.0

    @property
    def value(self) -> float:
        """The one number that the load is judged by, in ``unit``."""
        return self.bytes_per_s / 1e6 if self.unit == "MB/s" else self.ops_per_s


class Workload(Protocol):
    """A load that can be run again and again. Not thread-safe: one run at a time."""

    @property
    def name(self) -> str:
        """Short name, as in reports."""

    @property
    def unit(self) -> str:
        """Unit of the results' ``value``."""

    def prepare(self, dir: Path) -> None:
        """Lay out the files under ``dir``, unless they are there with the right size."""

    def run(self, duration: float) -> Result:
        """Run for ``duration`` seconds; loads that have an end, again and again."""


@dataclass
class Fio:
    """A fio job on one file.

    ``size`` is the file's size and ``limit`` the memory that the job may use, in
    bytes; None for no limit. ``cache`` is ``"cold"`` (dropped before the run),
    ``"warm"`` (the file is read before the run) or ``"direct"`` (bypassed).
    ``unit`` is ``"IOPS"`` or ``"MB/s"``.
    """

    name: str
    job: FioJob
    size: int
    cache: str = "cold"
    limit: int | None = None
    unit: str = "IOPS"
    file_: Path | None = None

    def prepare(self, dir: Path) -> None:
        """Lay out one file of random bytes; loads of the same size share it."""
        find_tool("fio")
        self.file_ = lay_out_file(dir, self.size)

    def run(self, duration: float) -> Result:
        """Run the job for ``duration`` seconds."""
        if self.file_ is None:
            raise UsageError(f"{self.name} is not prepared", hint="call prepare(dir) first")
        if self.cache == "warm":
            warm_file(self.file_)
        else:
            drop_caches()
        if self.cache == "cold":
            back_memory(9 * (self.limit or self.size) // 4)
        started = time.monotonic()
        with _limited(self.limit) as procs:
            report, series = run_fio(self.job, self.file_, self.size, duration, procs)
        read = report["jobs"][0]["read"]
        seconds = read["runtime"] / 1e3
        return Result(
            ops_per_s=read["total_ios"] / seconds,
            bytes_per_s=read["io_bytes"] / seconds,
            unit=self.unit,
            series=series,
            raw=report,
            started=started,
        )


@dataclass
class DbBench:
    """One of db_bench's benchmarks on a RocksDB database, from a cold cache.

    ``keys`` entries of 16 + 100 bytes without compression; 10 million make about
    1.2 GiB. ``mmap`` maps the tables instead of reading them. ``limit`` is the memory
    that it may use, in bytes; None for no limit.
    """

    name: str
    keys: int
    benchmark: str = "readrandom"
    mmap: bool = True
    limit: int | None = None
    unit: str = "ops/s"
    database_: Path | None = None

    def prepare(self, dir: Path) -> None:
        """Build the database, unless a complete one of this size is there."""
        find_tool("db_bench")
        path = scratch_folder(dir) / f"db-{self.keys}"
        if not (path / "complete").exists():
            need_space(dir, 3 * database_size(self.keys))
            build_database(path, self.keys)
        self.database_ = path

    def run(self, duration: float) -> Result:
        """Run for ``duration`` seconds, or as many passes, each from a cold cache, as begin in it.

        ``raw`` has the last pass's line.
        """
        if self.database_ is None:
            raise UsageError(f"{self.name} is not prepared", hint="call prepare(dir) first")
        series: list[float] = []
        operations, seconds = 0.0, 0.0
        started = 0.0
        while not started or time.monotonic() < started + duration:
            drop_caches()
            if not started:
                back_memory(9 * (self.limit or database_size(self.keys)) // 4)
                started = time.monotonic()
            with _limited(self.limit) as procs:
                speed, latency, line = run_benchmark(
                    self.database_,
                    self.keys,
                    self.benchmark,
                    duration,
                    mmap=self.mmap,
                    procs=procs,
                )
            taken = self.keys / speed if self.passes else duration
            operations, seconds = operations + speed * taken, seconds + taken
            series += latency
        return Result(
            operations / seconds, 0.0, self.unit, series, raw={"line": line}, started=started
        )

    @property
    def passes(self) -> bool:
        """True if a run ends by itself, after one pass over all keys."""
        return self.benchmark in ("readseq", "readreverse")


@dataclass
class Alternating:
    """Loads by turns: phases that change while a tuner is at work.

    ``rounds`` times each of ``loads``. The value is the geometric mean of the loads' own
    mean values, so that none counts more for its unit.
    """

    name: str
    loads: Sequence[Fio | DbBench]
    rounds: int = 2
    unit: str = "geometric mean"
    phases_: list[tuple[str, float, float, float]] = field(default_factory=list)
    """Of the last run: name, value, start and end in seconds of CLOCK_MONOTONIC."""

    def prepare(self, dir: Path) -> None:
        """Prepare all of them."""
        for load in self.loads:
            load.prepare(dir)

    def run(self, duration: float) -> Result:
        """Run each phase for ``duration`` seconds."""
        self.phases_ = []
        values: dict[str, list[float]] = {load.name: [] for load in self.loads}
        for _ in range(self.rounds):
            for load in self.loads:
                result = load.run(duration)
                phase = load.name, result.value, result.started, time.monotonic()
                self.phases_.append(phase)
                values[load.name].append(result.value)
        means = [sum(values_) / len(values_) for values_ in values.values()]
        value = math.exp(sum(map(math.log, means)) / len(means))
        return Result(value, 0.0, self.unit, raw={"values": values})


def _limited(limit: int | None) -> contextlib.AbstractContextManager[Path | None]:
    return contextlib.nullcontext() if limit is None else memory_limit(limit)


def workload_names() -> list[str]:
    """Names of all loads, those of the readahead benchmark first."""
    return list(_make_all(quick=False))


def make_workload(name: str, *, quick: bool = False) -> Workload:
    """The load called ``name``; ``quick`` makes its files, and its memory, a quarter.

    Raises UsageError for a name that is not in ``workload_names()``.
    """
    loads = _make_all(quick).get(name)
    if loads is None:
        raise UsageError(
            f"no workload is called {name!r}", hint=f"choose from {', '.join(workload_names())}"
        )
    return loads


def _make_all(quick: bool) -> dict[str, Workload]:
    unit = 256 * _MIB if quick else 1024 * _MIB
    file, keys = 4 * unit, 2_500_000 if quick else 10_000_000
    random = Fio("mmap-random", FioJob("mmap", "randread"), file, limit=unit)
    steady = Fio(
        "pread-sequential-steady",
        FioJob("psync", "read", block=128 << 10),
        file,
        limit=unit,
        unit="MB/s",
    )
    loads: list[Workload] = [
        random,
        Fio("mmap-random-fits", random.job, file),
        Fio("mmap-zipf", FioJob("mmap", "randread", zipf=1.1), file, limit=unit),
        Fio("mmap-sequential", FioJob("mmap", "read"), file, limit=unit, unit="MB/s"),
        Fio("pread-sequential", FioJob("psync", "read"), file, limit=unit, unit="MB/s"),
        *_databases(keys),
        Alternating("alternating", (steady, random)),
        steady,
        Fio(
            "pread-random-direct",
            FioJob("libaio", "randread", depth=32, direct=True),
            file,
            cache="direct",
        ),
        Fio("pread-random-cached", FioJob("psync", "randread"), unit, cache="warm"),
    ]
    return {load.name: load for load in loads}


def _databases(keys: int) -> Iterator[DbBench]:
    for benchmark in BENCHMARKS:
        yield DbBench(f"db-{benchmark}-mmap", keys, benchmark)
        limit = database_size(keys) // 4
        yield DbBench(f"db-{benchmark}-pread", keys, benchmark, mmap=False, limit=limit)
