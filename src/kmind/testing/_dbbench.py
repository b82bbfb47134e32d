# SPDX-License-Identifier: Apache-2.0
"""db_bench: building a RocksDB database, and reading it at random keys."""

import re
import shutil
from pathlib import Path

from kmind.errors import KmindError
from kmind.testing.host import find_tool, run_process

__all__ = ["build_database", "database_size", "parse_report", "parse_series", "run_readrandom"]

_VALUE_SIZE = 100
_KEY_SIZE = 16


def database_size(keys: int) -> int:
    """About how many bytes a database of so many keys takes on disk."""
    return keys * (_KEY_SIZE + _VALUE_SIZE + 9)


def _argv(path: Path, keys: int) -> list[str]:
    return [
        find_tool("db_bench", "rocksdb-tools"),
        f"--db={path}",
        f"--num={keys}",
        f"--key_size={_KEY_SIZE}",
        f"--value_size={_VALUE_SIZE}",
        "--compression_type=none",
    ]


def build_database(path: Path, keys: int) -> None:
    """Fill a fresh database in key order and compact it; a file ``complete`` ends it."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    run_process([*_argv(path, keys), "--benchmarks=fillseq,compact", "--disable_wal=1", "--seed=1"])
    (path / "complete").touch()


def run_readrandom(
    path: Path, keys: int, duration: float, report: Path
) -> tuple[float, list[float], str]:
    """Look up random keys through mmap; operations a second, their series, the result line.

    RocksDB gives no access pattern away (``advise_random_on_open=0``) and
    opens the database read-only, so that it stays as it was built.
    """
    output = run_process(
        [
            *_argv(path, keys),
            "--benchmarks=readrandom",
            "--use_existing_db=1",
            "--readonly=1",
            "--mmap_read=1",
            "--advise_random_on_open=0",
            "--open_files=-1",
            "--seed=1",
            f"--duration={max(1, round(duration))}",
            "--report_interval_seconds=1",
            f"--report_file={report}",
        ]
    )
    operations, line = parse_report(output)
    return operations, parse_series(report.read_text() if report.exists() else ""), line


def parse_report(output: str) -> tuple[float, str]:
    """Operations a second, and the line that says so, from db_bench's output."""
    for line in re.split(r"[\n\r]", output):
        found = re.match(r"readrandom +:.*?(\d+) ops/sec", line)
        if found:
            return float(found[1]), line.strip()
    raise KmindError("db_bench printed no result", hint="run the same db_bench command by hand")


def parse_series(report: str) -> list[float]:
    """Operations a second from db_bench's CSV report ("secs_elapsed,interval_qps")."""
    return [float(line.split(",")[1]) for line in report.splitlines()[1:] if line.strip()]
