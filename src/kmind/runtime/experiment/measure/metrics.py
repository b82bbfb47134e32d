# SPDX-License-Identifier: Apache-2.0
"""Metrics of experiments, read by the owner: the agent's totals, and the kernel's pressure.

The extension cannot reach the agent's totals. Two readings make a block.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kmind.agent.protocol import Agent
from kmind.evidence import Guard
from kmind.extension import Manifest
from kmind.extension.manifest.outcome import MeasurePart

__all__ = ["PRESSURE", "Block", "Metrics", "Reading"]

PRESSURE = Path("/proc/pressure")
"""Pressure stall information (PSI, Documentation/accounting/psi.rst), since Linux 4.20."""

_U64 = (1 << 64) - 1
_SOME = re.compile(r"^some .*total=(\d+)", re.MULTILINE)
# Which pressures guard every experiment: name, how many times worse, and by what share of
# the time at least, for some pressure is usual.
_PRESSURES = (("io", 2.0, 0.25), ("memory", 2.0, 0.1))
_PATIENCE = 2


@dataclass(frozen=True)
class Reading:
    """Totals at one moment: time in seconds, counters by feature, pressures in microseconds."""

    time_s: float
    totals: Mapping[str, int]
    pressure: Mapping[str, int]


@dataclass(frozen=True)
class Block:
    """Differences between two readings; None where the divisor is 0."""

    seconds: float
    values: Mapping[str, float | None]
    guards: Mapping[str, float | None]


class Metrics:
    """Reads the outcomes and guards of one module from its agent.

    A simulated agent has nothing to do with this machine's pressure, so it is not asked.
    """

    def __init__(
        self,
        manifest: Manifest,
        agent: Agent,
        *,
        now: Callable[[], float],
        pressure: Path = PRESSURE,
    ) -> None:
        self.outcomes = {outcome.name: outcome for outcome in manifest.outcomes}
        self._guards = manifest.guards
        self._agent = agent
        self._now = now
        parts: Sequence[MeasurePart] = [*manifest.outcomes, *manifest.guards]
        wanted = {name for part in parts for name in part.features}
        self._columns = {n: c for n, c in manifest.columns.items() if n in wanted}
        files = {name: pressure / name for name, _, _ in _PRESSURES}
        real = agent.backend == "bpf"
        self._files = {
            name: file for name, file in files.items() if real and _read(file) is not None
        }

    def guards(self) -> list[Guard]:
        """New guards: the module's own, and pressure where this kernel tells it."""
        readings = [
            Guard(f"psi.{name}", "lower", limit, _PATIENCE, slack)
            for name, limit, slack in _PRESSURES
            if name in self._files
        ]
        return readings + [
            Guard(guard.name, guard.better, guard.limit, _PATIENCE) for guard in self._guards
        ]

    def read(self) -> Reading:
        """The totals now."""
        totals = {name: self._agent.feature(column) for name, column in self._columns.items()}
        pressure = {name: _read(file) or 0 for name, file in self._files.items()}
        return Reading(self._now(), totals, pressure)

    def between(self, before: Reading, after: Reading) -> Block:
        """The block from one reading to another."""
        seconds = after.time_s - before.time_s
        values = {name: _value(part, before, after) for name, part in self.outcomes.items()}
        guards = {part.name: _value(part, before, after) for part in self._guards}
        for name in self._files:
            stalled_s = (after.pressure[name] - before.pressure[name]) / 1e6
            guards[f"psi.{name}"] = max(0.0, stalled_s / seconds) if seconds > 0 else None
        return Block(seconds, values, guards)


def _value(part: MeasurePart, before: Reading, after: Reading) -> float | None:
    def grown(names: Sequence[str]) -> int:
        return sum((after.totals[name] - before.totals[name]) & _U64 for name in names)

    below = grown(part.denominator) if part.denominator else after.time_s - before.time_s
    return part.floor + grown(part.numerator) / below if below > 0 else None


def _read(file: Path) -> int | None:
    try:
        match = _SOME.search(file.read_text())
    except OSError:
        return None
    return int(match[1]) if match else None
