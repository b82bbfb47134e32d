# SPDX-License-Identifier: Apache-2.0
"""Reading recordings: one file, or a folder of them, whether its recorder lived to close it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from kmind.errors import RecordingError, UsageError
from kmind.learn._arrow import ipc, pa, parquet
from kmind.learn._part import CLOSED, OPEN
from kmind.learn._stream import MOST, batches_of_stream
from kmind.learn._tables import rows_from_columns
from kmind.learn.meta import Meta, Stream, decode_meta
from kmind.learn.schema import make_schema, missing_columns, records_from, windows_from
from kmind.util.foreign import foreign
from kmind.util.parquet import FOOTER_LIMITS, refuse_large

__all__ = ["OUTCOME", "PHASES", "Recording", "decode_records", "open_recordings"]

OUTCOME = "outcome.csv"
"""A file beside a recording: what the load itself counted, in lines ``start_ns,end_ns,per_s``."""

PHASES = "phases.csv"
"""Another: which of several loads ran when, in lines ``start_ns,end_ns,name``."""

_Array = npt.NDArray[Any]
_T = TypeVar("_T")


@dataclass(frozen=True)
class _File:
    path: Path
    meta: Meta

    @property
    def is_closed(self) -> bool:
        return self.path.suffix == CLOSED


class Recording:
    """Recording of one instance. Reading is lazy; nothing is kept in memory.

    ``meta`` is that of the last file, whose ``counts`` cover the whole.
    """

    def __init__(self, files: Sequence[_File]) -> None:
        self._files = sorted(
            files, key=lambda file: (file.meta.stream, file.meta.table, file.meta.part)
        )
        self.meta = max(
            files, key=lambda file: (file.meta.stream == "windows", file.meta.part)
        ).meta
        for file in self._files:
            if file.meta.features != self.meta.features:
                raise RecordingError(f"{file.path} has other features than the files beside it")
            if file.meta.tables != self.meta.tables:
                raise RecordingError(f"{file.path} has other tables than the files beside it")

    @property
    def paths(self) -> list[Path]:
        """Its files."""
        return [file.path for file in self._files]

    @property
    def cut(self) -> list[Path]:
        """Those that were never closed: the recorder died, or records still."""
        return [file.path for file in self._files if not file.is_closed]

    def windows(self) -> Iterator[tuple[_Array, _Array, _Array]]:
        """Batches of windows: their numbers, ``layout.WINDOW``, and the knobs as they stood.

        Shapes are (n,), (n,) and (n, knobs). Knobs come in the order of
        ``meta.knobs``; ``KNOB_UNKNOWN`` where one changed.
        """
        for meta, table in self._tables("windows"):
            yield windows_from(table, meta)

    def records(self) -> Iterator[tuple[_Array, _Array]]:
        """Batches of records: the number of the window that followed each, ``layout.RECORD``."""
        for _, table in self._tables("records"):
            yield records_from(table)

    def tables(self, name: str) -> Iterator[_Array]:
        """Batches of a table's changed rows: ``at``, ``place`` and ``row``, shape (n,) each."""
        for file in self._files:
            if file.meta.table != name:
                continue
            with foreign(partial(_damaged, file.path)):
                for table in _read(file):
                    yield rows_from_columns(file.meta.table_part, table)

    def outcome(self) -> _Array | None:
        """Return the load's own count: begin and end in ns, and the rate between, shape (n, 3).

        None without a file ``OUTCOME`` in the recording's folder. Raises RecordingError for one
        that cannot be read.
        """
        return self._beside(OUTCOME, _outcome_from)

    def phases(self) -> list[tuple[int, int, str]]:
        """Return the loads by time: begin and end in ns, and the load's name, in order of time.

        Nothing without a file ``PHASES`` in the recording's folder. Raises RecordingError for
        one that cannot be read.
        """
        return self._beside(PHASES, _phases_from) or []

    def _beside(self, name: str, parsed: Callable[[str], _T]) -> _T | None:
        path = self._files[0].path.with_name(name)
        if not path.exists():
            return None
        with foreign(partial(_damaged, path)):
            return parsed(path.read_text())

    def _tables(self, stream: Stream) -> Iterator[tuple[Meta, Any]]:
        for file in self._files:
            if file.meta.stream != stream:
                continue
            with foreign(partial(_damaged, file.path)):
                for table in _read(file):
                    yield file.meta, table


def _outcome_from(text: str) -> _Array:
    if not text.partition("\n")[2].strip():
        return np.empty((0, 3))
    rows = np.loadtxt(io.StringIO(text), np.float64, delimiter=",", skiprows=1, ndmin=2)
    if rows.shape[1:] != (3,) and len(rows):
        raise ValueError("it has not three columns")
    return rows.reshape(-1, 3)


def _phases_from(text: str) -> list[tuple[int, int, str]]:
    cells = [line.split(",") for line in text.splitlines()[1:] if line.strip()]
    return sorted((int(begin), int(end), name.strip()) for begin, end, name in cells)


def open_recordings(path: Path) -> list[Recording]:
    """Everything that was recorded there, an entry for each instance, by name.

    Raises RecordingError, in one line, for what is damaged, foreign or of another ABI.
    """
    if not path.exists():
        raise UsageError(f"there is no {path}", hint="name a file or a folder of kmind record")
    paths = [path]
    if path.is_dir():
        paths = sorted(entry for entry in path.iterdir() if entry.suffix in (CLOSED, OPEN))
        # One that was closed, but whose recorder died before it removed the stream.
        paths = [p for p in paths if p.suffix == CLOSED or p.with_suffix(CLOSED) not in paths]
    files = [_File(entry, meta) for entry in paths if (meta := _meta(entry)) is not None]
    if not files:
        raise RecordingError(f"nothing was recorded in {path}")
    names = sorted({file.meta.instance for file in files})
    return [Recording([f for f in files if f.meta.instance == name]) for name in names]


def decode_records(meta: Meta, records: _Array) -> dict[str, dict[str, _Array]]:
    """The fields of the module's own kinds: kind's name to field's name to column.

    ``records`` are ``layout.RECORD``. Beside the declared fields each kind has ``time_ns``
    and ``cpu``.
    """
    from kmind.abi import layout

    found: dict[str, dict[str, _Array]] = {}
    for kind in meta.kinds:
        of_kind = records[records["kind"] == layout.KIND["MODULE"] + kind.kind]
        columns: dict[str, _Array] = {"time_ns": of_kind["time_ns"], "cpu": of_kind["cpu"]}
        for field in kind.fields:
            word = of_kind[field.of].astype(np.uint64) >> np.uint64(field.shift)
            if field.width < 64:
                word = word & np.uint64((1 << field.width) - 1)
            if field.signed:
                left = np.uint64(64 - field.width)
                word = (word << left).view(np.int64) >> left.astype(np.int64)
            columns[field.name] = word
        found[kind.name] = columns
    return found


def _meta(path: Path) -> Meta | None:
    # None for a stream whose recorder died before it had written the schema.
    if path.is_dir():
        raise RecordingError(f"{path} is a folder")
    with foreign(partial(_damaged, path)):
        if path.suffix == OPEN:
            try:
                with pa.OSFile(str(path)) as file, ipc.open_stream(file) as reader:
                    schema = reader.schema
            except pa.ArrowInvalid:
                return None
        else:
            schema = parquet.read_schema(path)
        meta = decode_meta(schema.metadata, path)
        missing = list(missing_columns(schema, meta))
    if missing:
        raise RecordingError(f"{path} lacks the column {missing[0]}, or it is of another type")
    return meta


def _read(file: _File) -> Iterator[Any]:
    if file.is_closed:
        wanted = make_schema(file.meta).names  # others are none of ours
        with parquet.ParquetFile(
            file.path, page_checksum_verification=True, **FOOTER_LIMITS
        ) as whole:
            for group in range(whole.num_row_groups):
                refuse_large(
                    whole.metadata, [group], most=MOST, wrong=RecordingError, what=file.path
                )
                yield whole.read_row_group(group, columns=wanted)
        return
    batches = list(batches_of_stream(file.path))
    if batches:
        yield pa.Table.from_batches(batches)


def _damaged(path: Path, why: str) -> RecordingError:
    return RecordingError(
        f"{path} cannot be read: {why}", hint="it was cut short, changed, or is not a recording"
    )
