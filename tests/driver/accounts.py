# SPDX-License-Identifier: Apache-2.0
"""The ready agent of block drivers beside a disk, and what it has counted."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import subprocess
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
from disks import MIB, require_devices, watched

from kmind.agent.kernel.agent import BpfAgent
from kmind.driver.agents import ready_agent
from kmind.driver.block import Batch, Op, Setup
from kmind.driver.disk import LoopDisk, ThreadServer
from kmind.extension.manifest.manifest import Feature, Hook, TablePart
from kmind.modules.ram.extension import Ram
from kmind.queue import Table, open_tables

__all__ = [
    "FEATURES",
    "Accounts",
    "Held",
    "accounts",
    "held_disk",
    "load_agent",
    "shown",
    "totals",
    "tracepoints",
    "until",
    "waiting_reads",
]

OPERATIONS = {"read": 0, "write": 1, "discard": 2, "flush": 3, "other": 4}

_OBJECT, _PARTS = ready_agent("block")
_TOML: dict[str, Any] = tomllib.loads(_PARTS.read_text())
HOOKS = msgspec.convert(_TOML["hook"], tuple[Hook, ...])
FEATURES = msgspec.convert(_TOML["feature"], tuple[Feature, ...])
TABLES = msgspec.convert(_TOML["table"], tuple[TablePart, ...])
COLUMNS = {feature.name: column for column, feature in enumerate(FEATURES)}


class Accounts:
    """Counters of an agent so far, by the names of its features."""

    def __init__(self, agent: BpfAgent) -> None:
        self.agent = agent
        shapes = [part.shape for part in TABLES]
        self._table: Table = open_tables(agent.table_fds, shapes)["latency"]

    def __getitem__(self, name: str) -> int:
        return self.agent.feature(COLUMNS[name])

    def settled(self, before: dict[str, int] | None = None) -> dict[str, int]:
        """All counters, once each request that was sent has its answer; less those ``before``."""
        until(lambda: self._ended() == self["sent"])
        now = {f.name: self[f.name] for f in FEATURES if f.kind == "counter"}
        return {name: value - (before or {}).get(name, 0) for name, value in now.items()}

    def histogram(self, operation: str, requests: int) -> np.ndarray[Any, Any]:
        """The buckets of an operation, once they hold so many requests: the tick adds them."""
        until(lambda: self._buckets(operation).sum() >= requests)
        return self._buckets(operation)

    def _buckets(self, operation: str) -> np.ndarray[Any, Any]:
        row = self._table.find(operation=OPERATIONS[operation])
        return np.zeros(1, np.uint64) if row is None else row["took"].ravel().copy()

    def _ended(self) -> int:
        names = ("reads", "writes", "discards", "flushes", "others", "withdrawn")
        return sum(self[name] for name in names)


def tracepoints() -> dict[str, str]:
    """The hooks of the agent: program to tracepoint."""
    return {hook.program: hook.tracepoint for hook in HOOKS}


def load_agent(connection: int, *, stall_ms: int = 0, **more: Any) -> BpfAgent:
    """The agent for that FUSE connection, not started yet."""
    return BpfAgent(
        _OBJECT,
        optional=[hook.program for hook in HOOKS if hook.optional],
        parameters={"connection": connection, "stall_ms": stall_ms},
        tables=[part.shape for part in TABLES],
        **{"hooks": tracepoints(), "deadline_s": 3600, **more},
    )


@contextlib.contextmanager
def accounts(connection: int, **words: Any) -> Iterator[Accounts]:
    """A started agent's accounts."""
    agent = load_agent(connection, **words)
    try:
        agent.start()
        yield Accounts(agent)
    finally:
        agent.close()


def shown(pin: Path) -> dict[str, int]:
    """The numbers that ``cat`` shows of a pinned instance."""
    words = (line.split(maxsplit=1) for line in pin.read_text().splitlines())
    return {name: int(value) for name, value in words if value.isdecimal()}


def totals(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """The work of a run of fio by its own report, in the words of the accounts."""
    job = json.loads(done.stdout)["jobs"][0]
    return {
        "reads": job["read"]["total_ios"],
        "writes": job["write"]["total_ios"],
        "read_bytes": job["read"]["io_bytes"],
        "write_bytes": job["write"]["io_bytes"],
        "discards": job["trim"]["total_ios"],
        "discard_bytes": job["trim"]["io_bytes"],
    }


def until(done: Callable[[], object], seconds: float = 60) -> None:
    """Wait for something that is sure to come; the limit only ends a broken test."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.002)


class Held(Ram):
    """Memory whose answers wait while ``hold`` is set; ``seconds`` is what each request takes."""

    operations: ClassVar[frozenset[Op]] = frozenset({Op.FLUSH, *Ram.operations})

    def __init__(self, size: int = 16 * MIB, *, seconds: float = 0, errno: int = 0) -> None:
        self.open(Setup(memory=mmap.mmap(-1, size)))
        self.seconds = seconds
        self.errno = errno
        self.hold = False
        self.kept: list[Batch] = []
        self._lock = threading.Lock()

    def serve(self, batch: Batch) -> None:
        time.sleep(self.seconds * len(batch))
        with self._lock:
            if self.hold:
                self.kept.append(batch)
                return
        self._answer(batch)

    def release(self) -> None:
        """Answer what was kept, and from now on all that comes."""
        with self._lock:
            self.hold = False
        while self.kept:
            self._answer(self.kept.pop())

    def _answer(self, batch: Batch) -> None:
        if self.errno:
            batch.fail(np.arange(len(batch)), self.errno)
            return
        flushes = batch.op == Op.FLUSH
        if flushes.any():
            batch.finish(np.flatnonzero(flushes))
        data = np.flatnonzero(~flushes)
        for index in data.tolist():
            self._do(batch, index)
        batch.finish(data)

    def _do(self, batch: Batch, index: int) -> None:
        start, length = int(batch.offset[index]), int(batch.length[index])
        if batch.op[index] == Op.READ:
            batch.data[index][:] = self._memory[start : start + length]
        elif batch.op[index] == Op.WRITE:
            self._memory[start : start + length] = batch.data[index]
        else:
            self._memory[start : start + length] = bytes(length)


@contextlib.contextmanager
def held_disk(driver: Held, **options: Any) -> Iterator[LoopDisk]:
    """A disk that a thread of this process serves; a failed test leaves no client waiting."""
    require_devices()
    disk = LoopDisk("test", lambda connection: ThreadServer(driver, connection), **options)
    with watched(disk):
        yield disk


@contextlib.contextmanager
def waiting_reads(path: Path, count: int, size: int = 4096) -> Iterator[list[threading.Thread]]:
    """Direct reads, each in a thread that waits for its answer; an error of theirs is passed over.

    At the end the caller has seen to it that all are answered.
    """

    def read(number: int) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
        try:
            with mmap.mmap(-1, size) as buffer, contextlib.suppress(OSError):
                os.preadv(descriptor, [buffer], number * size)
        finally:
            os.close(descriptor)

    threads = [threading.Thread(target=read, args=(n,), daemon=True) for n in range(count)]
    for thread in threads:
        thread.start()
    yield threads
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
