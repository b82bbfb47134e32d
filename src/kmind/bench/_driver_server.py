# SPDX-License-Identifier: Apache-2.0
"""A disk in memory, served from a process of its own for ``kmind bench driver --block``.

python -m kmind.bench._driver_server DESCRIPTOR MAX_IO DEPTH SIZE MEMFD
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys

from kmind.driver.block import Setup
from kmind.driver.disk import Server
from kmind.driver.fuse.connection import Connection
from kmind.driver.fuse.server import DiskServer
from kmind.modules.ram.extension import Ram

__all__ = ["RamProcess", "main"]


class RamProcess(Server):
    """The child; its memory is a memfd's, which outlives it. It serves once ``go`` is called."""

    def __init__(self, connection: Connection, size: int, memfd: int) -> None:
        words = (connection.descriptor, connection.max_io, connection.depth, size, memfd)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, *map(str, words)],
            pass_fds=(connection.descriptor, memfd),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def wait_until_ready(self) -> None:
        """Wait until it has imported all it needs, and made its buffers."""
        assert self._process.stdout
        self._process.stdout.readline()

    def go(self) -> RamProcess:
        """Let it serve."""
        assert self._process.stdin
        self._process.stdin.close()
        return self

    def stop(self) -> None:
        """Kill it: its requests wait for the next one, or for the connection's end."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()


def main() -> None:
    """Serve until the connection ends."""
    descriptor, max_io, depth, size, memfd = map(int, sys.argv[1:])
    os.ftruncate(memfd, size)
    driver = Ram()
    driver.open(Setup(memory=mmap.mmap(memfd, size)))
    server = DiskServer(driver, descriptor, max_io=max_io, depth=depth)
    print("ready", flush=True)
    sys.stdin.read()
    server.run()


if __name__ == "__main__":
    main()
