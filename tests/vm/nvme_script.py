# SPDX-License-Identifier: Apache-2.0
"""An NVMe controller driven from Python, behind an IOMMU, tried in a guest; test_nvme.py judges."""

from __future__ import annotations

import hashlib
import mmap
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
from vm.children import Child, Writer, until

from kmind.driver.disk import LoopDisk, ThreadServer
from kmind.driver.fuse.connection import Connection
from kmind.driver.fuse.server import DiskServer
from kmind.driver.nvme.controller import Controller, window_size
from kmind.driver.nvme.disk import NvmeDisk
from kmind.driver.nvme.layout import Io
from kmind.driver.pci.faults import Faults
from kmind.driver.pci.function import Function
from kmind.driver.pci.vfio import Device, Opened
from kmind.errors import KmindError

__all__ = ["copy", "hostile", "kills", "refused"]

DEPTH, MAX_IO = 32, 128 << 10


def copy(address: str, mib: int) -> dict[str, Any]:
    """Write a pattern through our driver, read it by the kernel's, and the other way round."""
    _load_modules()
    function = Function(address)
    before = function.driver
    kernels = _kernels_disk(function)
    size = window_size(DEPTH, MAX_IO)
    said: list[str] = []
    with Opened(function, size) as opened:
        device = Device(opened.device, opened.memfd, size)
        disk = NvmeDisk(
            device, depth=DEPTH, max_io=MAX_IO,
            report=lambda error: said.append(repr(error)),
        )  # fmt: skip
        try:
            with LoopDisk(
                "nvme", lambda connection: ThreadServer(disk, connection), block_size=512,
                max_io=MAX_IO, depth=DEPTH,
            ) as loop:  # fmt: skip
                bytes_there = disk.size
                written, write_s = _write(loop.path, mib, seed=1)
                read, read_s = _digest(loop.path, mib)
        finally:  # or the kernel would wait for the device without end
            disk.close()
            device.close()
    driver_after = function.driver
    there = _wait_for_kernels_disk(function)
    by_kernel, kernel_read_s = _digest(Path("/dev") / there, mib)
    _, kernel_write_s = _write(Path("/dev") / there, mib, seed=2)
    return {
        "before": before, "after": driver_after, "disk": kernels, "size": bytes_there,
        "written": written, "read": read, "by_kernel": by_kernel, "said": said,
        "write_s": write_s, "read_s": read_s,
        "kernel_write_s": kernel_write_s, "kernel_read_s": kernel_read_s,
    }  # fmt: skip


def kills(address: str, times: int, replays: bool) -> dict[str, Any]:
    """Kill the driver's process while blocks are written, each time with another ending.

    Where the kernel ``replays`` requests, another process goes on with the same device every other
    time; else it goes back to the kernel at once. Each time the kernel's driver reads what was
    answered as written.
    """
    _load_modules()
    function, size = Function(address), window_size(DEPTH, MAX_IO)
    chance = np.random.default_rng(7)
    failed, wrong, written = [], 0, 0
    with Faults(function) as faults:
        for number in range(times):
            goes_on = replays and number % 2 == 0
            with Opened(function, size) as opened:

                def serve(connection: Connection) -> Child:
                    files = opened.device, opened.memfd, connection.descriptor
                    return Child(lambda: _serve(opened, connection), *files)

                disk = LoopDisk(
                    f"nvme{number}", serve, block_size=512, max_io=MAX_IO, depth=DEPTH, timeout=30
                )
                with disk:
                    writer = Writer(disk.path, number)
                    writer.wait(2)
                    time.sleep(chance.random() * 0.3)
                    server = disk._server
                    assert isinstance(server, Child)
                    os.kill(server.pid, signal.SIGKILL)
                    if goes_on:
                        opened.reset()
                        disk.replace()
                        writer.wait(2)
                        failed += writer.errors
                        writer.stop()
                    else:
                        disk.connection.abort()
                        writer.stop()
                        disk.close(force=True)
            wrong += writer.wrong(Path("/dev") / _wait_for_kernels_disk(function))
            written += len(writer.done)
        return {
            "failed": failed, "wrong": wrong, "written": written, "faults": faults.count(),
            "driver": function.driver,
        }  # fmt: skip


def hostile(address: str) -> dict[str, Any]:
    """A driver that has its device write where it was granted nothing."""
    _load_modules()
    function, size = Function(address), window_size(DEPTH, MAX_IO)
    with Faults(function) as faults, Opened(function, size) as opened:
        before = faults.count()
        child = Child(lambda: _reach_out(opened), opened.device, opened.memfd)
        try:
            until(lambda: faults.count() > before)
        finally:
            child.stop()
        counted = faults.count() - before
    _wait_for_kernels_disk(function)
    return {"before": before, "counted": counted, "driver": function.driver}


def refused(*addresses: str) -> list[str]:
    """Try to take functions that cannot be taken, and return what is said of each."""
    _load_modules()
    said = []
    for address in addresses:
        try:
            with Opened(Function(address), 4096):
                said.append("taken")
        except KmindError as error:
            said.append(str(error))
    return said


def _serve(opened: Opened, connection: Connection) -> None:
    device = Device(opened.device, opened.memfd, opened.size)
    disk = NvmeDisk(device, depth=DEPTH, max_io=MAX_IO)
    DiskServer(disk, connection.descriptor, max_io=MAX_IO, depth=DEPTH).run()


def _reach_out(opened: Opened) -> None:
    device = Device(opened.device, opened.memfd, opened.size)
    controller = Controller(device, depth=DEPTH, max_io=MAX_IO)
    controller._firsts[:] = 0x1000  # any address outside of the window
    zero = np.zeros(1, np.int64)
    controller.submit(Io.READ, zero, zero, zero + 4096)
    time.sleep(600)


def _load_modules() -> None:
    subprocess.run(["modprobe", "-a", "vfio-pci", "vfio_iommu_type1", "loop", "fuse"], check=True)


def _wait_for_kernels_disk(function: Function) -> str:
    until(lambda: (there := _kernels_disk(function)) and (Path("/dev") / there).exists())
    return _kernels_disk(function)


def _kernels_disk(function: Function) -> str:
    found = [path.name for path in function.folder.glob("nvme/nvme*/nvme*n1")]
    return found[0] if found else ""


def _write(path: Path, mib: int, seed: int) -> tuple[str, float]:
    digest, chance = hashlib.sha256(), np.random.default_rng(seed)
    fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
    spent = 0.0
    with mmap.mmap(-1, 1 << 20) as buffer:
        for number in range(mib):
            buffer[:] = chance.bytes(1 << 20)
            digest.update(buffer)
            began = time.monotonic()
            assert os.pwritev(fd, [buffer], number << 20) == 1 << 20
            spent += time.monotonic() - began
    os.fsync(fd)
    os.close(fd)
    return digest.hexdigest(), spent


def _digest(path: Path, mib: int) -> tuple[str, float]:
    digest = hashlib.sha256()
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    spent = 0.0
    with mmap.mmap(-1, 1 << 20) as buffer:
        for number in range(mib):
            began = time.monotonic()
            assert os.preadv(fd, [buffer], number << 20) == 1 << 20
            spent += time.monotonic() - began
            digest.update(buffer)
    os.close(fd)
    return digest.hexdigest(), spent
