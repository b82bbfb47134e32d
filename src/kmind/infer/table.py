# SPDX-License-Identifier: Apache-2.0
"""Tables to calibrate with, from files: CSV with a line of names, or Parquet (needs pyarrow).

CSV as spreadsheets write it: UTF-8 or UTF-16 with a byte order mark, fields parted by commas,
semicolons, tabs or bars, and with semicolons decimal commas.
"""

from __future__ import annotations

import codecs
import csv
import io
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kmind.errors import ModelError
from kmind.infer.lazy import need
from kmind.util.foreign import foreign
from kmind.util.parquet import FOOTER_LIMITS, flat_columns, refuse_large

__all__ = ["Table", "read_table"]

_MOST = 512 << 20  # bytes of memory


@dataclass(frozen=True)
class Table:
    """Columns by name, all of one length, as they stand in the file: text, or numbers."""

    columns: dict[str, np.ndarray[Any, Any]]

    def features(self, names: Sequence[str]) -> np.ndarray[Any, Any]:
        """Return these columns as numbers ``[n, F]``."""
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise ModelError(
                f"the table lacks the column {missing[0]!r}",
                hint=f"its columns are: {', '.join(self.columns)}",
            )
        try:
            return np.stack([self.columns[name].astype(np.float64) for name in names], axis=1)
        except ValueError as error:
            raise ModelError(f"the table has a value that is not a number: {error}") from None

    def match(self, names: Sequence[str], given: Mapping[str, str]) -> tuple[str, ...]:
        """Return the column of each of a model's features.

        ``given`` says it of some. Others have the feature's name, or one that differs from it
        only in what libraries replace: first blanks, then all that is no letter or digit. A
        feature that fits no column, or several, is a ModelError.
        """
        taken = set(given.values()) | (set(names) & set(self.columns))
        free = [column for column in self.columns if column not in taken]
        return tuple(
            given.get(name) or (name if name in self.columns else _alike(name, names, free))
            for name in names
        )

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))


def read_table(path: str | Path) -> Table:
    """Read a CSV or Parquet file, told apart by what it holds.

    Raises ModelError for what is neither, and for what would take more than 512 MiB of memory.
    """
    path = Path(path)
    with foreign(lambda why: ModelError(f"{path}: {why}")):
        # A pipe or a device would be opened for ever, or read for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelError(f"{path}: not a regular file")
        with path.open("rb") as file:
            parquet = file.read(4) == b"PAR1"
        table = _parquet(path) if parquet else _csv(path)
    if not len(table):
        raise ModelError(f"{path}: there are no rows")
    return table


def _alike(name: str, names: Sequence[str], columns: Sequence[str]) -> str:
    found: list[str] = []
    for plain in (_blanks, _letters):
        fitting = [column for column in columns if plain(column) == plain(name)]
        if len(fitting) == 1 and sum(plain(other) == plain(name) for other in names) == 1:
            return fitting[0]
        found = fitting
    doubt = f", or it may be any of these: {', '.join(found)}" if found else ""
    raise ModelError(
        f"the table lacks the column {name!r}{doubt}",
        hint=f"its columns are: {', '.join(columns)}; say --names '{name}=COLUMN'",
    )


def _blanks(name: str) -> str:
    # As LightGBM replaces them.
    return "".join("_" if letter.isspace() else letter for letter in name)


def _letters(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def _csv(path: Path) -> Table:
    try:
        if path.stat().st_size > _MOST // 8:
            raise ModelError(
                f"{path}: larger than {_MOST >> 23} MiB", hint="a sample of the rows is enough"
            )
        text = _decoded(path.read_bytes())
        first, _, rest = text.partition("\n")
        if first.startswith("sep=") and len(first.strip()) == 5:
            separator, text = first[4], rest  # Excel's own line
        else:
            separator = _separator(text)
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        names = [name.strip() for name in next(rows, [])]
        if len(set(names)) != len(names):
            raise ModelError(f"{path}: two columns have the same name")
        columns: list[list[str]] = [[] for _ in names]
        for row in _filled(rows):
            if len(row) != len(names):
                raise ModelError(
                    f"{path}: line {rows.line_num} has {len(row)} fields, not {len(names)}"
                )
            for column, word in zip(columns, row, strict=True):
                column.append(word.strip())
    except (csv.Error, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: neither CSV nor Parquet: {error}") from None
    if separator == ";":
        columns = [_points(column) for column in columns]
    # numpy gives each text of a column the room of the longest.
    wide = sum(len(column) * max(map(len, column), default=0) * 4 for column in columns)
    if wide > _MOST:
        raise ModelError(f"{path}: its longest texts are too long for so many rows")
    return Table({name: np.array(column) for name, column in zip(names, columns, strict=True)})


def _filled(rows: Iterable[list[str]]) -> Iterator[list[str]]:
    # Empty lines are passed over where nothing comes after them.
    empty: list[list[str]] = []
    for row in rows:
        if row:
            yield from empty
            empty = []
            yield row
        else:
            empty.append(row)


def _decoded(data: bytes) -> str:
    for mark, name in ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if data.startswith(mark):
            return data.decode(name)
    return data.decode("utf-8-sig")


def _separator(text: str) -> str:
    # The one that parts the names, outside of quotes, into most; a comma where none does.
    best, most = ",", 1
    for separator in ",;\t|":
        names = next(csv.reader(io.StringIO(text[: 1 << 16]), delimiter=separator), [])
        if len(names) > most:
            best, most = separator, len(names)
    return best


def _points(column: list[str]) -> list[str]:
    """Return a column of numbers with decimal commas with points; any other as it is."""
    points = [word.replace(",", ".") for word in column]
    try:
        for word in points:
            float(word)
    except ValueError:
        return column
    return points


def _parquet(path: Path) -> Table:
    reader = need("pyarrow.parquet", "learn")
    with foreign(lambda why: ModelError(f"{path}: a damaged Parquet file: {why}")):
        with reader.ParquetFile(path, **FOOTER_LIMITS) as file:
            columns = flat_columns(file.metadata)
        texts = [name for name, kind in columns.items() if kind == "BYTE_ARRAY"]
        with reader.ParquetFile(path, read_dictionary=texts, **FOOTER_LIMITS) as file:
            groups = range(file.metadata.num_row_groups)
            refuse_large(file.metadata, groups, most=_MOST, wrong=ModelError, what=path)
            table = file.read(columns=list(columns))
        return Table({name: _plain(table[name], name in texts) for name in table.column_names})


def _plain(column: Any, is_text: bool) -> np.ndarray[Any, Any]:
    if not is_text:
        return np.asarray(column.to_numpy())
    parts = [np.empty(0, object)]
    for chunk in column.chunks:  # each text is there once, however often it is meant
        known = np.array([*chunk.dictionary.to_pylist(), None], object)
        parts.append(known[chunk.indices.fill_null(len(known) - 1).to_numpy()])
    return np.concatenate(parts)
