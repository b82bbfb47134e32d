#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Records what `kmind train readahead` learns from: six RocksDB loads under a sweep of values.

    python tools/record_readahead.py DIR OUTPUT [SECONDS] [LOAD...]

DIR holds the database (its disk is the one that is swept), and each load's recording becomes a
folder in OUTPUT. The loads are those of KML (I. Akgun and others, "KML: Using Machine Learning
to Improve Storage Systems", 2021), through mmap, in a memory that holds half of the database: there
readahead matters most. As root; the knob is put back.
"""

import subprocess
import sys
import threading
from pathlib import Path

from kmind.testing._dbbench import BENCHMARKS, database_size
from kmind.testing.host import device_of
from kmind.testing.workloads import DbBench

KEYS = 4_000_000
SWEEP = "block.read_ahead_kb=16,64,256,1024,8192"
STEP_S = 1.5
HEAD_START_S = 4.0


def main(folder: Path, output: Path, seconds: float, names: list[str]) -> None:
    """Record each load."""
    for name in names:
        load = DbBench(name, KEYS, name, mmap=True, limit=database_size(KEYS) // 2)
        load.prepare(folder)
        thread = threading.Thread(target=load.run, args=(seconds + HEAD_START_S,))
        thread.start()
        subprocess.run(
            [
                *(sys.executable, "-m", "kmind", "record", f"readahead@{device_of(folder)}"),
                *("-o", str(output / name), "--duration", str(seconds)),
                *("--sweep", SWEEP, "--sweep-s", str(STEP_S), "--tag", f"workload={name}"),
            ],
            check=True,
        )
        thread.join()


if __name__ == "__main__":
    place, out, *rest = sys.argv[1:]
    main(Path(place), Path(out), float(rest[0]) if rest else 60.0, rest[1:] or list(BENCHMARKS))
