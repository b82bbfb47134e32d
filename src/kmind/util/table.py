# SPDX-License-Identifier: Apache-2.0
"""Rows of words in columns, as wide as the terminal; without limit where a program reads them.

rich makes such tables too, but takes 70 ms to import, more than a command has to list instances.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from textwrap import wrap

__all__ = ["table", "terminal_width"]

_GAP = 2
_LAST_COLUMN = 24
_COLUMN = 8


def terminal_width() -> int:
    """Columns of the terminal that stdout is; 0 if it is none."""
    if not sys.stdout.isatty():
        return 0
    from shutil import get_terminal_size  # only here: it imports three compressors

    return get_terminal_size().columns


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    width: int | None = None,
    cut: bool = False,
) -> str:
    """Lines, each ending in a newline, with two blanks between the columns.

    ``width`` is ``terminal_width()`` by default, and 0 is no limit. Cells that do not fit are
    folded: those of the last column first, as it has the longest text, then the widest ones. With
    ``cut`` each row is one line, and "…" stands for the rest.
    """
    cells = [[" ".join(str(cell).split()) for cell in row] for row in (head, *rows)]
    columns = list(zip(*cells, strict=True))
    widths = _fit(columns, terminal_width() if width is None else width)
    lines = [line for row in cells for line in _folded(row, widths, cut)]
    return "".join(line.rstrip() + "\n" for line in lines)


def _fit(columns: Sequence[Sequence[str]], width: int) -> list[int]:
    widths = [max(map(len, column)) for column in columns]
    over = sum(widths) + _GAP * (len(widths) - 1) - width
    if width == 0 or over <= 0:
        return widths
    words = [max(len(word) for cell in column for word in cell.split(" ")) for column in columns]
    last = [*[max(widths)] * (len(widths) - 1), _LAST_COLUMN]
    # First between words, and only then inside of them.
    for least in (list(map(max, words, last)), words, [_COLUMN] * len(widths)):
        for _ in range(over):
            room = [have - keep for have, keep in zip(widths, least, strict=True)]
            wide = [n for n, left in enumerate(room) if left > 0]
            if not wide:
                break
            widths[max(wide, key=widths.__getitem__)] -= 1
            over -= 1
    return widths


def _folded(row: Sequence[str], widths: Sequence[int], cut: bool) -> list[str]:
    folded = [
        wrap(cell, max(1, width), break_on_hyphens=False)
        for cell, width in zip(row, widths, strict=True)
    ]
    if cut:
        folded = [
            [f"{lines[0][: width - 1]}…"] if len(lines) > 1 else lines
            for lines, width in zip(folded, widths, strict=True)
        ]
    height = max(map(len, folded), default=0)
    return [
        (" " * _GAP).join(
            (cell[line] if line < len(cell) else "").ljust(width)
            for cell, width in zip(folded, widths, strict=True)
        )
        for line in range(height)
    ]
