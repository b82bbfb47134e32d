# SPDX-License-Identifier: Apache-2.0
"""Tables to calibrate with, from files: CSV with a line of names, or Parquet (needs pyarrow)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kmind.errors import ModelError
from kmind.infer._lazy import need

__all__ = ["Table", "read_table"]


@dataclass(frozen=True)
class Table:
    """Columns by name, all of one length, as they stand in the file: text, or numbers."""

    columns: dict[str, np.ndarray[Any, Any]]

    def features(self, names: tuple[str, ...]) -> np.ndarray[Any, Any]:
        """Return these columns as numbers ``[n, F]``."""
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise ModelError(f"the table lacks the column {missing[0]!r}")
        try:
            return np.stack([self.columns[name].astype(np.float64) for name in names], axis=1)
        except ValueError as error:
            raise ModelError(f"the table holds what is no number: {error}") from None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))


def read_table(path: str | Path) -> Table:
    """Read a CSV or Parquet file, told apart by what it holds."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            parquet = file.read(4) == b"PAR1"
        table = _parquet(path) if parquet else _csv(path)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from None
    if not len(table):
        raise ModelError(f"{path}: there are no rows")
    return table


def _csv(path: Path) -> Table:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file, strict=True)
            names = next(rows, [])
            if len(set(names)) != len(names):
                raise ModelError(f"{path}: two columns have the same name")
            columns: list[list[str]] = [[] for _ in names]
            for row in rows:
                if len(row) != len(names):
                    raise ModelError(
                        f"{path}: line {rows.line_num} has {len(row)} fields, not {len(names)}"
                    )
                for column, word in zip(columns, row, strict=True):
                    column.append(word)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: neither CSV nor Parquet: {error}") from None
    return Table({name: np.array(column) for name, column in zip(names, columns, strict=True)})


def _parquet(path: Path) -> Table:
    reader = need("pyarrow.parquet", "learn")
    try:
        table = reader.read_table(path)
        return Table({name: table[name].to_numpy() for name in table.column_names})
    except (ValueError, TypeError, NotImplementedError) as error:
        what = str(error).splitlines()[0]
        raise ModelError(f"{path}: a damaged Parquet file: {what}") from None
