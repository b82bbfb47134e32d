# SPDX-License-Identifier: Apache-2.0
"""Buffers are there at once, lie apart, and are counted."""

import gc
import mmap
import resource
from pathlib import Path

import numpy as np
import pytest

from kmind.errors import RingError, UsageError
from kmind.uring import Buffers


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def test_a_write_to_each_page_faults_none_in() -> None:
    buffers = Buffers(256, 64 * 1024)
    pages = buffers.rows.reshape(256, -1, mmap.PAGESIZE)[:, :, 0]
    gc.collect()
    before = faults()
    pages[...] = 1
    # The interpreter may take a page of its own meanwhile; these are 4,096.
    assert faults() - before < 100
    assert buffers.total == 256 * 64 * 1024


def test_each_begins_a_page_and_touches_no_other() -> None:
    buffers = Buffers(3, 5000)
    assert len(buffers) == 3
    assert buffers.stride == 8192
    assert buffers.total == 3 * 8192
    buffers[1][:] = 7
    assert [int(buffers[index].sum()) for index in range(3)] == [0, 35_000, 0]
    places = buffers.addresses(np.arange(3))
    assert [int(place) for place in places] == [buffers[i].ctypes.data for i in range(3)]
    assert not (places % mmap.PAGESIZE).any()
    assert buffers.span == (buffers[0].ctypes.data, buffers.total)


def test_an_array_outlives_the_buffers() -> None:
    buffers = Buffers(1, 4096)
    kept = buffers[0]
    kept[:] = 9
    del buffers
    gc.collect()
    assert (kept == 9).all()


@pytest.mark.parametrize(("count", "size"), [(0, 1), (1, 0), (-1, 4096)])
def test_none_are_refused(count: int, size: int) -> None:
    with pytest.raises(UsageError, match="there cannot be"):
        Buffers(count, size)


@pytest.mark.parametrize("size", [1 << 60, 1 << 70])
def test_more_than_there_is_is_refused(size: int) -> None:
    with pytest.raises(RingError, match="no memory for 1 buffers"):
        Buffers(1, size)


def test_a_child_does_not_have_them() -> None:
    buffers = Buffers(2, 4096)
    mapped = Path("/proc/self/smaps").read_text().partition(f"{buffers.address:x}-")[2]
    flags = next(line for line in mapped.splitlines() if line.startswith("VmFlags"))
    assert "dc" in flags.split()  # MADV_DONTFORK
