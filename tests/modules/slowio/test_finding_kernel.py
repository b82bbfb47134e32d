# SPDX-License-Identifier: Apache-2.0
"""A real disk that is slowed down: from the hook to ``kmind findings``, through a restart."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from modules.disks import brake, direct, memory_disk
from serve.real import Host, host

NEEDS = ("libbpf", "btf", "bpf_timer", "tp_btf")
PATIENCE_S = 200


@contextmanager
def reading(node: str) -> Iterator[None]:
    """Small reads of a disk, one after the other, for the length of the block."""
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            direct(node, reads=20, size=4096)
            over.wait(0.02)

    worker = threading.Thread(target=read)
    worker.start()
    try:
        yield
    finally:
        over.set()
        worker.join()


def wait_for(what: Callable[[], Any]) -> Any:
    until = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.3)
    return found


def findings(machine: Host) -> list[dict[str, Any]]:
    """Those that are not closed."""
    rows: list[dict[str, Any]] = json.loads(machine.kmind("findings", "--json"))["findings"]
    return rows


@pytest.mark.slow
@pytest.mark.kernel(*NEEDS)
def test_a_disk_that_becomes_slow_is_a_finding(tmp_path: Path) -> None:
    with host(tmp_path) as machine, memory_disk() as (disk, below):
        machine.start()
        machine.kmind("load", "slowio", disk, "learn=1", "--mode", "observe")
        name = f"slowio@{disk}"
        with brake(below) as hold, reading(f"/dev/{disk}"):
            wait_for(lambda: machine.instance(name)["status"].get("health") == "normal")
            assert findings(machine) == []
            hold(50)  # 20 ms each, where some 0.1 ms are usual
            (row,) = wait_for(lambda: findings(machine))
            assert (row["kind"], row["state"]) == ("fail_slow", "open")
            assert (row["instance"], row["subject"]) == (name, disk)
            assert row["score"] > 1
            assert row["evidence"]["shift"] > row["evidence"]["shift_limit"]
            machine.kmind("findings", "ack", row["id"][:6])
            told = [
                (event["state"], event["finding"])
                for event in machine.log()
                if event["event"] == "finding"
            ]
            assert {key for _, key in told} == {row["id"]}
            # The median of the last rounds may rise on: then it is told again, as critical.
            states = [state for state, _ in told]
            assert states[0] == "open"
            assert states == sorted(states, key=["open", "acknowledged"].index)
        machine.end()
        machine.start()
        (after,) = findings(machine)
        assert (after["state"], after["since"]) == ("acknowledged", row["since"])
        machine.end()
