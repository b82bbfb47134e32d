# SPDX-License-Identifier: Apache-2.0
"""The ready agent of block drivers beside a disk, and what it has counted."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np

from kmind.agent.kernel.agent import BpfAgent
from kmind.driver.agents import ready_agent
from kmind.extension.manifest.manifest import Feature, Hook, TablePart
from kmind.queue import Table, open_tables

__all__ = ["Accounts", "accounts", "load_agent", "totals", "until"]

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
        return np.zeros(1, np.uint64) if row is None else row["took"].copy()

    def _ended(self) -> int:
        names = ("reads", "writes", "discards", "flushes", "others", "withdrawn")
        return sum(self[name] for name in names)


def load_agent(connection: int, *, stall_ms: int = 0, **more: Any) -> BpfAgent:
    """The agent for that FUSE connection, not started yet."""
    return BpfAgent(
        _OBJECT,
        hooks={hook.program: hook.tracepoint for hook in HOOKS},
        alternatives={
            hook.program: [other.program for other in hook.alternatives]
            for hook in HOOKS
            if hook.alternatives
        },
        parameters={"connection": connection, "stall_ms": stall_ms},
        tables=[part.shape for part in TABLES],
        **{"deadline_s": 3600, **more},
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
