# SPDX-License-Identifier: Apache-2.0
"""Making text that an extension wrote fit to be shown: it may hold anything."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from kmind.errors import KmindError
from kmind.runtime.sandbox.framing import MARK

__all__ = ["Bucket", "LineReader", "clean", "error_place", "parse_note", "parse_status"]

_LINE = 500
_NAME = 40
_ITEMS = 32


def clean(text: str, most: int = _LINE) -> str:
    """``text`` in one line of at most ``most`` characters, each of them printable."""
    line = "".join(char if char.isprintable() else " " for char in text[: most + 1])
    return line[: most - 1] + "…" if len(line) > most else line


def error_place(error: Exception) -> str:
    """An error in a line: what a KmindError says, or of another one what it is and where."""
    if isinstance(error, KmindError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{error!r} in {Path(last.filename).name}:{last.lineno}"


def parse_note(note: bytes) -> tuple[str, dict[str, int | float | str]]:
    """Reason and evidence of a recommendation's note, cleaned; empty where there is none."""
    try:
        found = msgspec.json.decode(note.decode("utf-8", "replace"))
    except (msgspec.DecodeError, RecursionError):
        return clean(note.decode("utf-8", "replace").rstrip("\0"), 200), {}
    if not isinstance(found, dict):
        return "", {}
    evidence = found.get("evidence")
    items = evidence.items() if isinstance(evidence, dict) else ()
    plain = {clean(str(name), _NAME): _scalar(value) for name, value in list(items)[:_ITEMS]}
    return clean(str(found.get("reason", "")), 400), plain


def parse_status(text: bytes) -> dict[str, int | float | str]:
    """An extension's status, cleaned and flat; empty where it is no JSON object."""
    try:
        found = msgspec.json.decode(text.decode("utf-8", "replace"))
    except (msgspec.DecodeError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {clean(str(k), _NAME): _scalar(value) for k, value in list(found.items())[:_ITEMS]}


def _scalar(value: Any) -> int | float | str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) < 1 << 63:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, str):
        return clean(value, 200)
    try:
        return clean(msgspec.json.encode(value).decode(), 200)
    except (msgspec.MsgspecError, RecursionError):
        return "?"


class Bucket:
    """Lets ``rate`` things a second through in the long run, ``burst`` at once.

    A clock that is set back costs nothing but the time that it is set back by.
    """

    def __init__(self, now: Callable[[], float], rate: float, burst: int) -> None:
        self._now = now
        self._rate = rate
        self._burst = burst
        self._room = float(burst)
        self._at = now()

    def take(self) -> bool:
        """Whether one more may pass."""
        now = self._now()
        self._room = min(self._burst, self._room + max(0.0, now - self._at) * self._rate)
        self._at = now
        if self._room < 1:
            return False
        self._room -= 1
        return True


class LineReader:
    """Cuts a stream of bytes into clean lines, no more of them than a rate allows.

    ``rate`` lines a second in the long run, ``burst`` at once; ``now`` in seconds. What
    is above that is counted, and said in one line once there is room again. Lines that are
    parts of something else go into ``parts`` as they are, for whoever empties that.
    """

    def __init__(self, now: Callable[[], float], rate: float = 20, burst: int = 200) -> None:
        self.parts: list[bytes] = []
        self._bucket = Bucket(now, rate, burst)
        self._rest = b""
        self._dropped = 0

    def feed(self, data: bytes) -> list[str]:
        """The lines that are complete now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > 4 * _LINE:
            lines.append(self._rest)
            self._rest = b""
        return self._pass(lines)

    def close(self) -> list[str]:
        """The last line, where no line end follows it, and what was dropped."""
        lines = self._pass([self._rest] if self._rest else [])
        self._rest = b""
        if self._dropped:
            lines.append(self._confess())
        return lines

    def _pass(self, lines: list[bytes]) -> list[str]:
        out: list[str] = []
        room = True
        for line in lines:
            if line.startswith(MARK):
                self.parts.append(line)
                continue
            # Asked no more once it said no: thousands of lines may have come at once.
            room = room and self._bucket.take()
            if not room:
                self._dropped += 1
                continue
            if self._dropped:
                out.append(self._confess())
            out.append(clean(line.decode("utf-8", "replace").rstrip()))
        return out

    def _confess(self) -> str:
        text = f"({self._dropped} lines dropped: too many at once)"
        self._dropped = 0
        return text
