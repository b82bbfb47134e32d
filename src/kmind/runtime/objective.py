# SPDX-License-Identifier: Apache-2.0
"""What is to become better, as the owner measures it: the kernel's figures, Prometheus, a command.

An objective is asked again and again. Each answer is a finite number, or raises
``GapError`` that says in one line why there is none. Nothing of a target, a server or a
command is trusted: answers are bounded in time and size.
"""

from __future__ import annotations

import contextlib
import http
import http.client
import json
import math
import re
import shlex
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

from kmind.errors import UsageError
from kmind.knobs import Target, parse_target
from kmind.runtime._command import GapError, GapName, run_command

__all__ = ["BUILT_IN", "GapError", "GapName", "Objective", "parse_objective"]

_ROOT = Path("/")
_MOST_ANSWER = 1 << 20
_SECTOR = 512  # bytes, whatever the disk's own (Documentation/block/stat.rst)
# Fixed point in millionths, in 64 bits.
_MOST = (1 << 63) / 1e6

# Columns of /sys/block/NAME/stat, from 0 (Documentation/block/stat.rst).
_IOS, _SECTORS, _TICKS = (0, 4), (2, 6), (3, 7)


class Objective(Protocol):
    """Asked from one thread. ``better`` is which way is good, "" where only the admin knows."""

    better: Literal["higher", "lower", ""]

    def ask(self, cancelled: Callable[[], bool]) -> float | None:
        """One answer, since the last one where it is a rate; None the first time then.

        Raises GapError. Returns soon once ``cancelled`` says so.
        """


class _Rate:
    # What a total grew by, since the last time, by what another one grew by.

    def __init__(
        self, read: Callable[[], tuple[float, float]], better: Literal["higher", "lower"]
    ) -> None:
        self.better: Literal["higher", "lower", ""] = better
        self._read = read
        self._last: tuple[float, float] | None = None

    def ask(self, cancelled: Callable[[], bool]) -> float | None:
        try:
            above, below = self._read()
        except (OSError, ValueError, IndexError) as error:
            self._last = None
            raise GapError("failed", f"it cannot be read: {error}") from None
        last, self._last = self._last, (above, below)
        if last is None:
            return None
        if below <= last[1]:
            raise GapError("empty", "nothing happened that could be measured")
        return (above - last[0]) / (below - last[1])


class _Prometheus:
    better: Literal["higher", "lower", ""] = ""

    def __init__(self, url: str, query: str, timeout_s: float) -> None:
        parts = urllib.parse.urlsplit(url)
        assert parts.hostname
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        query = urllib.parse.quote(query, safe="")
        self._path = f"{parts.path.rstrip('/')}/api/v1/query?query={query}"
        self._timeout_s = timeout_s

    def ask(self, cancelled: Callable[[], bool]) -> float | None:
        text = self._fetch()
        try:
            answer = json.loads(text)
            data = answer["data"]
            kind, result = data["resultType"], data["result"]
            if answer["status"] != "success":
                raise ValueError
            if kind == "vector" and not result:
                raise GapError("empty", "the query found nothing")
            if kind == "vector" and len(result) > 1:
                raise GapError("text", f"the query found {len(result)} series, and must find one")
            word = result[0]["value"][1] if kind == "vector" else result[1]
            if kind not in ("vector", "scalar"):
                raise GapError("text", f"the query gives a {kind}, and must give one number")
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            raise GapError("text", f"this is no answer of Prometheus: {_short(text)}") from None
        return _number(str(word))

    def _fetch(self) -> str:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=self._timeout_s)
        late = threading.Event()

        def cut() -> None:
            late.set()
            if connection.sock is not None:
                with contextlib.suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)

        # A server may send a byte now and then: only a clock beside it bounds the whole.
        timer = threading.Timer(self._timeout_s, cut)
        timer.start()
        try:
            connection.connect()
            connection.request("GET", self._path, headers={"Accept": "application/json"})
            reply = connection.getresponse()
            text = reply.read(_MOST_ANSWER + 1)
        except (OSError, http.client.HTTPException) as error:
            if late.is_set() or isinstance(error, TimeoutError):
                raise GapError("timeout", f"no answer within {self._timeout_s:g} s") from None
            raise GapError("failed", f"the server cannot be asked: {error}") from None
        finally:
            timer.cancel()
            connection.close()
        if late.is_set():
            raise GapError("timeout", f"no whole answer within {self._timeout_s:g} s")
        if reply.status != http.HTTPStatus.OK:
            raise GapError("failed", f"the server says {reply.status} {reply.reason[:60]}")
        if len(text) > _MOST_ANSWER:
            raise GapError("text", f"the answer has more than {_MOST_ANSWER} bytes")
        return text.decode("utf-8", "replace")


class _Command:
    better: Literal["higher", "lower", ""] = ""

    def __init__(self, words: list[str], timeout_s: float, user: str) -> None:
        self._words = words
        self._timeout_s = timeout_s
        self._user = user

    def ask(self, cancelled: Callable[[], bool]) -> float | None:
        text = run_command(self._words, self._timeout_s, self._user, cancelled)
        if not text.strip():
            raise GapError("empty", "it printed nothing")
        return _number(text.strip())


def parse_objective(
    text: str, target: Target, *, timeout_s: float = 2.0, user: str = "nobody", root: Path = _ROOT
) -> Objective:
    """The objective that a text names; UsageError in one line where it names none.

    A built-in one (``BUILT_IN``), one of a disk also as ``block.latency:vda``;
    ``prometheus:URL?query=QUERY``; ``command:WORDS``, run as ``user`` without a shell.
    """
    kind, colon, rest = text.partition(":")
    if kind == "prometheus" and colon:
        return _Prometheus(*_url_and_query(rest), timeout_s)
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
        f"unknown objective {text[:80]!r}",
        hint=f"take one of {', '.join(BUILT_IN)}, prometheus:URL?query=..., or command:...",
    )


# Built-in ones


def _pressure(name: str, root: Path) -> _Rate:
    _, resource, which = name.split(".")
    file = root / "proc/pressure" / resource
    pattern = re.compile(rf"^{which} .*total=(\d+)", re.MULTILINE)

    def read() -> tuple[float, float]:
        found = pattern.search(file.read_text())
        if not found:
            raise ValueError(f"{file} has no line {which}")
        return int(found[1]) / 1e6, time.monotonic()

    try:
        read()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"objective {name}: this kernel does not tell it ({error})", hint="see: kmind doctor"
        ) from None
    return _Rate(read, "lower")


def _disk(name: str, disk: Target) -> _Rate:
    file = disk.root / "sys/block" / disk.name / "stat"

    def columns(places: tuple[int, int]) -> float:
        words = file.read_text().split()
        return float(sum(int(words[place]) for place in places))

    readers: dict[str, tuple[Callable[[], tuple[float, float]], Literal["higher", "lower"]]] = {
        "block.latency": (lambda: (columns(_TICKS), columns(_IOS)), "lower"),
        "block.requests": (lambda: (columns(_IOS), time.monotonic()), "higher"),
        "block.bytes": (lambda: (columns(_SECTORS) * _SECTOR, time.monotonic()), "higher"),
    }
    return _Rate(*readers[name])


BUILT_IN: dict[str, str] = {
    "psi.cpu.some": "share of the time in which some task waited for a CPU; lower is better",
    "psi.io.some": "share of the time in which some task waited for I/O; lower is better",
    "psi.io.full": "share of the time in which all tasks waited for I/O; lower is better",
    "psi.memory.some": "share of the time in which some task waited for memory; lower is better",
    "psi.memory.full": "share of the time in which all tasks waited for memory; lower is better",
    "block.latency": "mean time of a disk's reads and writes, ms; lower is better",
    "block.requests": "reads and writes that a disk completes, a second; higher is better",
    "block.bytes": "bytes that a disk reads and writes, a second; higher is better",
}
"""Built-in objectives, and what each is."""


# What the admin typed


def _url_and_query(text: str) -> tuple[str, str]:
    url, mark, query = text.partition("?query=")
    try:
        parts = urllib.parse.urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number
        known = False
    if not mark or not query or not known:
        raise UsageError(
            f"objective prometheus:{text[:80]} names no server or no query",
            hint="such as prometheus:http://127.0.0.1:9090?query=rate(requests_total[10s])",
        )
    return url, urllib.parse.unquote(query)


def _words(text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"objective command:{text[:80]}: {error}") from None
    if not words or not Path(words[0]).is_absolute():
        raise UsageError(
            f"objective command:{text[:80]} names no program",
            hint="with its whole path, such as command:/usr/local/bin/rate",
        )
    if not Path(words[0]).is_file():
        raise UsageError(f"objective command:{text[:80]}: there is no {words[0]}")
    return words


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise GapError("text", f"this is no number: {_short(text)}") from None
    if not math.isfinite(value) or abs(value) >= _MOST:
        raise GapError("range", f"{text} is no finite number below {_MOST:.3g}")
    return value


def _short(text: str) -> str:
    plain = "".join(c if c.isprintable() else " " for c in text[:60])
    return repr(plain + ("..." if len(text) > 60 else ""))
