# SPDX-License-Identifier: Apache-2.0
"""Files that say how a path was: mahimahi's traces of deliveries, and courses of conditions.

Both come from others: each line is checked, and one that is wrong is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["Course", "TraceError", "read_course", "read_deliveries"]

_MOST_BYTES = 64 << 20
_MOST_MS = 10**9  # eleven days
_NS = 1_000_000
_SHOWN = 40

Course = list[tuple[int, dict[str, float]]]
"""Times in ns from the start, and what holds from then on, by column."""

# Column, the most that it can be.
_COLUMNS = {"delay_ms": 60_000, "jitter_ms": 60_000, "loss": 1, "rate_kbit": 10**9}


class TraceError(ValueError):
    """A file is malformed; the message is one line that names file and line."""


def read_deliveries(path: Path) -> npt.NDArray[np.int64]:
    """Times of deliveries in ns, from a file of mahimahi's (mm-link).

    Each line is a whole number of milliseconds since the start, not before that of the line above:
    one MTU can leave then. After the last one it begins anew. Raises TraceError.
    """
    times: list[int] = []
    for where, line in _lines(path):
        if not (line.isascii() and line.isdigit()) or len(line) > 10 or int(line) > _MOST_MS:
            raise TraceError(f"{where}: {_shown(line)} is no time in milliseconds up to {_MOST_MS}")
        if times and int(line) < times[-1]:
            raise TraceError(f"{where}: {line} ms is before the line above, {times[-1]} ms")
        times.append(int(line))
    if not times or not times[-1]:
        raise TraceError(f"{path}:{len(times)}: the last time is 0, so it could not begin anew")
    return np.array(times, np.int64) * _NS


def read_course(path: Path) -> Course:
    """Conditions over time: comma-separated, with a line of names first.

    ``time_ms``, and any of ``delay_ms``, ``jitter_ms``, ``loss`` (a share, 0 to 1) and
    ``rate_kbit`` (0: without a limit). A line holds from its time to the next line's; the first
    time is 0, and the last line holds on. Raises TraceError.
    """
    course: Course = []
    names: list[str] = []
    for where, line in _lines(path):
        words = [word.strip() for word in line.split(",")]
        if not names:
            names = words
            _check_names(where, names)
            continue
        if len(words) != len(names):
            raise TraceError(f"{where}: {len(words)} values for {len(names)} columns")
        time = _number(where, "time_ms", words[0], _MOST_MS)
        if not course and time:
            raise TraceError(f"{where}: the first time is {words[0]}, not 0")
        if course and int(time * _NS) <= course[-1][0]:
            raise TraceError(f"{where}: time {words[0]} is not after that of the line above")
        values = {
            name: _number(where, name, word, _COLUMNS[name])
            for name, word in zip(names[1:], words[1:], strict=True)
        }
        course.append((int(time * _NS), values))
    if not course:
        raise TraceError(f"{path}:1: there are no conditions")
    return course


def _check_names(where: str, names: list[str]) -> None:
    if names[0] != "time_ms" or len(names) < 2 or len(set(names)) != len(names):
        raise TraceError(f"{where}: the first line names columns once each: time_ms, then others")
    for name in names[1:]:
        if name not in _COLUMNS:
            known = ", ".join(_COLUMNS)
            raise TraceError(f"{where}: no column is named {_shown(name)}, but {known}")


def _number(where: str, name: str, word: str, most: float) -> float:
    try:
        value = float(word)
    except ValueError:
        raise TraceError(f"{where}: {name} is {_shown(word)}, no number") from None
    if not 0 <= value <= most:  # nor nan
        raise TraceError(f"{where}: {name} is {_shown(word)}, not from 0 to {most}")
    return value


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    # Each line, and its place as "file:number".
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from None
    if len(data) > _MOST_BYTES:
        raise TraceError(f"{path}: it is over {_MOST_BYTES >> 20} MiB")
    lines = data.decode("latin-1").split("\n")
    if lines[-1] == "":
        lines.pop()
    for number, line in enumerate(lines, 1):
        yield f"{path}:{number}", line.removesuffix("\r")


def _shown(text: str) -> str:
    cut = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
    return ascii(cut)
