# SPDX-License-Identifier: Apache-2.0
"""A link served from a process of its own for ``kmind bench driver --net``.

python -m kmind.bench._net_server LEFT_FD RIGHT_FD OFFLOAD DELAY_NS RATE_BITS CPU
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from kmind.driver.net.server import NetServer
from kmind.driver.net.tap import Tap
from kmind.modules.link.link import Link
from kmind.modules.link.path import Conditions

__all__ = ["LinkProcess", "main"]


class LinkProcess:
    """The child, which serves when this returns; with ``cpu`` on that one alone."""

    def __init__(
        self, taps: Sequence[Tap], *, delay: int = 0, rate: int = 0, cpu: int = -1
    ) -> None:
        words = (*(tap.fd for tap in taps), int(taps[0].offload), delay, rate, cpu)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, *map(str, words)],
            pass_fds=[tap.fd for tap in taps],
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout
        self._process.stdout.readline()

    @property
    def cpu_ns(self) -> int:
        """Processor time that it has used so far."""
        return int(Path(f"/proc/{self._process.pid}/schedstat").read_text().split()[0])

    def __enter__(self) -> LinkProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()


def main() -> None:
    """Serve until it is killed."""
    left, right, offload, delay, rate, cpu = map(int, sys.argv[1:])
    if cpu >= 0:
        with suppress(OSError):
            os.sched_setaffinity(0, {cpu})
    taps = [Tap(str(fd), fd, offload=bool(offload), mtu=1500) for fd in (left, right)]
    server = NetServer(Link(Conditions(delay=delay, rate=rate)), taps)
    print("ready", flush=True)
    server.run()


if __name__ == "__main__":
    main()
