# SPDX-License-Identifier: Apache-2.0
"""Power cuts of a file system on the driver ``fault``, under programs that store something.

Each cut begins with the same ext4 in memory. A program runs on it until the power is cut before a
request that is drawn from all that it makes. Then the device is dropped, the backing is attached by
the kernel's own loop driver and mounted, which replays the journal, and the program's check looks
at what is there.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from kmind.bench._power_client import PowerClient
from kmind.bench._power_loads import LOADS
from kmind.driver.backing import Backing
from kmind.driver.disk import LoopDisk, ThreadServer
from kmind.driver.loop import LoopDevice
from kmind.errors import KmindError
from kmind.modules.fault.disk import Fault, Plan
from kmind.workloads.host import find_tool, run_process

__all__ = ["PowerCuts"]

_SIZE = 24 << 20
_CACHE = 64 << 20  # nothing goes down before it is flushed
# A disk with sectors of 512 bytes may tear ext4's superblock, of 1,024, while it is written in its
# place: then ext4 itself cannot be mounted, whatever the program did.
_SECTOR = 4096
_MAX_IO, _DEPTH = 128 << 10, 32


class PowerCuts:
    """Cuts one program's power again and again; each by the number of its cut alone.

    Use it in a ``with``. Needs root, ext4 and mkfs.ext4.
    """

    def __init__(self, load: str, *, seed: int = 0) -> None:
        assert load in LOADS, load
        self._load, self._seed = load, seed
        self._folder = tempfile.TemporaryDirectory(prefix="kmind-power-")
        self._client = PowerClient(Path(self._folder.name))
        self._image = b""
        self._first = self._end = 0

    def __enter__(self) -> PowerCuts:
        try:
            self._image = self._prepared()
            with self._backing() as backing:
                self._first = self._run(backing, None, "check")[1]
            with self._backing() as backing:
                done, self._end = self._run(backing, None, "run")
            if not done or self._end <= self._first:
                raise KmindError(f"{self._load} does nothing on a disk without faults")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process that mounts, and with it the mounts."""
        self._client.close()
        self._folder.cleanup()

    def cut(self, number: int) -> str:
        """Cut once, and check: the complaint, or ""."""
        random = np.random.default_rng([self._seed, number])
        cut_at = int(random.integers(self._first, self._end))
        with self._backing() as backing:
            done, _ = self._run(backing, cut_at, "run", number)
            with _attached(backing) as device:
                return str(self._client.order("check", self._load, device, done))

    def _run(
        self, backing: Backing, cut_at: int | None, do: str, number: int = 0
    ) -> tuple[int, int]:
        # Steps that were safe, and requests that came.
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        fault = Fault(backing, Plan(cache_bytes=_CACHE, cut_at=cut_at, seed=seed, sector=_SECTOR))
        disk = LoopDisk(
            "cut",
            lambda connection: ThreadServer(fault, connection),
            block_size=_SECTOR,
            max_io=_MAX_IO,
            depth=_DEPTH,
        )
        with disk:
            told = self._client.order(do, self._load, disk.path)
            if cut_at is not None:
                fault.cut()
            disk.close(force=True)
        return (told if isinstance(told, int) else 0), fault.requests

    def _prepared(self) -> bytes:
        with self._backing() as backing:
            path = f"/proc/{os.getpid()}/fd/{backing.descriptor}"
            options = ["-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0,nodiscard"]
            run_process([find_tool("mkfs.ext4"), *options, path])
            with _attached(backing) as device:
                if wrong := self._client.order("prepare", self._load, device):
                    raise KmindError(f"{self._load} cannot be prepared: {wrong}")
            return os.pread(backing.descriptor, _SIZE, 0)

    @contextmanager
    def _backing(self) -> Iterator[Backing]:
        memory = os.memfd_create("kmind-power")
        try:
            os.ftruncate(memory, _SIZE)
            os.pwrite(memory, self._image, 0)
            yield Backing(memory)
        finally:
            os.close(memory)


@contextmanager
def _attached(backing: Backing) -> Iterator[Path]:
    device = LoopDevice.attach(backing.descriptor, "cut", block_size=_SECTOR)
    try:
        yield device.path
    finally:
        device.detach(force=True)
