# SPDX-License-Identifier: Apache-2.0
"""Costs of a daemon and its instances: CPU time when idle, memory, loading, a restart."""

from __future__ import annotations

import compileall
import json
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import kmind
from kmind.bench._instance import agent_statistics, cpu_shares, sampled
from kmind.bench._results import Metric
from kmind.errors import KmindError
from kmind.paths import PINS
from kmind.testing.daemon import DaemonHost
from kmind.workloads.disk import Workload

__all__ = ["loops", "measure_crowd", "measure_load", "measure_restart"]

_CROWD = 16
_SETTLE_S = 5.0
_MIB = 1024.0  # in the KiB of smaps_rollup
_UNIT = re.compile(r"restarted in ([\d.]+) s")


@contextmanager
def _fresh_daemon() -> Iterator[DaemonHost]:
    # As pip leaves what it installs: with byte code, so that no start has to compile.
    compileall.compile_dir(Path(kmind.__file__).parent, quiet=2)
    with tempfile.TemporaryDirectory(prefix="kmind-bench-") as folder, ExitStack() as stack:
        host = stack.enter_context(DaemonHost.open(Path(folder)))
        host.start()
        stack.callback(_unload_all, host)
        yield host


def measure_crowd(seconds: float) -> dict[str, Any]:
    """Sixteen idle instances, each on a loop device of its own: CPU time and memory.

    ``idle_cpu_percent`` is of one core: daemon and extensions. ``idle_programs_percent``
    is what the kernel counts of the agents' programs, without their timers.
    ``extension_mib`` is by how much the proportional set sizes grow with one more extension.
    """
    with _fresh_daemon() as host, loops(_CROWD) as disks:
        for index, loop in enumerate(disks[:-1]):
            host.kmind("load", "slowio" if index % 2 else "readahead", loop)
        before = _extension_sizes(host)
        host.kmind("load", "slowio", disks[-1])
        after = _extension_sizes(host)
        time.sleep(_SETTLE_S)
        if host.daemon is None:
            raise KmindError("the daemon has ended")
        pids = [host.daemon.pid, *_extensions(host)]
        with agent_statistics(), sampled(pids, seconds / 10) as samples:
            time.sleep(seconds)
        shares = cpu_shares(samples, seconds)
        own = [size for size in after if size not in before] or after
    return (
        Metric("idle_cpu_percent", [p for p, _ in shares], percent=True).as_json()
        | Metric("idle_programs_percent", [p for _, p in shares], percent=True).as_json()
        | {
            "extension_mib": (sum(after) - sum(before)) / _MIB,
            "extension_mib_spread": Metric("", after).spread,
            "extension_largest_mib": max(own) / _MIB,
        }
    )


def measure_load(load: Workload, device: str, rounds: int) -> dict[str, Any]:
    """From the start of ``kmind load`` to the first record, while the disk is read.

    ``load_ms`` is all of it; ``load_after_ms`` begins when the extension's process does.
    """
    whole, after = [], []
    with _fresh_daemon() as host, _beside(load):
        for _ in range(rounds):
            start = time.monotonic()
            host.kmind("load", "readahead", device)
            name = f"readahead@{device}"
            while not _account(host, name)["pushed"]:
                time.sleep(0.002)
            end = time.monotonic()
            began = _started_at(_status(host, name)["extension"]["pid"])
            whole.append(1e3 * (end - start))
            after.append(1e3 * (end - began))
            host.kmind("unload", name)
    return Metric("load_ms", whole).as_json() | Metric("load_after_ms", after).as_json()


def measure_restart(load: Workload, device: str, rounds: int) -> dict[str, Any]:
    """A hot restart of the daemon while the disk is read: how long, and records lost."""
    took, lost = [], []
    with _fresh_daemon() as host, _beside(load):
        name = f"readahead@{device}"
        host.kmind("load", "readahead", device)
        for _ in range(rounds):
            before = _account(host, name)
            found = _UNIT.search(host.kmind("daemon", "--replace"))
            if found is None:
                raise KmindError("kmind daemon --replace does not say how long it took")
            after = _account(host, name)
            took.append(1e3 * float(found[1]))
            lost.append(sum(after[key] - before[key] for key in ("dropped", "actions_lost")))
            if after["windows"] < before["windows"]:
                raise KmindError(f"{name} was started anew, not taken over")
    return Metric("restart_ms", took).as_json() | {
        "restart_lost": float(np.max(lost)),
        "restart_lost_spread": 0.0,
    }


@contextmanager
def loops(count: int) -> Iterator[list[str]]:
    """Loop devices over empty files: disks that nobody reads; their names."""
    made: list[str] = []
    with tempfile.TemporaryDirectory(prefix="kmind-loops-") as folder:
        try:
            for number in range(count):
                file = Path(folder, f"{number}.img")
                with file.open("wb") as image:
                    image.truncate(16 << 20)
                done = subprocess.run(
                    ["losetup", "--find", "--show", str(file)],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if done.returncode:
                    raise KmindError(f"no loop device: {done.stderr.strip()}")
                made.append(done.stdout.strip())
            yield [Path(each).name for each in made]
        finally:
            for each in made:
                subprocess.run(["losetup", "--detach", each], check=False)


@contextmanager
def _beside(load: Workload) -> Iterator[None]:
    # The load runs again and again while the block does.
    done = threading.Event()

    def run() -> None:
        while not done.is_set():
            load.run(2.0)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _status(host: DaemonHost, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.kmind("status", name, "--json"))["instances"][0]
    return found


def _account(host: DaemonHost, name: str) -> dict[str, int]:
    # As the kernel prints it: ``key value`` lines.
    lines = host.cat(f"{PINS}/instances/{name}").splitlines()
    pairs = (line.split(maxsplit=1) for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _extensions(host: DaemonHost) -> list[int]:
    rows = json.loads(host.kmind("status", "--json"))["instances"]
    return [int(row["extension"]["pid"]) for row in rows]


def _extension_sizes(host: DaemonHost) -> list[int]:
    # Proportional set size of each extension, in KiB.
    sizes = []
    for pid in _extensions(host):
        text = Path("/proc", str(pid), "smaps_rollup").read_text()
        sizes.append(int(next(s for s in text.splitlines() if s.startswith("Pss:")).split()[1]))
    return sizes


def _started_at(pid: int) -> float:
    # CLOCK_MONOTONIC, to 10 ms: field 22 of /proc/PID/stat, in ticks since boot.
    fields = Path("/proc", str(pid), "stat").read_text(errors="replace").rpartition(")")[2].split()
    drift = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    return int(fields[19]) / 100 - drift


def _unload_all(host: DaemonHost) -> None:
    for row in json.loads(host.kmind("list", "--json"))["instances"]:
        host.kmind("unload", row["name"])
