# SPDX-License-Identifier: Apache-2.0
"""Send an extension's output without ever waiting for its reader."""

from __future__ import annotations

import contextlib
import io
import os

__all__ = ["LineOutput"]

# Up to this much is written to a pipe whole or not at all: PIPE_BUF of pipe(7).
_MOST = 4096


class LineOutput(io.TextIOBase):
    """A text stream of whole lines to a pipe, ``fd``, that is not blocking.

    A line for which there is no room is dropped and counted, and the count is said
    once there is room again. Longer lines than 4,095 bytes are cut.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rest = ""
        self._dropped = 0

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Always UTF-8."""
        return "utf-8"

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str, /) -> int:
        """Send the lines that ``text`` completes."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._put(line)
        self._rest = self._rest[:_MOST]
        return len(text)

    def end_line(self) -> None:
        """Send the text that has no line end so far."""
        if self._rest:
            self._put(self._rest)
            self._rest = ""

    def _put(self, line: str) -> None:
        if self._dropped and self._sent(f"({self._dropped} lines dropped: nobody read the log)"):
            self._dropped = 0
        if self._dropped or not self._sent(line):
            self._dropped += 1

    def _sent(self, line: str) -> bool:
        # A reader that is gone for good (BrokenPipeError) is no reason to fail either.
        with contextlib.suppress(OSError):
            os.write(self._fd, line.encode("utf-8", "replace")[: _MOST - 1] + b"\n")
            return True
        return False
