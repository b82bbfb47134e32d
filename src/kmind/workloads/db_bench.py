# SPDX-License-Identifier: Apache-2.0
"""db_bench: building a RocksDB database, and running one of its benchmarks on it.

The benchmarks are those that KML was measured with (Akgun et al., HotStorage 2021).
``mixgraph`` is the load that Cao et al. modelled from Facebook's own (FAST 2020), with
the parameters that RocksDB's wiki gives for it, at full speed.
"""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kmind.errors import KmindError, UsageError
from kmind.util.scratch import scratch_folder
from kmind.workloads.host import find_tool, run_process

__all__ = [
    "BENCHMARKS",
    "benchmark_argv",
    "build_database",
    "database_size",
    "for_benchmark",
    "parse_report",
    "parse_series",
    "run_benchmark",
]

_VALUE_SIZE = 100
_KEY_SIZE = 16

_MIXGRAPH = (
    "--key_dist_a=0.002312",
    "--key_dist_b=0.3467",
    "--keyrange_num=30",
    "--keyrange_dist_a=14.18",
    "--keyrange_dist_b=-2.917",
    "--keyrange_dist_c=0.0164",
    "--keyrange_dist_d=-0.08082",
    "--value_k=0.2615",
    "--value_sigma=25.45",
    "--iter_k=2.517",
    "--iter_sigma=14.236",
    "--mix_get_ratio=0.85",
    "--mix_put_ratio=0.14",
    "--mix_seek_ratio=0.01",
)

BENCHMARKS: dict[str, tuple[bool, tuple[str, ...]]] = {
    "readrandom": (False, ()),
    "readseq": (False, ()),
    "readreverse": (False, ()),
    "readrandomwriterandom": (True, ("--readwritepercent=90",)),
    "updaterandom": (True, ()),
    "mixgraph": (True, _MIXGRAPH),
}
"""Name of a benchmark to whether it writes, and the options that it wants."""


def database_size(keys: int) -> int:
    """About how many bytes a database of so many keys takes on disk."""
    return keys * (_KEY_SIZE + _VALUE_SIZE + 9)


def _argv(path: Path, keys: int) -> list[str]:
    return [
        find_tool("db_bench"),
        f"--db={path}",
        f"--num={keys}",
        f"--key_size={_KEY_SIZE}",
        f"--value_size={_VALUE_SIZE}",
        "--compression_type=none",
    ]


def build_database(path: Path, keys: int) -> None:
    """Fill a fresh database in key order and compact it; a file ``complete`` ends it."""
    scratch_folder(path.parent)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    run_process([*_argv(path, keys), "--benchmarks=fillseq,compact", "--disable_wal=1", "--seed=1"])
    (path / "complete").touch()


@contextlib.contextmanager
def for_benchmark(path: Path, name: str) -> Iterator[Path]:
    """The database for one of ``BENCHMARKS``: itself, or, for one that writes, a copy.

    The copy goes with the block: tables never change and are linked, the rest is small.
    """
    if not BENCHMARKS[name][0]:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix=f"{path.name}-", dir=path.parent) as name:
        for file in path.iterdir():
            if file.suffix == ".sst":
                os.link(file, Path(name, file.name))
            elif file.is_file():
                shutil.copy2(file, name)
        yield Path(name)


def benchmark_argv(
    database: Path,
    keys: int,
    name: str,
    duration: float,
    *,
    mmap: bool,
    report: Path,
    repeats: int = 1,
) -> list[str]:
    """The command line of ``run_benchmark``; ``report`` gets a line a second, as it goes.

    With ``repeats`` the benchmark is run so many times, one after the other.
    """
    writes, options = BENCHMARKS[name]
    return [
        *_argv(database, keys),
        *options,
        f"--benchmarks={','.join([name] * repeats)}",
        "--use_existing_db=1",
        f"--readonly={int(not writes)}",
        f"--mmap_read={int(mmap)}",
        "--advise_random_on_open=0",
        "--open_files=-1",
        "--seed=1",
        f"--duration={max(1, round(duration))}",
        "--report_interval_seconds=1",
        f"--report_file={report}",
    ]


def run_benchmark(
    path: Path, keys: int, name: str, duration: float, *, mmap: bool, procs: Path | None = None
) -> tuple[float, list[float], str]:
    """Run one of ``BENCHMARKS``; operations a second, their series, the result line.

    ``duration`` does not matter to readseq and readreverse, which make one pass. RocksDB
    gives no access pattern away (``advise_random_on_open=0``). The database stays as it
    was built: opened read-only, or a copy is written to. ``procs`` is a memory limit's
    join file.
    """
    if name not in BENCHMARKS:
        raise UsageError(
            f"db_bench has no benchmark {name!r} here", hint=f"choose from {', '.join(BENCHMARKS)}"
        )
    with (
        for_benchmark(path, name) as database,
        tempfile.TemporaryDirectory() as scratch,
    ):
        report = Path(scratch, "report.csv")
        argv = benchmark_argv(database, keys, name, duration, mmap=mmap, report=report)
        output = run_process(argv, procs=procs)
        operations, line = parse_report(output, name)
        return operations, parse_series(report.read_text() if report.exists() else ""), line


def parse_report(output: str, name: str) -> tuple[float, str]:
    """Operations a second, and the line that says so, from db_bench's output."""
    for line in re.split(r"[\n\r]", output):
        match = re.match(rf"{re.escape(name)} +:.*?(\d+) ops/sec", line)
        if match:
            return float(match[1]), line.strip()
    raise KmindError("db_bench printed no result", hint="run the same db_bench command by hand")


def parse_series(report: str) -> list[float]:
    """Operations a second from db_bench's CSV report ("secs_elapsed,interval_qps")."""
    return [float(line.split(",")[1]) for line in report.splitlines()[1:] if line.strip()]
