# SPDX-License-Identifier: Apache-2.0
"""The driver on a socket in place of the kernel: what it injects, and that it says so."""

import errno
import io
import json
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driver.fuse.talking import SIZE, answer, moving, request, serving

from kmind.driver.backing import Backing
from kmind.driver.block import Op
from kmind.driver.fuse.protocol import Opcode
from kmind.errors import UsageError
from kmind.modules.fault.disk import Fault, Plan, generators
from kmind.modules.fault.failures import Failures
from kmind.modules.fault.latency import Constant, Lognormal
from kmind.modules.fault.log import InjectionLog

R, W = Opcode.READ, Opcode.WRITE
DONE = struct.pack("<II", 512, 0)


@pytest.fixture
def backing(tmp_path: Path) -> Iterator[Backing]:
    path = tmp_path / "backing"
    path.write_bytes(bytes(SIZE))
    with Backing.open(path) as opened:
        yield opened


def events(log: io.StringIO, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in log.getvalue().splitlines()]
    return [event for event in found if event["event"] == kind]


def test_every_request_takes_what_the_law_says_and_the_log_has_it(backing: Backing) -> None:
    log = io.StringIO()
    law = Lognormal(2_000_000, 1, generators(7)[0])
    expected = Lognormal(2_000_000, 1, generators(7)[0]).draw(np.zeros(20, np.uint8), 0)
    with serving(Fault(backing, Plan(law=law, seed=7), InjectionLog(log))) as kernel:
        for number, ns in enumerate(expected.tolist()):
            began = time.monotonic_ns()
            kernel.send(moving(R, 2 + 2 * number, 0, 512))
            assert answer(kernel) == (2 + 2 * number, 0, bytes(512))
            assert time.monotonic_ns() - began >= ns
    logged = events(log, "delay")
    assert [event["first"] for event in logged] == list(range(20))
    assert [event["delay_ns"] for event in logged] == [[ns] for ns in expected.tolist()]
    assert events(log, "begin")[0]["seed"] == 7


def test_requests_fail_by_range_and_number_and_the_log_has_them(backing: Backing) -> None:
    log = io.StringIO()
    failures = Failures(ranges=((1024, 1536),), numbers=frozenset({3}), error=errno.ENODATA)
    with serving(Fault(backing, Plan(failures=failures), InjectionLog(log))) as kernel:
        errors = []
        for number, (opcode, offset) in enumerate([(R, 512), (R, 1024), (W, 1535), (R, 0), (R, 0)]):
            data = bytes(512) if opcode == W else b""
            kernel.send(moving(opcode, 2 + 2 * number, offset, 512, data))
            errors.append(answer(kernel)[1])
        kernel.send(request(Opcode.FSYNC, 20, bytes(16)))
        assert answer(kernel) == (20, 0, b"")
    assert errors == [0, errno.ENODATA, errno.ENODATA, errno.ENODATA, 0]
    logged = events(log, "fail")
    assert [(event["request"], event["op"], event["offset"]) for event in logged] == [
        (1, "read", 1024),
        (2, "write", 1535),
        (3, "read", 0),
    ]
    assert {event["error"] for event in logged} == {"ENODATA"}


def test_a_share_fails_the_same_ones_each_time(backing: Backing) -> None:
    def failed(seed: int) -> list[int]:
        failures = Failures(share=0.2, ops=(Op.READ,))
        with serving(Fault(backing, Plan(failures=failures, seed=seed))) as kernel:
            found = []
            for number in range(200):
                kernel.send(moving(R, 2 + 2 * number, 0, 512))
                if answer(kernel)[1]:
                    found.append(number)
        return found

    first = failed(1)
    assert failed(1) == first
    assert 20 <= len(first) <= 60
    assert failed(2) != first


@pytest.mark.parametrize(
    "wrong", [{"share": 1.5}, {"share": float("nan")}, {"error": 0}, {"ranges": ((5, 5),)}]
)
def test_failures_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Failures(**wrong)


def test_the_cache_is_read_through_and_flushed(backing: Backing) -> None:
    with serving(Fault(backing, Plan(cache_bytes=1 << 20))) as kernel:
        kernel.send(moving(W, 2, 512, 512, b"a" * 512))
        assert answer(kernel) == (2, 0, DONE)
        assert os.pread(backing.descriptor, 1, 512) == b"\0", "not safe yet"
        kernel.send(moving(R, 4, 0, 1536))
        assert answer(kernel) == (4, 0, bytes(512) + b"a" * 512 + bytes(512))
        kernel.send(request(Opcode.FSYNC, 6, bytes(16)))
        assert answer(kernel) == (6, 0, b"")
        assert os.pread(backing.descriptor, 1, 512) == b"a"
        kernel.send(request(Opcode.FALLOCATE, 8, struct.pack("<QQQII", 0, 512, 512, 3, 0)))
        assert answer(kernel) == (8, 0, b"")
        kernel.send(moving(R, 10, 512, 512))
        assert answer(kernel) == (10, 0, bytes(512))
        assert os.pread(backing.descriptor, 1, 512) == b"a", "zeroes are in the cache, too"
        kernel.send(moving(W, 12, 100, 512, b"b" * 512))
        assert answer(kernel) == (12, errno.EINVAL, b"")


@pytest.mark.parametrize("seed", range(4))
def test_after_a_cut_all_fails_and_the_flushed_is_there(backing: Backing, seed: int) -> None:
    log = io.StringIO()
    fault = Fault(backing, Plan(cache_bytes=1 << 20, cut_at=22, seed=seed), InjectionLog(log))
    with serving(fault) as kernel:
        for number in range(20):
            kernel.send(moving(W, 2 + 2 * number, 512 * number, 512, b"a" * 512))
            assert answer(kernel)[1] == 0
        kernel.send(request(Opcode.FSYNC, 60, bytes(16)))
        assert answer(kernel) == (60, 0, b"")
        kernel.send(moving(W, 62, 0, 8192, b"b" * 8192))
        assert answer(kernel)[1] == 0
        kernel.send(moving(W, 64, 0, 512, b"c" * 512))
        assert answer(kernel) == (64, errno.EIO, b"")
        kernel.send(moving(R, 66, 0, 512))
        assert answer(kernel) == (66, errno.EIO, b"")
        kernel.send(request(Opcode.FSYNC, 68, bytes(16)))
        assert answer(kernel) == (68, errno.EIO, b"")
    kept = os.pread(backing.descriptor, 20 * 512, 0)
    sectors = [kept[at : at + 512] for at in range(0, len(kept), 512)]
    assert set(sectors[16:]) == {b"a" * 512}
    assert set(sectors) <= {b"a" * 512, b"b" * 512}
    [event] = events(log, "cut")
    assert event["request"] == 22
    assert event["kept"] == sectors.count(b"b" * 512)
    assert event["kept"] + event["lost"] == 16


def test_a_cut_from_outside_ends_it_once(backing: Backing, tmp_path: Path) -> None:
    fault = Fault(backing, Plan(law=Constant(1000)))
    with serving(fault) as kernel:
        kernel.send(moving(W, 2, 0, 512, b"a" * 512))
        assert answer(kernel) == (2, 0, DONE)
        report = fault.cut()
        assert fault.cut() is report
        assert (report.kept, report.lost) == (0, 0)
        kernel.send(moving(R, 4, 0, 512))
        assert answer(kernel) == (4, errno.EIO, b"")
    kept = (tmp_path / "backing").read_bytes()
    assert kept[:1] == b"a", "without a cache all is safe"


def test_a_backing_that_refuses_is_an_error_for_the_flush_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    path = tmp_path / "backing"
    path.write_bytes(bytes(SIZE))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with serving(Fault(Backing(descriptor), Plan(cache_bytes=1 << 20))) as kernel:
            kernel.send(moving(W, 2, 0, 512, b"a" * 512))
            assert answer(kernel) == (2, 0, DONE)
            for unique in (4, 6):
                kernel.send(request(Opcode.FSYNC, unique, bytes(16)))
                assert answer(kernel) == (unique, errno.EBADF, b"")
            kernel.send(moving(R, 8, 0, 512))
            assert answer(kernel) == (8, 0, b"a" * 512)
    finally:
        os.close(descriptor)
