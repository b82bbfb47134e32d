# SPDX-License-Identifier: Apache-2.0
"""Maps: values, pins, ring buffers."""

import os
import sys
from pathlib import Path

import pytest
from bpf.loaded import u32, u64

from kmind.bpf import (
    BpfObject,
    RingBuffer,
    obj_get,
    open_map,
)
from kmind.errors import BpfError, KmindError


@pytest.mark.kernel("syscall")
def test_maps(calls: BpfObject) -> None:
    seen = calls.maps["seen"]
    with pytest.raises(BpfError, match="before its object is loaded"):
        _ = seen.fd
    seen.set_max_entries(2)
    calls.load()
    assert (seen.type, seen.key_size, seen.value_size, seen.max_entries) == (1, 4, 8, 2)
    assert seen.lookup(u32(1)) is None
    seen.update(u32(1), u64(10))
    seen.update(u32(2), u64(20))
    assert sorted(seen.keys()) == [u32(1), u32(2)]
    assert seen.lookup(u32(2)) == u64(20)
    with pytest.raises(BpfError, match="Argument list too long"):
        seen.update(u32(3), u64(30))
    with pytest.raises(BpfError, match="File exists"):
        seen.update(u32(2), u64(30), flags=1)
    assert (seen.delete(u32(1)), seen.delete(u32(1))) == (True, False)
    assert list(seen.keys()) == [u32(2)]
    with pytest.raises(BpfError, match="takes a key of 4 bytes, not of 3"):
        seen.lookup(b"123")
    with pytest.raises(BpfError, match="takes a value of 8 bytes, not of 4"):
        seen.update(u32(1), u32(1))


@pytest.mark.kernel("syscall")
def test_per_cpu_values_cover_all_cpus(calls: BpfObject) -> None:
    calls.load()
    calls.programs["multiply"].test_run(bytes(24))
    value = calls.maps["per_cpu"].lookup(u32(0))
    assert value is not None
    counts = [int.from_bytes(value[i : i + 4], sys.byteorder) for i in range(0, len(value), 8)]
    assert sum(counts) == 1
    assert len(counts) >= os.cpu_count()  # type: ignore[operator]


@pytest.mark.kernel("syscall", "ringbuf")
def test_ring_buffer(calls: BpfObject) -> None:
    calls.load()
    multiply = calls.programs["multiply"]
    records: list[bytes] = []
    with RingBuffer(calls.maps["ring"].fd, records.append) as ring:
        assert ring.poll(0) == 0
        for number in range(3):
            multiply.test_run(u64(number) + bytes(16))
        assert ring.poll(1000) == 3
        assert records == [u64(0), u64(1), u64(2)]
        multiply.test_run(u64(9) + bytes(16))
        assert ring.consume() == 1
        assert ring.fd > 2
    with pytest.raises(BpfError, match="closed"):
        ring.poll(0)


@pytest.mark.kernel("syscall", "ringbuf")
def test_ring_buffer_raises_what_its_callback_raises(calls: BpfObject) -> None:
    calls.load()
    records: list[bytes] = []

    def once(record: bytes) -> None:
        records.append(record)
        if len(records) == 1:
            raise ZeroDivisionError

    for number in range(2):
        calls.programs["multiply"].test_run(u64(number) + bytes(16))
    with RingBuffer(calls.maps["ring"].fd, once) as ring:
        with pytest.raises(ZeroDivisionError):
            ring.poll(1000)
        ring.consume()
    assert records[-1] == u64(1)


@pytest.mark.kernel("syscall", "bpffs")
def test_a_pinned_map_is_shared_and_outlives_its_object(objects: Path, pins: Path) -> None:
    with BpfObject(objects / "calls.bpf.o") as first:
        first.load()
        first.maps["seen"].update(u32(1), u64(10))
        first.maps["seen"].pin(pins / "seen")
    with open_map(pins / "seen") as pinned, BpfObject(objects / "calls.bpf.o") as second:
        assert (pinned.name, pinned.type, pinned.value_size) == ("seen", 1, 8)
        second.maps["seen"].reuse_fd(pinned.fd)
        second.load()
        second.programs["multiply"].test_run(u64(7) + bytes(16))
        assert sorted(pinned.keys()) == [u32(1), u32(7)]
        pinned.unpin(pins / "seen")
        with pytest.raises(BpfError, match="exists already"):
            pinned.set_max_entries(3)
    with pytest.raises(BpfError, match="closed"):
        _ = pinned.fd
    with pytest.raises(BpfError, match="cannot open what is pinned"):
        obj_get(pins / "seen")


@pytest.mark.kernel("syscall", "bpffs")
def test_pinning_outside_of_bpffs_says_so(calls: BpfObject, tmp_path: Path) -> None:
    calls.load()
    with pytest.raises(KmindError, match="bpf file system"):
        calls.maps["seen"].pin(tmp_path / "seen")
