# SPDX-License-Identifier: Apache-2.0
"""Writers of a sysctl: this process, an admin, and owners that get killed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kmind.knobs import get_knob

__all__ = [
    "FILE",
    "HASH",
    "INTERVAL",
    "PINS",
    "PRESSURE",
    "RATIO",
    "Admin",
    "living",
    "now",
    "readable",
    "write",
]

PRESSURE = get_knob("vm.vfs_cache_pressure")
INTERVAL = get_knob("vm.stat_interval")
RATIO = get_knob("vm.dirty_ratio")

FILE = Path("/proc/sys/vm/vfs_cache_pressure")
PINS = Path("/sys/fs/bpf/kmind-test-gate")
HASH = 1  # BPF_MAP_TYPE_HASH


class Admin:
    """Another process that writes to sysctls, as root from a shell does."""

    def __init__(self) -> None:
        loop = (
            "import os, sys\n"
            "for line in sys.stdin:\n"
            "    path, text = eval(line)\n"
            "    try:\n"
            "        fd = os.open(path, os.O_WRONLY)\n"
            "        try: print(0 * os.write(fd, text), flush=True)\n"
            "        finally: os.close(fd)\n"
            "    except OSError as error: print(error.errno, flush=True)\n"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", loop],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def write(self, text: int | str, file: Path = FILE) -> int:
        """Write; 0, or the error number."""
        assert self._process.stdin
        assert self._process.stdout
        data = f"{text}\n".encode() if isinstance(text, int) else text.encode()
        print((str(file), data), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def close(self) -> None:
        with self._process:
            self._process.kill()


def write(text: int | str, file: Path = FILE) -> int:
    """Write from this process; 0, or the error number."""
    data = f"{text}\n".encode() if isinstance(text, int) else text.encode()
    try:
        fd = os.open(file, os.O_WRONLY)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
    except OSError as error:
        return error.errno or -1
    return 0


def now(file: Path = FILE) -> int:
    return int(file.read_text())


def readable(fd: int, seconds: float = 0) -> bool:
    return bool(select.select([fd], [], [], seconds)[0])


@contextmanager
def living(work: Callable[[], object], then: Callable[[], object] = signal.pause) -> Iterator[int]:
    """A forked process that has done its work, and lives on until kill -9; its id."""
    ready, done = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            kept = work()
            os.write(done, b".")
            then()
            del kept
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(done)
    try:
        assert os.read(ready, 1) == b".", "it ended"
        yield pid
    finally:
        os.close(ready)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
