# SPDX-License-Identifier: Apache-2.0
"""Loads on a real disk with known access patterns."""

import math

import pytest
from workloads.on_disk import MIB, ON_THE_MACHINE, sectors_read

from kmind.errors import UsageError
from kmind.workloads import disk, host
from kmind.workloads.disk import Alternating, DbBench, Fio
from kmind.workloads.fio import FioJob


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
