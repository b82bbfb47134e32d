#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Records what `kmind train readahead` learns from: six RocksDB loads under a sweep of values.

    python tools/record_readahead.py DIR OUTPUT [SECONDS] [LOAD...]

DIR holds the database (its disk is the one that is swept), and each load's recording becomes a
folder in OUTPUT, with outcome.csv: the operations a second that the load itself counted. The loads
are those of KML (I. Akgun and others, "KML: Using Machine Learning to Improve Storage Systems",
2021), through mmap, in a memory that holds half of the database: there readahead matters most.
As root; the knob is put back.
"""

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from kmind.learn.recording import OUTCOME
from kmind.testing._dbbench import (
    BENCHMARKS,
    benchmark_argv,
    build_database,
    database_size,
    for_benchmark,
)
from kmind.testing.host import device_of, drop_caches, memory_limit, under_limit

KEYS = 4_000_000
SWEEP = "block.read_ahead_kb=16,128,1024,8192"
STEP_S = 2.5
HEAD_START_S = 3.0
REPEATS = 1000
INTERVAL_NS = 10**9  # between the lines of db_bench's report


def main(folder: Path, output: Path, seconds: float, names: list[str]) -> None:
    """Record each load."""
    database = folder / f"db-{KEYS}"
    if not (database / "complete").exists():
        build_database(database, KEYS)
    for name in names:
        drop_caches()
        with (
            memory_limit(database_size(KEYS) // 2) as procs,
            for_benchmark(database, name) as copy,
            tempfile.TemporaryDirectory() as scratch,
        ):
            report = Path(scratch, "report.csv")
            argv = benchmark_argv(
                copy, KEYS, name, 10 * seconds, mmap=True, report=report, repeats=REPEATS
            )
            load = subprocess.Popen(
                under_limit(argv, procs), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            ended = threading.Event()
            lines: list[str] = []
            thread = threading.Thread(target=follow, args=(report, lines, ended))
            thread.start()
            try:
                time.sleep(HEAD_START_S)
                record(f"readahead@{device_of(folder)}", output / name, seconds, name)
                if load.poll() is not None:
                    sys.exit(f"{name} ended before its recording, with {load.returncode}")
            finally:
                ended.set()
                thread.join()
                load.kill()
                load.wait()
                text = "\n".join(["start_ns,end_ns,per_s", *lines, ""])
                (output / name / OUTCOME).write_text(text)


def follow(report: Path, lines: list[str], ended: threading.Event) -> None:
    """Note when each line of a report came; db_bench begins it anew with each benchmark."""
    place = 0
    while not ended.wait(0.02):
        text = report.read_text() if report.exists() else ""
        place = 0 if len(text) < place else place
        *whole, _ = text[place:].split("\n")
        place += sum(len(line) + 1 for line in whole)
        now = time.monotonic_ns()
        rates = [line.split(",")[1] for line in whole if line[:1].isdigit()]
        lines += [f"{now - INTERVAL_NS},{now},{rate}" for rate in rates]


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
    main(Path(place), Path(out), float(rest[0]) if rest else 60.0, rest[1:] or list(BENCHMARKS))
