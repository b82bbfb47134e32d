# SPDX-License-Identifier: Apache-2.0
"""Shared parts of all benches: medians with their spread, interleaved order, the machine.

A benchmark's result is one JSON object: ``schema``, ``machine``, and each number
``X`` beside ``X_spread``.
"""

import math
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import kmind
from kmind.infer.lazy import need
from kmind.util.table import table

__all__ = ["Metric", "Share", "describe_machine", "interleaved", "over_rounds", "show_result"]


@dataclass(frozen=True)
class Metric:
    """A number that was measured several times.

    ``spread`` is half the distance between the quartiles, which half of the
    values lie within: in percent of the median, or, for a value that is itself a
    percentage (``percent``), in percentage points, since its median may be near 0.
    """

    name: str
    values: Sequence[float] | npt.NDArray[np.float64]
    percent: bool = False

    @property
    def median(self) -> float:
        """The middle value."""
        return float(np.median(self.values))

    @property
    def spread(self) -> float:
        """Half the interquartile range; see the class for the unit."""
        low, high = np.percentile(self.values, [25, 75])
        half = float(high - low) / 2
        if self.percent:
            return half
        scale = abs(self.median) or float(np.max(np.abs(self.values))) or 1.0
        return 100 * half / scale

    def as_json(self) -> dict[str, float]:
        """``{name: median, name_spread: spread}``, as it stands in a result."""
        return {self.name: self.median, f"{self.name}_spread": self.spread}


def over_rounds(name: str, these: Sequence[float], those: Sequence[float]) -> dict[str, float]:
    """The mean of the rounds' ratios, by logarithms, with Student's 95% interval.

    Both have a value a round, at least two. Needs scipy, of the extra ``learn``.
    """
    logs = np.log(np.maximum(these, 1e-9)) - np.log(np.maximum(those, 1e-9))
    quantile = float(need("scipy.stats", "learn").t.ppf(0.975, len(logs) - 1))
    half = quantile * logs.std(ddof=1) / np.sqrt(len(logs))
    ends = {"": 0.0, "_low": -half, "_high": half}
    return {name + end: round(float(np.exp(logs.mean() + far)), 4) for end, far in ends.items()}


@dataclass(frozen=True)
class Share:
    """Number of runs that ended in one way, with the 95% interval of their share.

    The interval is Wilson's (1927), which holds near 0 and 1 too.
    """

    name: str
    count: int
    of: int

    @property
    def value(self) -> float:
        """From 0 to 1; 0 of no runs."""
        return self.count / self.of if self.of else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Low and high; all that is possible, if there were no runs."""
        if not self.of:
            return 0.0, 1.0
        z = 1.959964
        middle = (self.value + z * z / (2 * self.of)) / (1 + z * z / self.of)
        half = z * math.sqrt(
            self.value * (1 - self.value) / self.of + z * z / (4 * self.of * self.of)
        )
        half /= 1 + z * z / self.of
        return max(middle - half, 0.0), min(middle + half, 1.0)

    def as_json(self) -> dict[str, float]:
        """``{name, name_low, name_high}``, all from 0 to 1."""
        low, high = self.interval
        parts = {"": self.value, "_low": low, "_high": high}
        return {self.name + part: round(number, 4) for part, number in parts.items()}


def interleaved(arms: Sequence[str], rounds: int, *, seed: int = 0) -> list[list[str]]:
    """An order for each round: a random one, then the same backwards (ABBA), and so on.

    Thus a drift of the machine falls on all arms alike.
    """
    generator = np.random.default_rng(seed)
    orders: list[list[str]] = []
    while len(orders) < rounds:
        order = [arms[index] for index in generator.permutation(len(arms))]
        orders += [order, order[::-1]]
    return orders[:rounds]


def describe_machine(device: str | None = None) -> dict[str, Any]:
    """Processor, memory, kernel, versions, and the disk if one is named.

    What cannot be found out is an empty string.
    """
    cpuinfo = _read(Path("/proc/cpuinfo"))
    model = re.search(r"^model name\s*: (.*)$", cpuinfo, re.MULTILINE)
    memory = re.search(r"^MemTotal: +(\d+) kB", _read(Path("/proc/meminfo")), re.MULTILINE)
    machine: dict[str, Any] = {
        "cpu": model[1] if model else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory[1]) / 2**20, 1) if memory else 0,
        "kernel": platform.release(),
        "hypervisor": " hypervisor " in cpuinfo.replace("\n", " "),
        "versions": {
            "kmind": kmind.__version__,
            "python": platform.python_version(),
            "fio": _version("fio", "--version"),
            "db_bench": _version("db_bench", "--version"),
            "bpftool": _version("bpftool", "version"),
        },
    }
    if device is not None:
        block = Path("/sys/block", device)
        machine["disk"] = {
            "name": device,
            "model": _read(block / "device/model") or _driver(block),
            "gib": int(_read(block / "size") or 0) * 512 // 2**30,
            "scheduler": _read(block / "queue/scheduler"),
            "read_ahead_kb": int(_read(block / "queue/read_ahead_kb") or 0),
            "rotational": _read(block / "queue/rotational") == "1",
        }
    return machine


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _driver(block: Path) -> str:
    driver = block / "device/driver"
    return driver.resolve().name if driver.exists() else ""


def _version(tool: str, argument: str) -> str:
    found = shutil.which(tool)
    if found is None:
        return ""
    done = subprocess.run([found, argument], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0] if lines else ""


def show_result(result: Mapping[str, Any]) -> str:
    """A result as tables: one for the single numbers, one for each list of rows."""
    single = []
    for name, value in result.items():
        if _beside(name, result) or name == "machine" or isinstance(value, bool):
            continue
        spread = _text(result.get(f"{name}_spread", "")) or _range(result, name)
        if isinstance(value, Mapping):
            single += [(f"{name} {part}", _text(number), spread) for part, number in value.items()]
        elif isinstance(value, int | float):
            single.append((name, _text(value), spread))
    text = f"{result.get('schema', '')}\n"
    text += table(("number", "median", "spread"), single) if single else ""
    for name, rows in result.items():
        if not (isinstance(rows, list) and rows and isinstance(rows[0], Mapping)):
            continue
        columns = [key for key in rows[0] if not _beside(key, rows[0])]
        cells = [[_cell(row, key) for key in columns] for row in rows]
        text += f"\n{name}\n" + table(columns, cells)
    return text


def _beside(name: str, row: Mapping[str, Any]) -> bool:
    # True if it is the spread or an end of the interval of another number.
    number, _, part = name.rpartition("_")
    return part == "spread" or (part in ("low", "high") and number in row)


def _range(row: Mapping[str, Any], key: str) -> str:
    low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
    return "" if low is None or high is None else f"({low:.3f} to {high:.3f})"


def _cell(row: Mapping[str, Any], key: str) -> str:
    spread = row.get(f"{key}_spread")
    return _text(row.get(key, "")) + (f" ±{spread:.1f}%" if spread is not None else "")


def _text(value: Any) -> str:
    return (
        f"{value:,.4g}"
        if isinstance(value, float) and abs(value) < 1e3
        else (f"{value:,.0f}" if isinstance(value, float) else str(value))
    )
