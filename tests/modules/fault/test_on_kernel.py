# SPDX-License-Identifier: Apache-2.0
"""The driver fault as a block device of the real kernel."""

import contextlib
import errno
import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import MIB, require_devices, watched
from driver.test_disk import opened, read, write

from kmind.driver.backing import Backing
from kmind.driver.disk import LoopDisk, ThreadServer
from kmind.modules.fault.disk import Fault, Plan
from kmind.modules.fault.failures import Failures
from kmind.modules.fault.latency import Constant
from kmind.modules.fault.log import InjectionLog

pytestmark = pytest.mark.kernel()


@contextlib.contextmanager
def disk_of(fault: Fault) -> Iterator[LoopDisk]:
    require_devices()
    disk = LoopDisk("fault", lambda c: ThreadServer(fault, c), block_size=512)
    with watched(disk):
        yield disk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "backing"
    path.write_bytes(bytes(4 * MIB))
    return path


def test_each_request_is_late(path: Path) -> None:
    with (
        Backing.open(path) as backing,
        disk_of(Fault(backing, Plan(law=Constant(20_000_000)))) as disk,
    ):
        for offset in range(0, 5 * 4096, 4096):
            began = time.monotonic()
            read(disk.path, offset)
            assert time.monotonic() - began >= 0.02


def test_a_bad_range_fails_and_the_rest_does_not(path: Path) -> None:
    failures = Failures(ranges=((MIB, MIB + 1),), error=errno.ENODATA)
    with Backing.open(path) as backing, disk_of(Fault(backing, Plan(failures=failures))) as disk:
        write(disk.path, MIB + 4096, b"x" * 4096)
        assert read(disk.path, MIB + 4096) == b"x" * 4096
        with pytest.raises(OSError, match="data") as caught:
            read(disk.path, MIB)
    assert caught.value.errno == errno.ENODATA


def cut_once(path: Path, seed: int) -> tuple[bytes, dict[str, int | str]]:
    """Flush one half of a MiB, write it and the other again, cut; what is kept, and the log."""
    path.write_bytes(bytes(4 * MIB))
    log = io.StringIO()
    with Backing.open(path) as backing:
        fault = Fault(backing, Plan(cache_bytes=64 * MIB, seed=seed), InjectionLog(log))
        with disk_of(fault) as disk:
            with opened(disk.path) as file:
                write(disk.path, 0, b"a" * (MIB // 2))
                os.fsync(file)
            for offset in range(0, MIB, 65536):
                write(disk.path, offset, b"b" * 65536)
            fault.cut()
            with pytest.raises(OSError, match="error"):
                read(disk.path, 0)
    events = [json.loads(line) for line in log.getvalue().splitlines()]
    return path.read_bytes()[:MIB], next(one for one in events if one["event"] == "cut")


@pytest.mark.fault
def test_a_cut_keeps_what_was_flushed_and_chooses_of_the_rest_by_seed(path: Path) -> None:
    ends = {}
    for seed in range(6):
        kept, event = ends[seed] = cut_once(path, seed)
        sectors = [kept[at : at + 512] for at in range(0, MIB, 512)]
        half = len(sectors) // 2
        assert set(sectors[:half]) <= {b"a" * 512, b"b" * 512}
        assert set(sectors[half:]) <= {bytes(512), b"b" * 512}
        assert event["kept"] == sectors.count(b"b" * 512)
        assert event["kept"] + event["lost"] == len(sectors)
    assert cut_once(path, 0)[0] == ends[0][0]
    assert len({kept for kept, _ in ends.values()}) > 1
