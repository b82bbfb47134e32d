# SPDX-License-Identifier: Apache-2.0
"""Delayed and forwarded requests of a block device, on the real kernel."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import MIB, fio, require_devices, watched
from driver.test_disk import read, write

from kmind.driver.backing import Backing
from kmind.driver.block import Batch, BlockDriver, Op
from kmind.driver.disk import LoopDisk, ThreadServer
from kmind.driver.forward import PlainForwarder, RingForwarder

pytestmark = pytest.mark.kernel()


class Forwarding(BlockDriver):
    """Forwards all, and delays what lies in the second MiB."""

    operations = frozenset({Op.FLUSH, Op.DISCARD, Op.WRITE_ZEROES})

    def __init__(self, backing: Backing, delay_ms: int = 0) -> None:
        self.size = backing.size
        self._backing, self._ns = backing, delay_ms * 1_000_000

    def serve(self, batch: Batch) -> None:
        batch.forward(self._backing)
        if self._ns:
            batch.delay(batch.touches([(MIB, 2 * MIB)]), self._ns)


@pytest.fixture
def backing(tmp_path: Path) -> Iterator[Backing]:
    path = tmp_path / "backing"
    with path.open("wb") as file:
        file.truncate(32 * MIB)
    with Backing.open(path) as opened:
        yield opened


def disk_of(driver: BlockDriver, seconds: float = 120, **options: int):  # type: ignore[no-untyped-def]
    require_devices()
    disk = LoopDisk("test", lambda connection: ThreadServer(driver, connection), **options)
    return watched(disk, seconds)


@pytest.mark.needs("fio")
@pytest.mark.parametrize("forwarder", [RingForwarder, PlainForwarder])
@pytest.mark.parametrize(("size", "depth"), [("4k", 1), ("4k", 32), ("1m", 16)])
def test_what_is_forwarded_is_read_again(
    forwarder: type, size: str, depth: int, backing: Backing, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def make(*words) -> object:  # type: ignore[no-untyped-def]
        made.append(forwarder(*words[:2]))
        return made[-1]

    monkeypatch.setattr("kmind.driver.fuse.server.make_forwarder", make)
    with disk_of(Forwarding(backing)) as disk:
        done = fio(
            disk.path, "--rw=randwrite", "--verify=crc32c", "--verify_fatal=1", "--ioengine=libaio",
            f"--bs={size}", f"--iodepth={depth}", "--size=8m", "--fsync=64",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["jobs"][0]["error"] == 0
    assert len(made) == 1


@pytest.mark.needs("mkfs.ext4", "e2fsck", "blkdiscard")
def test_a_file_system_is_made_through_it_and_found_on_the_backing(
    backing: Backing, tmp_path: Path
) -> None:
    with disk_of(Forwarding(backing)) as disk:
        subprocess.run(["mkfs.ext4", "-q", "-F", disk.path], check=True, timeout=60)
        write(disk.path, 31 * MIB, b"x" * 8192)
        command = ["blkdiscard", "-f", "-o", str(31 * MIB), "-l", "4096", str(disk.path)]
        subprocess.run(command, check=True, timeout=60)
        assert read(disk.path, 31 * MIB, 8192) == bytes(4096) + b"x" * 4096
    subprocess.run(["e2fsck", "-f", "-n", tmp_path / "backing"], check=True, timeout=60)


def test_a_request_takes_its_delay_and_its_neighbour_does_not_wait(backing: Backing) -> None:
    with disk_of(Forwarding(backing, delay_ms=200)) as disk:
        took = []
        for offset in (0, MIB):
            began = time.monotonic()
            read(disk.path, offset)
            took.append(time.monotonic() - began)
        slow = subprocess.Popen(["dd", f"if={disk.path}", "of=/dev/null", "bs=4k", "count=1",
                                 "skip=256", "iflag=direct", "status=none"])  # fmt: skip
        quick = 0
        while slow.poll() is None:
            read(disk.path, 0)
            quick += 1
        assert slow.returncode == 0
    assert took[1] >= 0.2
    assert quick > 1


def test_a_successor_does_not_do_again_what_was_only_waiting(backing: Backing) -> None:
    seen: list[Batch] = []

    class Watching(Forwarding):
        def serve(self, batch: Batch) -> None:
            seen.append(batch)
            super().serve(batch)

    with disk_of(Watching(backing, delay_ms=60_000)) as disk:
        waiting = subprocess.Popen(["dd", "if=/dev/zero", f"of={disk.path}", "bs=4k", "count=1",
                                    "seek=256", "oflag=direct", "status=none"])  # fmt: skip
        while not any((batch.op == Op.WRITE).any() for batch in seen):
            time.sleep(0.01)
        disk.replace()
        assert waiting.wait(30) == 0  # sent when the first was stopped
        assert read(disk.path, 0) == bytes(4096)
    assert not any(batch.replayed.any() for batch in seen)
    assert os.fstat(backing.descriptor).st_size == 32 * MIB
