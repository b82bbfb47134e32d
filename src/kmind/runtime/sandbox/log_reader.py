# SPDX-License-Identifier: Apache-2.0
"""Lines that an extension prints: cut, cleaned, and no more of them than a rate allows."""

from __future__ import annotations

from collections.abc import Callable

from kmind.runtime.sandbox.framing import MARK
from kmind.util.ratelimit import Bucket
from kmind.util.text import LINE, clean

__all__ = ["LineReader"]


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
        if len(self._rest) > 4 * LINE:
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
            room = room and self._bucket.allow()
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
