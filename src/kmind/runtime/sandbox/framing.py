# SPDX-License-Identifier: Apache-2.0
"""Long texts among the lines that an extension prints: cut into parts, and put together.

A part is a line that begins with MARK: its number, how many there are, and a piece of
the text, which is in ASCII without control characters.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["MARK", "Parts", "send_note", "send_parts"]

MARK = b"\x1e"
"""First byte of a part, and of no readable log line: ASCII's record separator."""

_PIECE = 1400  # bytes; the reader cuts lines from 2,000 on


class _Output(Protocol):
    def write(self, text: str, /) -> int: ...
    def end_line(self) -> None: ...


def send_parts(text: bytes, output: _Output) -> None:
    """Print a text in parts. Where the pipe has no room for one, the reader drops them all."""
    output.end_line()
    pieces = [text[at : at + _PIECE] for at in range(0, len(text), _PIECE)]
    for number, piece in enumerate(pieces):
        output.write(f"{MARK.decode()}{number} {len(pieces)} {piece.decode('ascii')}\n")


def send_note(output: _Output, kind: str, text: bytes) -> None:
    """Print a text in parts, as a note of that kind: its name comes first."""
    send_parts(kind.encode() + b" " + text, output)


class Parts:
    """Puts texts of at most ``most`` bytes together again, whatever comes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._text = bytearray()
        self._next = 0

    def add(self, line: bytes) -> bytes | None:
        """Take a part; the text, if it is the last. ValueError if it does not fit.

        What there was of a text that it does not go on with is forgotten.
        """
        words = line[len(MARK) :].split(b" ", 2)
        number, count = (_number(word) for word in (*words, b"", b"")[:2])
        at, self._next = self._next, 0
        if number == 0:
            self._text.clear()
        if len(words) < 3 or number not in (0, at) or not number < count:
            self._text.clear()
            raise ValueError("parts of it are lost")
        self._text += words[2]
        if len(self._text) > self._most:
            self._text.clear()
            raise ValueError(f"it has more than {self._most} bytes")
        if number + 1 < count:
            self._next = number + 1
            return None
        text = bytes(self._text)
        self._text.clear()
        return text


def _number(word: bytes) -> int:
    return int(word) if word.isdigit() and len(word) < 6 else -1
