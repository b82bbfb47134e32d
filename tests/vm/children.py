# SPDX-License-Identifier: Apache-2.0
"""Processes, writers and waiting, for scripts in guests that kill servers of disks."""

from __future__ import annotations

import itertools
import mmap
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

__all__ = ["Child", "Writer", "until"]

BLOCK = 4096


class Child:
    """A process that has nothing open but ``files``: it serves, or does what it likes with them."""

    def __init__(self, work: Callable[[], None], *files: int) -> None:
        self.pid = os.fork()
        if not self.pid:
            for one, two in itertools.pairwise([2, *sorted(files), 4096]):
                os.closerange(one + 1, two)
            try:
                work()
            except BaseException:
                traceback.print_exc()
            os._exit(0)

    def stop(self) -> None:
        """Kill it, and wait until it is gone, with all that it had open."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0


class Writer:
    """Writes block after block to a disk, from a thread, until it is stopped or an error comes.

    ``done`` has what was answered as written, by block; ``longest`` is the longest wait (seconds).
    """

    def __init__(self, path: Path, seed: int, blocks: int = 4096) -> None:
        self.done: dict[int, bytes] = {}
        self.errors: list[str] = []
        self.longest = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, args=(path, seed, blocks))
        self._thread.start()

    def stop(self) -> None:
        """Let it finish what it is writing."""
        self._stop.set()
        self._thread.join()

    def wait(self, more: int) -> None:
        """Wait until so many more blocks are written, or an error has come."""
        before = len(self.done)
        until(lambda: len(self.done) >= before + more or self.errors)

    def wrong(self, path: Path) -> int:
        """Count the blocks of a disk that are not as they were written."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        wrong = 0
        with mmap.mmap(-1, BLOCK) as buffer:
            for block, data in self.done.items():
                os.preadv(fd, [buffer], block * BLOCK)
                wrong += buffer[:] != data
        os.close(fd)
        return wrong

    def _write(self, path: Path, seed: int, blocks: int) -> None:
        chance = np.random.default_rng(seed)
        fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
        try:
            with mmap.mmap(-1, BLOCK) as buffer:
                for number in itertools.count():
                    if self._stop.is_set() or number == blocks:
                        return
                    buffer[:] = chance.bytes(BLOCK)
                    began = time.monotonic()
                    os.pwritev(fd, [buffer], number * BLOCK)
                    self.longest = max(self.longest, time.monotonic() - began)
                    self.done[number] = buffer[:]
        except OSError as error:
            self.errors.append(repr(error))
        finally:
            os.close(fd)


def until(true: Callable[[], object]) -> None:
    """Wait until it is true, for a minute at most."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
