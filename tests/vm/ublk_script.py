# SPDX-License-Identifier: Apache-2.0
"""Block devices by ublk, tried in a guest; test_ublk.py judges."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from rams import opened_ram
from vm.children import Child, Writer

from kmind.driver.block import Batch, BlockDriver
from kmind.driver.ublk.disk import UblkDisk
from kmind.driver.ublk.server import UblkServer
from kmind.errors import KmindError

__all__ = ["fio", "hangs", "kills", "late", "life", "refused"]

SIZE, MAX_IO, DEPTH = 64 << 20, 128 << 10, 32


def start_with(driver: BlockDriver) -> Any:
    """A starter of servers, each a process of its own."""

    def start(descriptor: int, ready: int, replays: bool) -> Child:
        def work() -> None:
            server = UblkServer(driver, descriptor, max_io=MAX_IO, depth=DEPTH)
            server.run(lambda: os.eventfd_write(ready, 1), replays=replays)

        return Child(work, descriptor, ready)

    return start


def make(driver: BlockDriver | None = None) -> UblkDisk:
    """A disk: in memory that outlives its servers, unless there is another driver."""
    subprocess.run(["modprobe", "ublk_drv"], check=True)
    driver = driver or opened_ram(SIZE)
    return UblkDisk(
        driver, start_with(driver), block_size=512, max_io=MAX_IO, depth=DEPTH, timeout=30
    )


def life() -> dict[str, Any]:
    """Make a device, use it, unload it while it is in use."""
    disk = make()
    began = time.monotonic()
    with disk:
        made_s = time.monotonic() - began
        state = disk.device.state.name
        bytes_there = int((Path("/sys/block") / disk.path.name / "size").read_text()) * 512
        writer = Writer(disk.path, 1)
        writer.wait(20)
        path = disk.path
        fd = os.open(path, os.O_RDWR | os.O_SYNC)
        os.pwrite(fd, b"x" * 8192, 32 << 20)
        os.close(fd)
        zero = ["blkdiscard", "--zeroout", "-o", str(32 << 20), "-l", "4096", path]
        subprocess.run(zero, check=True)
        fd = os.open(path, os.O_RDONLY)
        zeroed = os.pread(fd, 8192, 32 << 20) == bytes(4096) + b"x" * 4096
        os.close(fd)
        began = time.monotonic()
    ended_s = time.monotonic() - began
    writer.stop()
    return {
        "state": state, "size": bytes_there, "made_s": made_s, "ended_s": ended_s,
        "errors": writer.errors, "written": len(writer.done), "there": path.exists(),
        "zeroed": zeroed,
    }  # fmt: skip


def kills(times: int) -> dict[str, Any]:
    """Kill the server under writes, and have another one go on."""
    chance = np.random.default_rng(3)
    with make() as disk:
        writer = Writer(disk.path, 2, SIZE // 4096)
        stalls = []
        for _ in range(times):
            writer.wait(2)
            time.sleep(chance.random() * 0.05)
            server = disk._server
            assert isinstance(server, Child)
            began = time.monotonic()
            os.kill(server.pid, signal.SIGKILL)
            disk.replace()
            writer.wait(1)
            stalls.append(time.monotonic() - began)
        writer.stop()
        return {
            "errors": writer.errors, "written": len(writer.done), "stalls": stalls,
            "longest": writer.longest, "wrong": writer.wrong(disk.path),
            "state": disk.device.state.name,
        }  # fmt: skip


def fio(seconds: int) -> str:
    """Have fio write at random and verify, and return its report."""
    with make() as disk:
        done = subprocess.run(
            ["fio", "--name=v", f"--filename={disk.path}", "--direct=1", "--ioengine=libaio",
             "--iodepth=16", "--rw=randwrite", "--bsrange=512-128k", "--verify=crc32c",
             "--size=32M", f"--runtime={seconds}", "--output-format=json"],
            capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout if not done.returncode else f"{done.returncode}: {done.stderr}"


class Odd(BlockDriver):
    """Reads of the second MiB are late, those of the third fail, others are never answered."""

    size = SIZE

    def __init__(self, ms: int) -> None:
        self._ns = ms * 1_000_000

    def serve(self, batch: Batch) -> None:
        part = batch.offset >> 20
        every = np.arange(len(batch))
        batch.delay(every[part == 1], self._ns)
        batch.finish(every[part <= 1])
        batch.fail(every[part == 2], errno.EIO)


def late(ms: int) -> dict[str, Any]:
    """A read that is delayed, and one that fails."""
    with make(Odd(ms)) as disk:
        began = time.monotonic()
        assert _read(disk.path, 1 << 20) == ""
        return {"late_s": time.monotonic() - began, "error": _read(disk.path, 2 << 20)}


def hangs() -> dict[str, Any]:
    """End a device whose driver never answers."""
    with make(Odd(0)) as disk:
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.append(_read(disk.path, 3 << 20)))
        reader.start()
        time.sleep(0.5)
        began = time.monotonic()
    ended_s = time.monotonic() - began
    reader.join()
    return {"ended_s": ended_s, "error": said[0]}


def _read(path: Path, offset: int) -> str:
    """Read a block past the cache: the error, or nothing."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, 4096) as buffer:
            os.preadv(fd, [buffer], offset)
    except OSError as error:
        return str(error)
    finally:
        os.close(fd)
    return ""


def refused() -> str:
    """Return the refusal where the module is not loaded."""
    try:
        with UblkDisk(opened_ram(SIZE), lambda *_: Child(lambda: None)):
            return ""
    except KmindError as error:
        return str(error)
