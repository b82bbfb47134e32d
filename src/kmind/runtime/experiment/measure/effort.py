# SPDX-License-Identifier: Apache-2.0
"""Measure an extension's own use of the machine while its proposal is measured.

It knows the current arm, and could slow the load down under one of them: by burning CPU time, or by
keeping the disk busy. So its own effort is read from the kernel's accounts at both ends of each
block, and a verdict is void if the effort differs between the arms: in the blocks alone, because
effort in the other arm's wash-outs costs that arm nothing, and with the wash-outs, because work
begun there may last into the block. The verdict is also void if blocks differ while their means do
not: all effort in one block costs one pair of blocks, and as much spread over the others gains
many.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kmind.evidence import Arm

__all__ = [
    "CPU_LIMIT",
    "FAULTS_LIMIT",
    "IO_LIMIT",
    "OWNER_LIMIT",
    "Effort",
    "Efforts",
    "read_effort",
]

CPU_LIMIT = 0.03
"""CPU time that may be used more under one arm than under the other, in seconds a second: so much
slows a load of one thread by 3%. The readahead extension's differs by less than 0.1%."""

IO_LIMIT = 256 * 1024.0
"""Bytes read from and written to disks that may differ, a second: 64 pages."""

FAULTS_LIMIT = 8.0
"""Page faults that had to wait for a disk that may differ, a second."""

OWNER_LIMIT = 0.05
"""CPU time of the owner's thread that may differ, in seconds a second: what an extension prints,
recommends and reports costs the owner time. Above ``CPU_LIMIT``, as others cost it some, too."""

_MAJFLT = 9  # field of /proc/PID/stat after the name, counted from 0 (proc(5): field 12)
_CPUCLOCK_SCHED = 2


@dataclass(frozen=True)
class Effort:
    """Totals of a process: CPU time in seconds, bytes from and to disks, major page faults.

    ``io_bytes`` is None where this process may not know it. ``owner_s`` is CPU time of the owner's
    thread, in seconds.
    """

    cpu_s: float
    io_bytes: int | None
    faults: int
    owner_s: float = 0.0


def read_effort(pid: int, proc: Path = Path("/proc")) -> Effort | None:
    """Return a process's use of resources so far, with ended threads; None if it is gone.

    Call it on the owner's thread.
    """
    try:
        # The clock of a process (clock_getcpuclockid(3)): in nanoseconds, where stat has ticks.
        cpu_s = time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)
        words = (proc / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        io_bytes = _read_io(proc / str(pid) / "io")
        return Effort(cpu_s, io_bytes, int(words[_MAJFLT]), time.thread_time())
    except (OSError, IndexError, ValueError):
        return None


def _read_io(file: Path) -> int | None:
    try:
        lines = dict(line.split(": ") for line in file.read_text().splitlines())
        return int(lines["read_bytes"]) + int(lines["write_bytes"])
    except (OSError, KeyError, ValueError):
        return None


class _Sum:
    # Use of resources under one arm, and the rate in each of its parts.

    def __init__(self) -> None:
        self.seconds = 0.0
        self._totals: dict[str, float | None] = dict.fromkeys(_NAMES, 0)
        self._rates: dict[str, list[float]] = {name: [] for name in _NAMES}

    def add(self, seconds: float, before: Effort, after: Effort) -> None:
        self.seconds += seconds
        for name in _NAMES:
            then, now, total = getattr(before, name), getattr(after, name), self._totals[name]
            known = None not in (then, now, total)
            self._totals[name] = total + now - then if known else None
            if known and seconds > 0:
                self._rates[name].append((now - then) / seconds)

    def rate(self, name: str) -> float | None:
        total = self._totals[name]
        return None if total is None or self.seconds <= 0 else total / self.seconds

    def apart(self, other: _Sum, name: str) -> float:
        # Distance of their sorted parts (the Wasserstein distance): never less than the
        # means do, and more where one has in a few parts what the other has in many.
        mine, others = self._rates[name], other._rates[name]
        if not (mine and others):
            return 0.0
        count = max(len(mine), len(others))
        at = (np.arange(count) + 0.5) / count
        one, two = (np.quantile(efforts, at, method="inverted_cdf") for efforts in (mine, others))
        return float(np.mean(np.abs(one - two)))

    def to_dict(self) -> dict[str, Any]:
        return {"seconds": round(self.seconds, 3), **self._totals}


# What is compared: its limit a second, and how a difference is said.
_RULES = (
    ("cpu_s", CPU_LIMIT, "used {0:.1%} of a CPU {1}"),
    ("io_bytes", IO_LIMIT, "moved {0:,.0f} bytes a second {1} to or from disks"),
    ("faults", FAULTS_LIMIT, "had {0:.0f} page faults a second {1} that waited for a disk"),
    ("owner_s", OWNER_LIMIT, "cost the owner {0:.1%} of a CPU {1}"),
)
_NAMES = tuple(name for name, _, _ in _RULES)

_Arms = dict[Arm, _Sum]


class Efforts:
    """Effort of an extension in one experiment, by arm: in blocks, and with their wash-outs."""

    def __init__(self) -> None:
        self.lost = False
        self._all: _Arms = {"incumbent": _Sum(), "candidate": _Sum()}
        self._blocks: _Arms = {"incumbent": _Sum(), "candidate": _Sum()}

    def add(
        self,
        arm: Arm,
        seconds: float,
        before: Effort | None,
        after: Effort | None,
        *,
        washing: bool = False,
    ) -> None:
        """Take what was used from one reading to another, ``washing`` before a block or in it.

        ``lost`` says afterwards that a reading was missing.
        """
        if before is None or after is None:
            self.lost = True
            return
        if not washing:
            self._blocks[arm].add(seconds, before, after)
        # Moving the knob costs the owner time in wash-outs, and one way more than the other.
        self._all[arm].add(seconds, replace(before, owner_s=0.0), replace(after, owner_s=0.0))

    @property
    def why_void(self) -> str:
        """Return the reason why the verdict is void, or ""."""
        if self.lost:
            return "the extension's own use of resources is not known"
        reason = (
            _why_means_differ(self._blocks, "in blocks ")
            or _why_means_differ(self._all, "")
            or _why_blocks_differ(self._blocks)
        )
        return reason and f"the extension itself {reason}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, by arm, wash-outs included but for the owner's time."""
        return {
            arm: efforts.to_dict() | {"owner_s": self._blocks[arm].to_dict()["owner_s"]}
            for arm, efforts in self._all.items()
        }


def _why_means_differ(sums: _Arms, where: str) -> str:
    for name, limit, words in _RULES:
        one, other = (sums[arm].rate(name) for arm in ("incumbent", "candidate"))
        if one is not None and other is not None and abs(other - one) > limit:
            arm = "candidate" if other > one else "incumbent"
            return f"{words.format(abs(other - one), 'more')} {where}under the {arm}"
    return ""


def _why_blocks_differ(sums: _Arms) -> str:
    # Pairs of blocks decide, not means: what is used all at once costs one pair.
    for name, limit, words in _RULES:
        apart = sums["incumbent"].apart(sums["candidate"], name)
        if apart > limit:
            text = words.format(apart, "more or less")
            return f"{text} in a block of one arm than in one of the other"
    return ""
