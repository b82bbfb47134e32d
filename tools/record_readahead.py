#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Records what `kmind train readahead` learns from: six RocksDB loads under a sweep of values.

    python tools/record_readahead.py DATABASE_DIR OUTPUT_DIR [SECONDS] [LOAD...]

The loads are those of KML (I. Akgun and others, "KML: Using Machine Learning to Improve
Storage Systems", 2021), run by db_bench with buffered reads, in a control group whose
memory holds less than half of the database. As root; the knob is put back.
"""

import subprocess
import sys
from pathlib import Path

from kmind.testing._dbbench import build_database, database_size
from kmind.testing.host import device_of, drop_caches, find_tool, memory_limit, under_limit

KEYS = 6_000_000
SWEEP = "block.read_ahead_kb=16,64,256,1024,8192"
# Of the example in RocksDB's wiki.
MIXGRAPH = {
    "mix_get_ratio": 0.83,
    "mix_put_ratio": 0.14,
    "mix_seek_ratio": 0.03,
    "key_dist_a": 0.002312,
    "key_dist_b": 0.3467,
    "value_k": 0.2615,
    "value_sigma": 25.45,
    "iter_k": 2.517,
    "iter_sigma": 14.236,
    "keyrange_dist_a": 14.18,
    "keyrange_dist_b": -2.917,
    "keyrange_dist_c": 0.0164,
    "keyrange_dist_d": -0.08082,
    "keyrange_num": 30,
}
LOADS = {
    "readseq": [],
    "readreverse": [],
    "readrandom": [],
    "mixgraph": [f"--{name}={value}" for name, value in MIXGRAPH.items()],
    "readrandomwriterandom": [],
    "updaterandom": [],
}


def main(database: Path, output: Path, seconds: float, names: list[str]) -> None:
    """Record each load into a folder of its own."""
    if not (database / "complete").exists():
        build_database(database, KEYS)
    disk = device_of(database)
    for name in names:
        drop_caches()
        with memory_limit(database_size(KEYS) * 2 // 5) as procs:
            load = subprocess.Popen(
                under_limit(
                    [
                        find_tool("db_bench", "rocksdb-tools"),
                        f"--db={database}",
                        f"--num={KEYS}",
                        "--key_size=16",
                        "--value_size=100",
                        "--compression_type=none",
                        f"--benchmarks={','.join([name] * 100)}",
                        "--use_existing_db=1",
                        "--advise_random_on_open=0",
                        "--open_files=-1",
                        "--cache_size=8388608",
                        f"--duration={round(seconds * 2)}",
                        *LOADS[name],
                    ],
                    procs,
                ),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                subprocess.run(
                    [
                        *(sys.executable, "-m", "kmind", "record", f"readahead@{disk}"),
                        *("-o", str(output / name), "--duration", str(seconds)),
                        *("--sweep", SWEEP, "--sweep-s", "1.5", "--tag", f"workload={name}"),
                    ],
                    check=True,
                )
                if load.poll() is not None:
                    sys.exit(f"{name} ended before its recording, with {load.returncode}")
            finally:
                load.kill()
                load.wait()


if __name__ == "__main__":
    place, out, *rest = sys.argv[1:]
    length = float(rest[0]) if rest else 60.0
    main(Path(place), Path(out), length, rest[1:] or list(LOADS))
