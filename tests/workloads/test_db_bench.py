# SPDX-License-Identifier: Apache-2.0
"""Databases of db_bench, and its reports."""

import pytest
from workloads.on_disk import MIB, ON_THE_MACHINE

from kmind.errors import KmindError, UsageError
from kmind.workloads import db_bench
from kmind.workloads.disk import DbBench


@ON_THE_MACHINE
def test_a_database_is_built_once_and_stays_as_it_was(folder):
    load = DbBench("load", 200_000)
    load.prepare(folder)
    tables = {path.name: path.stat().st_mtime_ns for path in load.database_.glob("*.sst")}
    assert tables
    load.prepare(folder)
    result = load.run(2)
    assert result.ops_per_s > 0
    assert result.series
    assert tables == {path.name: path.stat().st_mtime_ns for path in load.database_.glob("*.sst")}


@ON_THE_MACHINE
@pytest.mark.parametrize("name", ["readreverse", "updaterandom", "mixgraph"])
def test_a_database_that_is_written_to_stays_as_it_was(folder, name):
    load = DbBench("load", 200_000, name, mmap=name == "mixgraph", limit=64 * MIB)
    load.prepare(folder)
    before = {path.name: path.stat().st_mtime_ns for path in load.database_.iterdir()}
    assert load.run(1).ops_per_s > 0
    logs = {"LOG", "LOCK"}
    after = {path.name: path.stat().st_mtime_ns for path in load.database_.iterdir()}
    assert {n: t for n, t in after.items() if n not in logs and "LOG.old" not in n} == {
        n: t for n, t in before.items() if n not in logs and "LOG.old" not in n
    }
    assert [path.name for path in folder.iterdir() if path.name.startswith("db-200000-")] == []


def test_a_benchmark_that_db_bench_lacks(folder):
    with pytest.raises(UsageError, match="choose from readrandom,"):
        db_bench.run_benchmark(folder, 1, "nothing", 1, mmap=True)


def test_reports_of_db_bench():
    line = "readrandom   :      10.9 micros/op 91234 ops/sec 10.0 seconds 912340 operations;"
    assert db_bench.parse_report(f"DB\n... finished 10 ops\r{line}\n", "readrandom") == (
        91234.0,
        line,
    )
    for output, name in ((line, "readrandomwriterandom"), ("Open error", "readrandom")):
        with pytest.raises(KmindError, match="no result"):
            db_bench.parse_report(output, name)
    assert db_bench.parse_series("secs_elapsed,interval_qps\n1,10\n2,20\n") == [10.0, 20.0]
