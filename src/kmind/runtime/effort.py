# SPDX-License-Identifier: Apache-2.0
"""What an extension itself takes from the machine while its proposal is measured.

It knows which arm stands, and could slow the load down under one of them: by burning CPU time, or
by keeping the disk busy. So its own effort is read from the kernel's accounts at both ends of each
block, and a verdict is void where it differs between the arms.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmind.evidence import Arm

__all__ = ["CPU_LIMIT", "FAULTS_LIMIT", "IO_LIMIT", "Effort", "Efforts", "read_effort"]

CPU_LIMIT = 0.03
"""CPU time that may be used more under one arm than under the other, in seconds a second: so much
slows a load of one thread by 3%. The readahead extension's differs by less than 0.1%."""

IO_LIMIT = 256 * 1024.0
"""Bytes read from and written to disks that may differ, a second: 64 pages."""

FAULTS_LIMIT = 8.0
"""Page faults that had to wait for a disk that may differ, a second."""

_MAJFLT = 9  # field of /proc/PID/stat after the name, counted from 0 (proc(5): field 12)
_CPUCLOCK_SCHED = 2


@dataclass(frozen=True)
class Effort:
    """Totals of a process: CPU time in seconds, bytes from and to disks, major page faults.

    ``io_bytes`` is None where this process may not know it.
    """

    cpu_s: float
    io_bytes: int | None
    faults: int


def read_effort(pid: int, proc: Path = Path("/proc")) -> Effort | None:
    """What a process has used so far, threads that ended included; None if it is not there."""
    try:
        # The clock of a process (clock_getcpuclockid(3)): in nanoseconds, where stat has ticks.
        cpu_s = time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)
        words = (proc / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        return Effort(cpu_s, _read_io(proc / str(pid) / "io"), int(words[_MAJFLT]))
    except (OSError, IndexError, ValueError):
        return None


def _read_io(file: Path) -> int | None:
    try:
        lines = dict(line.split(": ") for line in file.read_text().splitlines())
        return int(lines["read_bytes"]) + int(lines["write_bytes"])
    except (OSError, KeyError, ValueError):
        return None


class _Sum:
    # What was used under one arm.

    def __init__(self) -> None:
        self.seconds = 0.0
        self.cpu_s = 0.0
        self.io_bytes: int | None = 0
        self.faults = 0

    def add(self, seconds: float, before: Effort, after: Effort) -> None:
        self.seconds += seconds
        self.cpu_s += after.cpu_s - before.cpu_s
        self.faults += after.faults - before.faults
        if self.io_bytes is not None and None not in (before.io_bytes, after.io_bytes):
            self.io_bytes += (after.io_bytes or 0) - (before.io_bytes or 0)
        else:
            self.io_bytes = None

    def rate(self, name: str) -> float | None:
        total = getattr(self, name)
        return None if total is None or self.seconds <= 0 else total / self.seconds

    def to_dict(self) -> dict[str, Any]:
        names = ("cpu_s", "io_bytes", "faults")
        return {"seconds": round(self.seconds, 3), **{n: getattr(self, n) for n in names}}


# What is compared: its limit a second, and how a difference is said.
_RULES = (
    ("cpu_s", CPU_LIMIT, "used {0:.1%} of a CPU {1}"),
    ("io_bytes", IO_LIMIT, "moved {0:,.0f} bytes a second {1} to or from disks"),
    ("faults", FAULTS_LIMIT, "had {0:.0f} page faults a second {1} that waited for a disk"),
)


class Efforts:
    """What an extension used in one experiment, by arm; a wash-out is the next block's."""

    def __init__(self) -> None:
        self.lost = False
        self._arms: dict[Arm, _Sum] = {"incumbent": _Sum(), "candidate": _Sum()}

    def add(self, arm: Arm, seconds: float, before: Effort | None, after: Effort | None) -> None:
        """Take what was used from one reading to another; ``lost`` where one is missing."""
        if before is None or after is None:
            self.lost = True
        else:
            self._arms[arm].add(seconds, before, after)

    @property
    def why_void(self) -> str:
        """Why no verdict can be had beside this, or ""."""
        if self.lost:
            return "what the extension itself used is not known"
        under = {"more": "candidate", "less": "incumbent"}
        for name, limit, words in _RULES:
            one, other = (self._arms[arm].rate(name) for arm in ("incumbent", "candidate"))
            if one is not None and other is not None and abs(other - one) > limit:
                said = words.format(abs(other - one), "more")
                where = under["more" if other > one else "less"]
                return f"the extension itself {said} under the {where}"
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, by arm."""
        return {arm: each.to_dict() for arm, each in self._arms.items()}
