# SPDX-License-Identifier: Apache-2.0
"""Write commands' output: JSON lines or text on stdout, without waiting for a slow reader."""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Mapping
from typing import Any, TextIO

__all__ = ["Lines", "is_live", "json_line", "plain", "warn", "write"]

# Control characters of both kinds, and those that turn the direction of what follows: a terminal
# does as they say. Whatever is shown may come from an extension, a server, or another user.
_CONTROLS = (
    *range(0x20), *range(0x7F, 0xA0), *range(0x2028, 0x202F), *range(0x2066, 0x206A),
)  # fmt: skip
_BLANKS = dict.fromkeys(set(_CONTROLS) - {ord("\n"), ord("\t")}, " ")


def plain(text: str) -> str:
    """``text`` with a blank for each character that a terminal obeys; lines stay lines."""
    return text.translate(_BLANKS)


def write(text: str) -> None:
    """Write to stdout, as plain text."""
    sys.stdout.write(plain(text))


def warn(text: str) -> None:
    """Write to stderr, as plain text."""
    sys.stderr.write(plain(text))


def is_live(out: TextIO) -> bool:
    """True if colour and animation are welcome on ``out``."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    return out.isatty() and not plain


def json_line(schema: str, fields: Mapping[str, Any]) -> str:
    """One JSON object on one line, its schema first."""
    return json.dumps({"schema": schema, **fields}, allow_nan=False, default=str)


class Lines:
    """Writes lines and never blocks: what a reader does not take is dropped.

    Changes to the kernel are timed, so a pager that waits for a key must not hold up
    the one who undoes them. ``lost`` counts lines dropped; ``broken`` is set once the
    reader is gone.
    """

    def __init__(self, out: TextIO) -> None:
        self.lost = 0
        self.broken = False
        self._fd = out.fileno()
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLOUT)
        out.flush()

    def write(self, line: str) -> bool:
        """Write one line; whether it went out."""
        if self.broken:
            return False
        data = plain(line).encode("utf-8", "replace") + b"\n"
        try:
            while data:
                # A pipe that polls as writable takes PIPE_BUF bytes at once.
                if not self._poll.poll(0):
                    self.lost += 1
                    return False
                data = data[os.write(self._fd, data[: select.PIPE_BUF]) :]
        except OSError:
            self.broken = True
            # Nothing may be flushed there any more, at the interpreter's end either.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._fd)
            os.close(null)
        return not self.broken
