# SPDX-License-Identifier: Apache-2.0
"""Sources of an objective: the kernel's figures, Prometheus, a command.

A source is polled again and again. Each answer is a finite number, or raises ``GapError`` with a
one-line reason. Nothing of a target, a server or a command is trusted: answers are bounded in time
and size.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from kmind.errors import UsageError
from kmind.knobs import Target, parse_target
from kmind.runtime.objective.command import Command, GapError, GapName
from kmind.runtime.objective.number import parse_number
from kmind.runtime.objective.prometheus import parse_prometheus
from kmind.util.text import clean

__all__ = ["BUILT_IN", "GapError", "GapName", "Heard", "Objective", "parse_objective"]

_ROOT = Path("/")
_SECTOR = 512  # bytes, whatever the disk's own (Documentation/block/stat.rst)
# Columns of /sys/block/NAME/stat, from 0 (Documentation/block/stat.rst). The times are
# milliseconds in 32 bits (part_stat_show in block/genhd.c) and begin again at 0.
_IOS, _SECTORS, _TICKS = (0, 4), (2, 6), (3, 7)
_WRAP = 1 << 32


@dataclass(frozen=True)
class Heard:
    """A reading of the objective, from ``start_s`` to ``end_s`` in the clock's seconds.

    ``value`` is None where there was none.
    """

    start_s: float
    end_s: float
    value: float | None


class Objective(Protocol):
    """Asked from one thread. ``better`` is which way is good, "" where only the admin knows.

    ``timeout_s`` is how long one answer may take; 0 where asking never waits.
    """

    better: Literal["higher", "lower", ""]
    timeout_s: float

    def ask(self, cancelled: Callable[[], bool]) -> float | None:
        """One answer, since the last one where it is a rate; None the first time then.

        Raises GapError. Returns soon once ``cancelled`` says so.
        """

    def cancel(self) -> None:
        """End the question under way, without waiting for it; from any thread."""


@dataclass(frozen=True)
class _Sample:
    # Totals of one moment. ``above`` has the kernel's 32-bit totals apart, for each wraps alone.
    above: float
    below: float
    words: tuple[int, ...] = ()
    who: str = ""


class _Rate:
    # Growth of a total since the last time, divided by that of another one.

    timeout_s = 0.0

    def __init__(self, read: Callable[[], _Sample], better: Literal["higher", "lower"]) -> None:
        self.better: Literal["higher", "lower", ""] = better
        self._read = read
        self._last: _Sample | None = None

    def ask(self, cancelled: Callable[[], bool]) -> float | None:
        try:
            now = self._read()
        except (OSError, ValueError, IndexError, ArithmeticError) as error:
            self._last = None
            raise GapError("failed", f"it cannot be read: {clean(str(error), 160)}") from None
        last, self._last = self._last, now
        if last is None:
            return None
        above = now.above - last.above
        grown = [(new - old) % _WRAP for new, old in zip(now.words, last.words, strict=True)]
        if above < 0 or now.below < last.below or max(grown, default=0) >= _WRAP // 2:
            raise GapError("failed", "its counters were reset")
        if now.who != last.who:
            raise GapError("failed", "another disk has this name now")
        if now.below == last.below:
            raise GapError("empty", "there was no activity to measure")
        return (above + sum(grown)) / (now.below - last.below)

    def cancel(self) -> None:
        """Nothing: it never waits."""


class _Command(Command):
    better: Literal["higher", "lower", ""] = ""

    def ask(self, cancelled: Callable[[], bool]) -> float | None:
        text = self.run(cancelled)
        if not text.strip():
            raise GapError("empty", "it printed nothing")
        return parse_number(text)


def parse_objective(
    text: str, target: Target, *, timeout_s: float = 2.0, user: str = "nobody", root: Path = _ROOT
) -> Objective:
    """The objective that a text names; UsageError in one line where it names none.

    A built-in one (``BUILT_IN``), one of a disk also as ``block.latency:vda``;
    ``prometheus:URL?query=QUERY``; ``command:WORDS``, run as ``user`` without a shell.
    """
    kind, colon, rest = text.partition(":")
    if kind == "prometheus" and colon:
        return parse_prometheus(rest, timeout_s=timeout_s)
    if not text.isprintable():
        raise UsageError(f"objective {clean(text, 80)!r} holds a character that cannot be printed")
    if kind == "command" and colon:
        return _Command(_words(rest), timeout_s, user)
    if kind.startswith("psi."):
        if colon or kind not in BUILT_IN:
            raise _unknown(text)
        return _pressure(kind, root)
    if kind in BUILT_IN:
        try:
            disk = parse_target(rest, root=root) if colon else target
        except UsageError as error:
            raise UsageError(f"objective {text}: {error}") from None
        if disk.kind != "block":
            raise UsageError(f"objective {text} needs a disk", hint=f"such as {kind}:vda")
        return _disk(kind, disk)
    raise _unknown(text)


def _unknown(text: str) -> UsageError:
    return UsageError(
        f"unknown objective {clean(text, 80)!r}",
        hint=f"take one of {', '.join(BUILT_IN)}, prometheus:URL?query=..., or command:...",
    )


# Built-in ones


def _pressure(name: str, root: Path) -> _Rate:
    _, resource, which = name.split(".")
    file = root / "proc/pressure" / resource
    pattern = re.compile(rf"^{which} .*total=(\d+)", re.MULTILINE)

    def read() -> _Sample:
        match = pattern.search(file.read_text())
        if not match:
            raise ValueError(f"{file} has no line {which}")
        return _Sample(int(match[1]) / 1e6, time.monotonic())

    try:
        read()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"objective {name}: this kernel does not provide it ({error})", hint="see: kmind doctor"
        ) from None
    return _Rate(read, "lower")


def _disk(name: str, disk: Target) -> _Rate:
    folder = disk.root / "sys/block" / disk.name

    def read(above: tuple[int, int], below: tuple[int, int] | None, *, unit: int = 1) -> _Sample:
        columns = [int(word) for word in (folder / "stat").read_text().split()]
        since = time.monotonic() if below is None else float(sum(columns[n] for n in below))
        numbers = tuple(columns[n] for n in above)
        if above == _TICKS:
            return _Sample(0, since, numbers, _number_of(folder))
        return _Sample(float(sum(numbers) * unit), since, (), _number_of(folder))

    readers: dict[str, tuple[Callable[[], _Sample], Literal["higher", "lower"]]] = {
        "block.latency": (lambda: read(_TICKS, _IOS), "lower"),
        "block.requests": (lambda: read(_IOS, None), "higher"),
        "block.bytes": (lambda: read(_SECTORS, None, unit=_SECTOR), "higher"),
    }
    return _Rate(*readers[name])


def _number_of(folder: Path) -> str:
    # Linux 5.15 gives each disk a number of its own; before, another one is seen by its totals.
    try:
        return (folder / "diskseq").read_text().strip()
    except FileNotFoundError:
        return ""


BUILT_IN: dict[str, str] = {
    "psi.cpu.some": "share of time in which some task waited for a CPU; lower is better",
    "psi.io.some": "share of time in which some task waited for I/O; lower is better",
    "psi.io.full": "share of time in which all tasks waited for I/O; lower is better",
    "psi.memory.some": "share of time in which some task waited for memory; lower is better",
    "psi.memory.full": "share of time in which all tasks waited for memory; lower is better",
    "block.latency": "mean time of a disk's reads and writes, ms; lower is better",
    "block.requests": "reads and writes that a disk completes, a second; higher is better",
    "block.bytes": "bytes that a disk reads and writes, a second; higher is better",
}
"""Built-in objectives, and what each is."""


# What the admin typed


def _words(text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"objective command:{clean(text, 80)}: {error}") from None
    if not words or not Path(words[0]).is_absolute():
        raise UsageError(
            f"objective command:{clean(text, 80)} names no program",
            hint="with its whole path, such as command:/usr/local/bin/rate",
        )
    if not Path(words[0]).is_file():
        raise UsageError(f"objective command:{clean(text, 80)}: there is no {words[0]}")
    return words
