#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Records what `kmind train readahead` learns from: six RocksDB loads under a sweep of values.

    python tools/record_readahead.py DIR OUTPUT [SECONDS] [LOAD...]

DIR holds the database (its disk is the one that is swept), and each load's recording becomes a
folder in OUTPUT, with outcome.csv: the operations a second that the load itself counted. The loads
are those of KML (I. Akgun and others, "KML: Using Machine Learning to Improve Storage Systems",
2021), through mmap, in a memory that holds half of the database: there readahead matters most.
``phases`` is a seventh: four of them by turns, each stopped while others run, with phases.csv.
As root; the knob is put back.
"""

import contextlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from kmind.learn.recording import OUTCOME, PHASES
from kmind.workloads.db_bench import (
    BENCHMARKS,
    benchmark_argv,
    build_database,
    database_size,
    for_benchmark,
)
from kmind.workloads.host import device_of, drop_caches, memory_limit, under_limit

KEYS = 10_000_000  # a pass of readseq is to last some seconds, for each begins the report anew
SWEEP = "block.read_ahead_kb=16,128,1024,8192"
STEP_S = 2.5
HEAD_START_S = 3.0
REPEATS = 1000
INTERVAL_NS = 10**9  # between the lines of db_bench's report
BY_TURNS = ("readseq", "readrandom", "readreverse", "updaterandom")
TURN_S = 4.1  # so that value and load change at different times


def main(folder: Path, output: Path, seconds: float, names: list[str]) -> None:
    """Record each load."""
    database = folder / f"db-{KEYS}"
    if not (database / "complete").exists():
        build_database(database, KEYS)
    instance = f"readahead@{device_of(folder)}"
    for name in names:
        drop_caches()
        with memory_limit(database_size(KEYS) // 2) as procs, contextlib.ExitStack() as stack:
            loads = [
                stack.enter_context(running(database, each, seconds, procs))
                for each in (BY_TURNS if name == "phases" else (name,))
            ]
            if name == "phases":
                note, file, heading = by_turns(loads), PHASES, "start_ns,end_ns,name"
            else:
                note, file, heading = counted(loads[0][1]), OUTCOME, "start_ns,end_ns,per_s"
            with note as lines:
                record(instance, output / name, seconds, name)
            for load, _ in loads:
                if load.poll() is not None:
                    sys.exit(f"{name} ended before its recording, with {load.returncode}")
            (output / name / file).write_text("\n".join([heading, *lines, ""]))


Load = tuple[subprocess.Popen[bytes], Path]


@contextlib.contextmanager
def running(database: Path, name: str, seconds: float, procs: Path) -> Iterator[Load]:
    """One load, and the file with its report."""
    with for_benchmark(database, name) as copy, tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "report.csv")
        argv = benchmark_argv(
            copy, KEYS, name, 10 * seconds, mmap=True, report=report, repeats=REPEATS
        )
        load = subprocess.Popen(
            under_limit(argv, procs), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            time.sleep(HEAD_START_S)
            yield load, report
        finally:
            load.kill()
            load.wait()


@contextlib.contextmanager
def counted(report: Path) -> Iterator[list[str]]:
    """Note when each line of a report came; db_bench begins it anew with each benchmark."""
    lines: list[str] = []

    def follow(ended: threading.Event) -> None:
        place = 0
        while not ended.wait(0.02):
            text = report.read_text() if report.exists() else ""
            place = 0 if len(text) < place else place
            *whole, _ = text[place:].split("\n")
            place += sum(len(line) + 1 for line in whole)
            now = time.monotonic_ns()
            rates = [line.split(",")[1] for line in whole if line[:1].isdigit()]
            lines.extend(f"{now - INTERVAL_NS},{now},{rate}" for rate in rates)

    with in_thread(follow):
        yield lines


@contextlib.contextmanager
def by_turns(loads: list[Load]) -> Iterator[list[str]]:
    """Let one run at a time, and note which."""
    lines: list[str] = []

    def turn(ended: threading.Event) -> None:
        for load, _ in loads:
            load.send_signal(signal.SIGSTOP)
        while True:
            for name, (load, _) in zip(BY_TURNS, loads, strict=True):
                if ended.is_set():
                    return
                began = time.monotonic_ns()
                load.send_signal(signal.SIGCONT)
                ended.wait(TURN_S)
                load.send_signal(signal.SIGSTOP)
                lines.append(f"{began},{time.monotonic_ns()},{name}")

    with in_thread(turn):
        yield lines


@contextlib.contextmanager
def in_thread(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run ``work`` beside the block; the event that it is given tells it to end."""
    ended = threading.Event()
    thread = threading.Thread(target=work, args=(ended,))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def record(instance: str, output: Path, seconds: float, load: str) -> None:
    """Record one instance under the sweep."""
    subprocess.run(
        [
            *(sys.executable, "-m", "kmind", "record", instance, "-o", str(output)),
            *("--duration", str(seconds), "--sweep", SWEEP, "--sweep-s", str(STEP_S)),
            *("--tag", f"workload={load}"),
        ],
        check=True,
    )


if __name__ == "__main__":
    place, out, *rest = sys.argv[1:]
    everything = [*BENCHMARKS, "phases"]
    main(Path(place), Path(out), float(rest[0]) if rest else 60.0, rest[1:] or everything)
