# SPDX-License-Identifier: Apache-2.0
"""Bound the memory that a Parquet file takes once it is read, from its footer alone.

A file of 100 kB can hold gigabytes: compressed zeros, or one number and how often it stands there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kmind.errors import KmindError

__all__ = ["FOOTER_LIMITS", "flat_columns", "refuse_large"]

FOOTER_LIMITS = {"thrift_string_size_limit": 16 << 20, "thrift_container_size_limit": 1 << 17}
"""Arguments for pyarrow's readers: a footer too is foreign."""

_WIDTHS = {"BOOLEAN": 1, "INT32": 8, "INT64": 8, "INT96": 12, "FLOAT": 8, "DOUBLE": 8}
_TEXT = 16  # of a reference to a text, and to a text of a dictionary


def flat_columns(metadata: Any) -> dict[str, str]:
    """Name to physical type of the columns with one value a row; nested ones are left out."""
    columns = [metadata.schema.column(index) for index in range(metadata.num_columns)]
    return {
        column.path: column.physical_type
        for column in columns
        if column.max_repetition_level == 0 and "." not in column.path
    }


def refuse_large(
    metadata: Any, groups: Iterable[int], *, most: int, wrong: type[KmindError], what: object
) -> None:
    """Raise ``wrong`` if these row groups, read together, take more than ``most`` bytes.

    That is the larger of two numbers of the footer: the bytes of the pages, decompressed, and
    those of the values, decoded. Texts have to be read as a dictionary.
    """
    pages = values = 0
    for number in groups:
        group = metadata.row_group(number)
        for index in range(group.num_columns):
            column = group.column(index)
            count = max(column.num_values, group.num_rows)
            sizes = column.total_uncompressed_size, column.total_compressed_size, group.num_rows
            if min(*sizes, column.num_values) < 0:
                raise wrong(f"{what} is damaged: its footer has sizes below zero")
            pages += max(column.total_uncompressed_size, column.total_compressed_size)
            values += count * _width(metadata.schema.column(index))
    if max(pages, values) > most:
        raise wrong(
            f"{what} would take {max(pages, values) >> 20} MiB of memory, by its footer",
            hint=f"at most {most >> 20} MiB are read: leave out columns, or rows",
        )


def _width(column: Any) -> int:
    if column.physical_type == "FIXED_LEN_BYTE_ARRAY":
        return max(int(column.length), _TEXT)
    return _WIDTHS.get(column.physical_type, _TEXT)
