# SPDX-License-Identifier: Apache-2.0
"""Text that somebody else wrote, made fit to be shown: it may hold anything."""

from __future__ import annotations

import traceback
from pathlib import Path

from kmind.errors import KmindError

__all__ = ["LINE", "clean", "error_place"]

LINE = 500
"""Characters in which a line is shown, unless its caller says otherwise."""


def clean(text: str, most: int = LINE) -> str:
    """``text`` in one line of at most ``most`` characters, each of them printable."""
    line = "".join(char if char.isprintable() else " " for char in text[: most + 1])
    return line[: most - 1] + "…" if len(line) > most else line


def error_place(error: Exception) -> str:
    """An error in a line: what a KmindError says, or of another one what it is and where."""
    if isinstance(error, KmindError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{error!r} in {Path(last.filename).name}:{last.lineno}"
