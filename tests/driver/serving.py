# SPDX-License-Identifier: Apache-2.0
"""A driver in a process of its own, on a descriptor of /dev/fuse that it is given.

python serving.py CLASS DESCRIPTOR MAX_IO DEPTH SIZE MEMFD
"""

import contextlib
import errno
import mmap
import os
import random
import sys
import threading
import time
from collections.abc import Sequence
from typing import ClassVar

from kmind.driver.block import Batch, BlockDriver, Buffer, Op, Setup
from kmind.driver.fuse.server import DiskServer
from kmind.modules.ram.extension import Ram

BAD = 1 << 20
"""Requests that touch the second MiB get what the class is named for; others are served."""


class Odd(Ram):
    """Does what ``odd`` says with single requests to the second MiB."""

    def serve(self, batch: Batch) -> None:
        bad = (batch.offset >= BAD) & (batch.offset < 2 * BAD)
        for index in range(len(batch)):
            if bad[index]:
                self.odd(batch, index)
            else:
                super().serve(_Single(batch, index))

    def odd(self, batch: Batch, index: int) -> None:
        raise NotImplementedError


class _Single(Batch):
    """One request of a batch."""

    def __init__(self, batch: Batch, index: int) -> None:
        one = slice(index, index + 1)

        def send(indices: Sequence[int], error: int, data: Sequence[Buffer] | None) -> None:
            if error:
                batch.fail(index, error)
            else:
                batch.finish(index, data if self.op[0] == Op.READ else None)

        super().__init__(batch.requests[one], batch.data[one], send)


class Raising(Odd):
    def odd(self, batch: Batch, index: int) -> None:
        raise RuntimeError("an author's mistake")


class Twice(Odd):
    def odd(self, batch: Batch, index: int) -> None:
        batch.finish(index, [b"1" * int(batch.length[index])] if batch.op[index] == 0 else None)
        batch.finish(index, [b"2" * int(batch.length[index])] if batch.op[index] == 0 else None)


class Short(Odd):
    def odd(self, batch: Batch, index: int) -> None:
        batch.finish(index, [b"1" * (int(batch.length[index]) - 1)])


class Long(Odd):
    def odd(self, batch: Batch, index: int) -> None:
        batch.finish(index, [b"1" * (int(batch.length[index]) + 4096)])


class Another(Odd):
    """Answers a request that is not in the batch."""

    def odd(self, batch: Batch, index: int) -> None:
        batch.finish(len(batch))


class Failing(Odd):
    def odd(self, batch: Batch, index: int) -> None:
        batch.fail(index, errno.ENOSPC)


class Silent(Odd):
    """Never answers, but says so."""

    def odd(self, batch: Batch, index: int) -> None:
        print("silent", flush=True)


class Hanging(Odd):
    def odd(self, batch: Batch, index: int) -> None:
        time.sleep(1_000_000)


class Replayed(Ram):
    """Says which requests were replayed."""

    def serve(self, batch: Batch) -> None:
        print(f"replayed {batch.replayed.tolist()}", flush=True)
        super().serve(batch)


class Late(Ram):
    """Answers later, from another thread, in any order."""

    operations: ClassVar[frozenset[Op]] = frozenset({Op.FLUSH, *Ram.operations})

    def open(self, setup: Setup) -> None:
        super().open(setup)
        self._kept: list[Batch] = []
        self._some = threading.Condition()
        self._random = random.Random(1)
        threading.Thread(target=self._answer, daemon=True).start()

    def serve(self, batch: Batch) -> None:
        with self._some:
            self._kept += [_Single(batch, index) for index in range(len(batch))]
            self._some.notify()

    def _answer(self) -> None:
        while True:
            with self._some:
                while not self._kept:
                    self._some.wait()
                if len(self._kept) < 8:
                    self._some.wait(0.001)
                one = self._kept.pop(self._random.randrange(len(self._kept)))
            if one.op[0] == Op.FLUSH:
                one.finish(0)
            else:
                super().serve(one)


def main() -> None:
    """Serve until the connection ends."""
    kind, descriptor, max_io, depth, size, memfd = sys.argv[1], *map(int, sys.argv[2:])
    driver: BlockDriver = {"Ram": Ram, **globals()}[kind]()
    os.ftruncate(memfd, size)
    driver.open(Setup(memory=mmap.mmap(memfd, size)))
    server = DiskServer(
        driver,
        descriptor,
        max_io=max_io,
        depth=depth,
        report=lambda error: print(f"{type(error).__name__}: {error}", flush=True),
    )
    with contextlib.suppress(BrokenPipeError):
        print("ready", flush=True)
    server.run()
    os._exit(0)


if __name__ == "__main__":
    main()
