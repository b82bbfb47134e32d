# SPDX-License-Identifier: Apache-2.0
"""The daemon's own logs: one JSON object a line in a file, and in the journal where there is one.

One file has all that happens, but of each instance, and each client, only as many bytes as
its budget lets through: what an extension causes cannot push the rest out. What is left out is
counted (``left_out``). A second file has who changed what, and nothing else.

A thread writes, so that a slow disk holds up nobody. What cannot be written, for the
disk is full or too slow, is dropped and counted; the next line that gets through says
so in ``lost``. Nothing here raises.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

from kmind.events import Event
from kmind.paths import AUDIT_LOG, LOG
from kmind.runtime.supervisor.log.limits import Budget, bounded

__all__ = ["JOURNALD", "LOG_SCHEMA", "DaemonLog", "StructuredLog"]

LOG_SCHEMA = "kmind.log/1"
"""Schema of each line: ``schema``, ``ts`` (seconds since 1970), ``event`` and its fields."""

JOURNALD = Path("/run/systemd/journal/socket")
"""systemd's socket for structured messages (its "Native Journal Protocol")."""

_MAX_BYTES = 8 << 20
_FILES = 5
_MOST_WAITING = 10_000
# Of one source: 17 MB a day, of the 40 MiB that are kept.
_SOURCE_RATE, _SOURCE_BURST = 200.0, 256 << 10
# syslog(3): what an admin should look at, and the rest.
_WARNING, _INFO = 4, 6


class StructuredLog:
    """An ``Emit`` whose events become lines of ``path``.

    At ``max_bytes`` the file is renamed to ``.1``, what was ``.1`` to ``.2``, and so on;
    ``files`` are kept, the present one included. One source may write ``rate`` bytes a second in
    the long run, and ``burst`` at once. Thread-safe. ``lost`` counts the lines that were dropped
    because they could not be written.
    """

    def __init__(
        self,
        path: Path = LOG,
        *,
        max_bytes: int = _MAX_BYTES,
        files: int = _FILES,
        journald: Path | None = JOURNALD,
        rate: float = _SOURCE_RATE,
        burst: float = _SOURCE_BURST,
    ) -> None:
        self.lost = 0
        self._unsaid = 0
        self._path = path
        self._max_bytes = max_bytes
        self._files = files
        self._journald = journald
        self._budget = Budget(time.monotonic, rate=rate, burst=burst)
        self._fd = -1
        self._size = 0
        self._socket: socket.socket | None = None
        self._waiting: deque[tuple[float, Event]] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._idle = True
        self._thread = threading.Thread(target=self._work, name="kmind-log", daemon=True)
        self._thread.start()

    def emit(self, event: Event) -> None:
        """Have one line written before long."""
        with self._wake:
            if self._closing or len(self._waiting) >= _MOST_WAITING:
                self._drop(1)
                return
            self._waiting.append((time.time(), event))
            self._wake.notify()

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until what was emitted is written or dropped; False if that takes too long."""
        with self._wake:
            return self._wake.wait_for(lambda: not self._waiting and self._idle, timeout_s)

    def close(self) -> None:
        """Write what is left, for at most some seconds, and end. Safe to repeat."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(5.0)

    def _drop(self, lines: int) -> None:
        self.lost += lines
        self._unsaid += lines

    def _work(self) -> None:
        while True:
            with self._wake:
                self._idle = True
                self._wake.notify_all()
                self._wake.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    break
                self._idle = False
                batch = list(self._waiting)
                self._waiting.clear()
            for ts, event in batch:
                self._write(ts, event)
        if self._fd >= 0:
            os.close(self._fd)
        if self._socket:
            self._socket.close()

    def _write(self, ts: float, event: Event) -> None:
        fields = bounded(event.fields())
        record = {"schema": LOG_SCHEMA, "ts": ts, "event": event.name, **fields}
        source = event.charged_to
        with self._wake:
            unsaid = self._unsaid
        if unsaid:
            record["lost"] = unsaid
        if left_out := self._budget.left_out(source):
            record["left_out"] = left_out
        try:
            line = json.dumps(record)
            always = not (source and event.skippable)
            if not self._budget.admit(source, len(line), always=always):
                return
            self._append(line.encode("utf-8", "replace") + b"\n")
            self._budget.told(source)
        except (OSError, TypeError, ValueError, RecursionError):
            with self._wake:
                self._drop(1)
            return
        with self._wake:
            self._unsaid -= unsaid
        self._tell_journald(event, line)

    def _append(self, line: bytes) -> None:
        if self._fd < 0 or self._size + len(line) > self._max_bytes:
            self._open(rotate=self._fd >= 0)
        written = os.write(self._fd, line)
        if written < len(line):  # the disk is full: no half line may stay
            os.ftruncate(self._fd, self._size)
            raise OSError("the disk is full")
        self._size += written

    def _open(self, *, rotate: bool) -> None:
        self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if rotate:
            with suppress(OSError):  # rather a file that is too long than none
                self._rotate()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self._path, flags, 0o640)
        self._size = os.fstat(self._fd).st_size
        if self._size >= self._max_bytes and not rotate:
            self._open(rotate=True)

    def _rotate(self) -> None:
        names = [self._path] + [Path(f"{self._path}.{n}") for n in range(1, self._files)]
        for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
            if newer.exists():
                newer.replace(older)

    def _tell_journald(self, event: Event, line: str) -> None:
        # Fields as NAME=value lines; JSON on one line never needs the binary form.
        priority = _WARNING if event.warning else _INFO
        message = (
            f"MESSAGE={line}\nPRIORITY={priority}\n"
            f"SYSLOG_IDENTIFIER=kmind\nKMIND_EVENT={event.name}\n"
        )
        try:
            if self._socket is None:
                if self._journald is None or not self._journald.exists():
                    return
                self._socket = socket.socket(
                    socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
                )
                self._socket.setblocking(False)
            self._socket.sendto(message.encode("utf-8", "replace"), str(self._journald))
        except OSError:
            pass  # the file has it


class DaemonLog:
    """An ``Emit`` that tells both files; one ``StructuredLog`` each."""

    def __init__(self, log: Path = LOG, audit: Path = AUDIT_LOG) -> None:
        self._log = StructuredLog(log)
        self._audit = StructuredLog(audit, journald=None)

    def emit(self, event: Event) -> None:
        """Have it written before long."""
        self._log.emit(event)
        if event.audited:
            self._audit.emit(event)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until what was emitted is written or dropped; False if that takes too long."""
        return self._log.flush(timeout_s) and self._audit.flush(timeout_s)

    def close(self) -> None:
        """Write what is left, for at most some seconds, and end. Safe to repeat."""
        self._log.close()
        self._audit.close()
