# SPDX-License-Identifier: Apache-2.0
"""Limits of extensions in version 2 of cgroups, tried in a guest; test_cgroup.py judges."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmind.knobs import Target, get_knob
from kmind.runtime.sandbox.cgroup.cgroup import ExtensionCgroup, list_cgroups

__all__ = ["main"]

_NAME = "trial@guest"
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Limits:
    """As a manifest has them."""

    cpu_percent: float = 0
    memory_mib: int = 0
    pids: int = 0


@contextlib.contextmanager
def _inside(group: ExtensionCgroup, code: str) -> Iterator[subprocess.Popen[bytes]]:
    # Runs the code once it is in the cgroup; both are gone at the end.
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", f"input()\n{code}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        group.add(process.pid)
        assert process.stdin
        process.stdin.write(b"\n")
        process.stdin.flush()
        yield process
    finally:
        group.close()
        process.communicate()


def it_eats_memory() -> Any:
    group = ExtensionCgroup(_NAME, Limits(memory_mib=32))
    with _inside(group, "eaten = [bytearray(1 << 20) for _ in range(200)]") as process:
        code = process.wait(_PATIENCE_S)
        used = group.usage()
        return [group.missing, code, used["oom_kills"], used["memory_peak"], group.exceeded()]


def it_forks() -> Any:
    group = ExtensionCgroup(_NAME, Limits(pids=3))
    code = (
        "import os, time\n"
        "made = 0\n"
        "try:\n"
        "    while made < 10:\n"
        "        if os.fork() == 0: time.sleep(60); os._exit(0)\n"
        "        made += 1\n"
        "except OSError: pass\n"
        "print(made, flush=True); input()"
    )
    with _inside(group, code) as process:
        assert process.stdout
        made = int(process.stdout.readline())
        return [made, group.usage()["pids"], group.usage()["pids_refused"], group.exceeded()]


def it_spins() -> Any:
    group = ExtensionCgroup(_NAME, Limits(cpu_percent=20))
    with _inside(group, "while True: pass"):
        began, before, said = time.monotonic(), group.usage()["cpu_s"], None
        while (said := group.exceeded()) is None and time.monotonic() < began + _PATIENCE_S:
            time.sleep(0.25)
        share = (group.usage()["cpu_s"] - before) / (time.monotonic() - began)
        return [said, share, group.usage()["throttled"]]


def it_is_taken_over() -> Any:
    first = ExtensionCgroup(_NAME, Limits(cpu_percent=20, memory_mib=32, pids=3))
    with _inside(first, "input()"):
        second = ExtensionCgroup.adopt(_NAME)
        found = second.limits
        listed, counted = list_cgroups(), second.usage()["pids"]
        second.close()
        return [found.cpu_percent, found.memory_mib, found.pids, listed, counted, list_cgroups()]


def knobs_of_a_cgroup() -> Any:
    folder = Path("/sys/fs/cgroup/load")
    folder.mkdir()
    found = []
    try:
        target = Target.cgroup("load")
        for name, value in (("cpu_weight", 300), ("memory_low", 1 << 20)):
            knob = get_knob(f"cgroup.{name}")
            stood = knob.read(target)
            knob.write(target, value)
            found.append([knob.exists(target), stood, knob.read(target)])
    finally:
        folder.rmdir()
    return found


TRIALS: tuple[Callable[[], Any], ...] = (
    it_eats_memory,
    it_forks,
    it_spins,
    it_is_taken_over,
    knobs_of_a_cgroup,
)


def main() -> dict[str, Any]:
    """The result of each trial by its name, or the trace of what went wrong."""
    found: dict[str, Any] = {}
    for trial in TRIALS:
        try:
            found[trial.__name__] = trial()
        except Exception:
            found[trial.__name__] = traceback.format_exc()
    return found
