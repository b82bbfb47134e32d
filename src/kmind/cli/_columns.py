# SPDX-License-Identifier: Apache-2.0
"""Rows of words in columns, for text that a script may cut as well."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["columns"]


def columns(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lines, each ending in a newline, with two blanks or more between the columns."""
    table = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "".join("  ".join(map(str.ljust, row, widths)).rstrip() + "\n" for row in table)
