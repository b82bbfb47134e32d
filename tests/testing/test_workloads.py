# SPDX-License-Identifier: Apache-2.0
"""Loads on the real disk, small; and the streams."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmind.errors import KmindError, NotSupportedError, UsageError
from kmind.workloads import db_bench, disk, fio, host, streams
from kmind.workloads.disk import Alternating, DbBench, Fio
from kmind.workloads.fio import FioJob

MIB = 1 << 20
ON_THE_MACHINE = pytest.mark.kernel  # its disk and its cache, that is


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("loads")


def cached_pages(path: Path) -> int:
    done = subprocess.run(
        ["fincore", "--noheadings", "--raw", "--output", "PAGES", str(path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


def test_a_file_is_laid_out_once_and_again_when_its_size_is_off(folder):
    path = fio.lay_out_file(folder, 3 * MIB)
    first = path.stat()
    assert first.st_size == 3 * MIB
    assert fio.lay_out_file(folder, 3 * MIB).stat().st_mtime_ns == first.st_mtime_ns
    with path.open("r+b") as file:
        file.truncate(MIB)
    assert fio.lay_out_file(folder, 3 * MIB).stat().st_size == 3 * MIB
    assert not list(folder.glob("*.part"))


@ON_THE_MACHINE
@pytest.mark.parametrize(
    ("job", "cache"),
    [
        (FioJob("mmap", "randread"), "cold"),
        (FioJob("psync", "randread"), "warm"),
        (FioJob("libaio", "randread", depth=32, direct=True), "direct"),
    ],
    ids=lambda value: str(value),
)
def test_a_timed_job_runs_as_long_as_asked(folder, job, cache):
    load = Fio("load", job, 64 * MIB, cache=cache)
    load.prepare(folder)
    result = load.run(2)
    read = result.raw["jobs"][0]["read"]
    assert read["runtime"] >= 2000
    assert result.value == result.ops_per_s > 0
    assert result.bytes_per_s == pytest.approx(result.ops_per_s * 4096, rel=1e-6)
    assert result.series
    assert all(value > 0 for value in result.series)


@ON_THE_MACHINE
@pytest.mark.parametrize("engine", ["mmap", "psync"])
def test_a_file_is_read_from_a_cold_cache(folder, engine):
    load = Fio("load", FioJob(engine, "read"), 64 * MIB, unit="MB/s")
    load.prepare(folder)
    before = sectors_read(host.device_of(folder))
    result = load.run(2)
    assert result.raw["jobs"][0]["read"]["io_bytes"] >= 64 * MIB
    assert sectors_read(host.device_of(folder)) - before >= 64 * MIB // 512
    assert result.value == result.bytes_per_s / 1e6


def sectors_read(device: str) -> int:
    return int(Path("/sys/block", device, "stat").read_text().split()[2])


@ON_THE_MACHINE
def test_a_limited_job_cannot_cache_its_file(folder):
    device = host.device_of(folder)
    from_disk = {}
    for limit in (32 * MIB, None):
        load = Fio("load", FioJob("psync", "read"), 64 * MIB, limit=limit, unit="MB/s")
        load.prepare(folder)
        for seconds in (2, 8, 32):  # as long as a few passes take on this disk
            before = sectors_read(device)
            result = load.run(seconds)
            received = result.raw["jobs"][0]["read"]["io_bytes"]
            if received > 4 * 64 * MIB:
                break
        from_disk[limit] = (sectors_read(device) - before) * 512 / received
    assert from_disk[32 * MIB] > 0.9
    assert from_disk[None] < 0.5


@ON_THE_MACHINE
def test_dropping_and_warming_the_cache(folder):
    path = fio.lay_out_file(folder, 16 * MIB)
    fio.warm_file(path)
    assert cached_pages(path) * 4096 == 16 * MIB
    host.drop_caches()
    assert cached_pages(path) == 0


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


@ON_THE_MACHINE
def test_phases_by_turns(folder):
    loads = [
        Fio("random", FioJob("psync", "randread"), 8 * MIB),
        Fio("in order", FioJob("psync", "read"), 8 * MIB, unit="MB/s"),
    ]
    load = Alternating("both", loads, rounds=2)
    load.prepare(folder)
    result = load.run(0.5)
    assert [phase[0] for phase in load.phases_] == ["random", "in order"] * 2
    assert all(start < end for _, _, start, end in load.phases_)
    values = result.raw["values"]
    product = math.prod(sum(each) / 2 for each in values.values())
    assert result.value == pytest.approx(math.sqrt(product))


@ON_THE_MACHINE
def test_a_memory_limit_holds_and_goes_even_after_a_failure():
    groups = []

    def take_too_much():
        with host.memory_limit(64 * MIB) as procs:
            groups.append(procs.parent)
            assert groups[0].is_dir()
            host.run_process([sys.executable, "-c", f"bytearray({256 * MIB})"], procs=procs)

    with pytest.raises(KmindError, match="status"):
        take_too_much()
    assert not groups[0].exists()


@ON_THE_MACHINE
def test_two_memory_limits_at_once():
    with host.memory_limit(64 * MIB) as first, host.memory_limit(64 * MIB) as second:
        assert first != second


def test_a_missing_tool_names_its_package():
    with pytest.raises(NotSupportedError, match="apt install no-such-package"):
        host.find_tool("no-such-tool", "no-such-package")


def test_a_full_disk_is_told_before_anything_is_written(tmp_path):
    with pytest.raises(KmindError, match="GiB are needed"):
        fio.lay_out_file(tmp_path, 1 << 60)
    assert not list(tmp_path.iterdir())


def test_a_load_that_is_not_prepared():
    for name in disk.workload_names():
        with pytest.raises(UsageError, match=r"prepare\(dir\)"):
            disk.make_workload(name).run(1)


def test_an_unknown_load_names_those_there_are():
    with pytest.raises(UsageError, match="mmap-random-fits"):
        disk.make_workload("nothing")


def test_quick_loads_are_a_quarter():
    for name in disk.workload_names():
        full, quick = disk.make_workload(name), disk.make_workload(name, quick=True)
        assert full.unit == quick.unit
        pairs = zip(getattr(full, "loads", [full]), getattr(quick, "loads", [quick]), strict=True)
        for one, other in pairs:
            size = "keys" if isinstance(one, DbBench) else "size"
            assert getattr(one, size) == 4 * getattr(other, size)


def test_a_program_that_fails_says_so_with_its_last_line():
    with pytest.raises(KmindError, match="status 3: worse"):
        host.run_process(["sh", "-c", "echo bad >&2; echo worse >&2; exit 3"])


@pytest.mark.parametrize(("handler", "status"), [("SIG_DFL", -2), ("SIG_IGN", -9)])
def test_stopping_interrupts_and_then_kills(handler, status):
    # It says itself what it does about SIGINT: what a shell starts with & ignores it.
    process = subprocess.Popen(
        [sys.executable, "-c",
         f"import signal,time; signal.signal(2, signal.{handler}); print(flush=True); "
         "time.sleep(60)"],
        text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    with process:
        process.stdout.readline()
        assert host.stop_process(process, grace=10 if status == -2 else 0.1) == status
        assert host.stop_process(process) == status


def test_the_disk_below_a_path_is_a_whole_one(folder):
    name = host.device_of(folder)
    assert Path("/sys/block", name).is_dir()
    assert not Path("/sys/block", name, "partition").exists()


def test_no_disk_below_a_path():
    with pytest.raises(NotSupportedError, match="not on a block device"):
        host.device_of(Path("/proc"))
    with pytest.raises(UsageError, match="no such path"):
        host.device_of(Path("/no/such/path"))


@pytest.mark.parametrize(
    "output",
    ["", "no json", "{", '{"jobs": []}', '{"jobs": [{"error": 5, "read": {"total_ios": 1, '
     '"runtime": 1}}]}', '{"jobs": [{"error": 0, "read": {"total_ios": 0, "runtime": 1}}]}'],
)  # fmt: skip
def test_a_report_of_fio_that_says_nothing(output):
    with pytest.raises(KmindError, match="fio"):
        fio.parse_report(output)


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


sizes = st.integers(1, 64)
counts = st.integers(0, 300)


@given(n=counts, pages=st.integers(64, 4096), length=sizes, stride=st.integers(-100, 100),
       start=st.integers(0, 10**6), seed=st.integers(0, 9))  # fmt: skip
def test_streams_stay_inside_the_file_and_repeat(n, pages, length, stride, start, seed):
    for make in (
        lambda: streams.random(n, pages=pages, length=length, seed=seed),
        lambda: streams.strided(n, pages=pages, length=length, stride=stride, start=start),
        lambda: streams.sequential(n, pages=pages, length=length),
    ):
        stream = make()
        assert stream.shape == (n, 2)
        assert stream.dtype == np.int64
        assert (stream[:, 0] >= 0).all()
        assert (stream.sum(axis=1) <= pages).all()
        np.testing.assert_array_equal(stream, make())


def test_patterns_of_streams():
    ahead = streams.sequential(5, pages=8, length=2)
    assert ahead[:, 0].tolist() == [0, 2, 4, 6, 0]
    assert streams.sequential(3, pages=8, length=2, start=3)[:, 0].tolist() == [3, 5, 3]
    assert np.diff(streams.strided(5, pages=100, stride=7)[:, 0]).tolist() == [7] * 4
    mixed = streams.random(1000, pages=1000, seed=1)
    assert len(np.unique(mixed[:, 0])) > 500
    assert (mixed != streams.random(1000, pages=1000, seed=2)).any()


def test_phases_take_turns_and_go_on_where_they_stopped():
    a = streams.sequential(5, pages=100)
    b = streams.sequential(3, pages=100, start=50)
    assert streams.phased([a, b], period=2)[:, 0].tolist() == [0, 1, 50, 51, 2, 3, 52, 4]
    assert streams.phased([], period=1).shape == (0, 2)


def test_streams_that_cannot_be():
    with pytest.raises(UsageError):
        streams.random(1, pages=1, length=2)
    with pytest.raises(UsageError):
        streams.sequential(1, pages=4, start=4)
    with pytest.raises(UsageError):
        streams.phased([], period=0)


def test_a_balloon_waits_while_a_load_runs(tmp_path):
    delay = tmp_path / "min_free_ms"
    delay.write_text("7\n")
    with host.free_memory_kept(delay):
        assert int(delay.read_text()) >= 60_000
    assert delay.read_text() == "7\n"
    with host.free_memory_kept(tmp_path / "none"):
        assert not (tmp_path / "none").exists()
