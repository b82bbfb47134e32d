# SPDX-License-Identifier: Apache-2.0
"""Disks whose driver runs in a process that a test can kill, with a watchdog on the connection."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from programs import machine_lacks

from kmind.driver.disk import LoopDisk
from kmind.driver.fuse.connection import Connection

__all__ = ["MIB", "Process", "by", "fio", "memory", "require_devices", "served", "watched"]

MIB = 1 << 20
_SERVING = Path(__file__).resolve().parent / "driver/serving.py"


class Process:
    """The server of ``tests/driver/serving.py`` in a child; ``said`` is what it printed."""

    def __init__(self, kind: str, connection: Connection, size: int, memfd: int) -> None:
        words = (connection.descriptor, connection.max_io, connection.depth, size, memfd)
        self._process = subprocess.Popen(
            [sys.executable, _SERVING, kind, *map(str, words)],
            pass_fds=(connection.descriptor, memfd),
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def line(self) -> str:
        """The next line that it prints; "" at its end, which the watchdog brings about."""
        assert self._process.stdout
        return self._process.stdout.readline().strip()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()


@contextlib.contextmanager
def served(
    kind: str = "Ram",
    size: int = 64 * MIB,
    *,
    seconds: float = 120,
    **options: int,
) -> Iterator[LoopDisk]:
    """A disk served by a class of serving.py; all of its I/O fails after so many seconds."""
    require_devices()
    with memory() as memfd:
        disk = LoopDisk("test", by(kind, size, memfd), **options)
        with watched(disk, seconds):
            yield disk


@contextlib.contextmanager
def memory() -> Iterator[int]:
    """Memory that servers share, so that it outlives each of them."""
    memfd = os.memfd_create("disk")
    try:
        yield memfd
    finally:
        os.close(memfd)


def by(kind: str, size: int, memfd: int) -> Callable[[Connection], Process]:
    """A ``start`` for ``LoopDisk`` that runs a class of serving.py."""
    return lambda connection: Process(kind, connection, size, memfd)


@contextlib.contextmanager
def watched(disk: LoopDisk, seconds: float = 120) -> Iterator[LoopDisk]:
    """The disk, open; that of a failed test is ended by force, so that no client waits on."""
    with disk:
        watchdog = threading.Timer(seconds, disk.connection.abort)
        watchdog.daemon = True
        watchdog.start()
        try:
            yield disk
        except BaseException:
            disk.close(force=True)
            raise
        finally:
            watchdog.cancel()


def require_devices() -> None:
    """Skip where the kernel has no FUSE or no loop devices."""
    for path in ("/dev/fuse", "/dev/loop-control"):
        if not os.access(path, os.R_OK | os.W_OK):
            machine_lacks(f"{path} cannot be opened here")


def fio(target: Path, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run fio with direct I/O on a device or file."""
    command = [
        "fio",
        "--name=t",
        f"--filename={target}",
        "--direct=1",
        "--output-format=json",
        "--verify_state_save=0",
    ]
    return subprocess.run([*command, *words], capture_output=True, text=True, timeout=timeout)
