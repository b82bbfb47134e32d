# SPDX-License-Identifier: Apache-2.0
"""Files laid out by fio, and its reports."""

import subprocess
from pathlib import Path

import pytest
from workloads.on_disk import MIB, ON_THE_MACHINE, sectors_read

from kmind.errors import KmindError
from kmind.workloads import fio, host
from kmind.workloads.disk import Fio
from kmind.workloads.fio import FioJob


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


@ON_THE_MACHINE
def test_dropping_and_warming_the_cache(folder):
    path = fio.lay_out_file(folder, 16 * MIB)
    fio.warm_file(path)
    assert cached_pages(path) * 4096 == 16 * MIB
    host.drop_caches()
    assert cached_pages(path) == 0


@pytest.mark.parametrize(
    "output",
    ["", "no json", "{", '{"jobs": []}', '{"jobs": [{"error": 5, "read": {"total_ios": 1, '
     '"runtime": 1}}]}', '{"jobs": [{"error": 0, "read": {"total_ios": 0, "runtime": 1}}]}'],
)  # fmt: skip
def test_a_report_of_fio_that_says_nothing(output):
    with pytest.raises(KmindError, match="fio"):
        fio.parse_report(output)
