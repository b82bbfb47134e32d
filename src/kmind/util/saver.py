# SPDX-License-Identifier: Apache-2.0
"""Replacing small files durably, without making anybody wait for the disk.

A file is written beside the old one, synced and renamed over it: by one thread for all, which lives
while there is something to do. Of two texts for one file the later counts.
"""

from __future__ import annotations

import threading
from pathlib import Path

from kmind.util.files import replace_file

__all__ = ["SAVER", "Saver"]


class Saver:
    """Thread-safe. The process does not end before all is written, unless by exec or signal."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[Path, bytes] = {}
        self._trouble: dict[Path, str] = {}
        self._thread: threading.Thread | None = None

    def put(self, path: Path, text: bytes) -> None:
        """Have a file hold this text before long; its folder is made, for root alone."""
        with self._changed:
            self._waiting[path] = text
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="kmind-save")
                self._thread.start()

    def waiting(self, path: Path) -> bytes | None:
        """Return the content that is still to be written to the file, or None."""
        with self._changed:
            return self._waiting.get(path)

    def trouble(self, path: Path) -> str | None:
        """Return the error of the last write, "" if it succeeded; None if already reported."""
        with self._changed:
            return self._trouble.pop(path, None)

    def settle(self, timeout_s: float) -> bool:
        """Wait until all is written, or so many seconds; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, timeout_s)

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._thread = None
                    return
                path, text = next(iter(self._waiting.items()))
            trouble = _write(path, text)
            with self._changed:
                self._trouble[path] = trouble
                if self._waiting[path] is text:
                    del self._waiting[path]
                    self._changed.notify_all()


def _write(path: Path, text: bytes) -> str:
    try:
        replace_file(path, text, durable=True)
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


SAVER = Saver()
"""This process's."""
