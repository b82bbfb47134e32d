# SPDX-License-Identifier: Apache-2.0
"""A cable in a process of its own, on two descriptors of TAP that it is given.

python serving.py DESCRIPTOR DESCRIPTOR DELAY_NS
"""

import sys

import numpy as np

from kmind.driver.net.batch import Batch, NetDriver
from kmind.driver.net.server import NetServer
from kmind.driver.net.tap import Tap


class Cable(NetDriver):
    """All that comes in at one end leaves at the other, ``ns`` later."""

    def __init__(self, ns: int) -> None:
        self.ns = ns

    def serve(self, batch: Batch) -> None:
        everything = np.arange(len(batch))
        batch.forward(everything, 1 - batch.source)
        batch.delay(everything, self.ns)


def main() -> None:
    """Serve until it is killed."""
    left, right, ns = map(int, sys.argv[1:])
    taps = [Tap(str(fd), fd, offload=True, mtu=1500) for fd in (left, right)]
    server = NetServer(Cable(ns), taps)
    print("ready", flush=True)
    server.run()


if __name__ == "__main__":
    main()
