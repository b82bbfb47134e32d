# SPDX-License-Identifier: Apache-2.0
"""Processes that rename themselves: events that a test can count by itself."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["HOOKS", "NAME", "RENAMES", "Load", "until"]

RENAMES = Path(__file__).with_name("agent") / "renames.bpf.c"
HOOKS = {"on_rename": "task_rename"}
NAME = "renames@all"
PATIENCE_S = 60

# Renames its first task, with a number that rises, until it is told to stop: prctl(2).
LOAD = """
import ctypes, os, sys, time

libc = ctypes.CDLL(None)
base, pause = int(sys.argv[1]), float(sys.argv[2])
number = 0
print("ready", flush=True)
while True:
    for _ in range(100):
        # Six bits a byte, as text: others read the names of processes, too.
        digits = [0x40 | number >> shift & 0x3F for shift in range(0, 42, 6)]
        libc.prctl(15, b"km:-" + bytes([base, *digits]), 0, 0, 0)
        number += 1
    time.sleep(pause)
    if os.path.exists(sys.argv[3]):
        break
print(number, flush=True)
"""


def until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Load:
    """Processes that rename themselves, from ``start`` to ``stop``."""

    def __init__(self, folder: Path, pause_s: float, started: list[int]) -> None:
        self.flag = folder / "stop"
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", LOAD, str(0x41 + n), str(pause_s), str(self.flag)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for n in range(2)
        ]
        for process in self.processes:
            started.append(process.pid)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"

    def stop(self) -> int:
        """End the processes, and return the number of renames of all together."""
        self.flag.touch()
        counts = [int(process.communicate()[0]) for process in self.processes]
        return sum(counts)
