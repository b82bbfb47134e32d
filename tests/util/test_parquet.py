# SPDX-License-Identifier: Apache-2.0
"""A small Parquet file that would take much memory is refused by its footer."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as parquet
import pytest

from kmind.errors import ModelError, RecordingError
from kmind.extension import find_module
from kmind.infer.table import read_table
from kmind.learn.recording import open_recordings
from kmind.testing.recordings import made_windows, write_recording

MODULE = find_module("readahead")
ROWS = 1 << 20


def refuse_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("it was read")

    monkeypatch.setattr(parquet.ParquetFile, "read", read)
    monkeypatch.setattr(parquet.ParquetFile, "read_row_group", read)


@pytest.mark.parametrize("dictionary", [True, False])
def test_a_table_of_little_is_refused_before_it_is_read(
    dictionary: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.parquet"
    table = pa.table({"a": np.zeros(ROWS)})
    with parquet.ParquetWriter(
        path, table.schema, compression="zstd", use_dictionary=dictionary
    ) as writer:
        for _ in range(80):
            writer.write_table(table)
    assert path.stat().st_size < 500_000
    refuse_to_read(monkeypatch)
    with pytest.raises(ModelError, match=r"would take 640 MiB of memory, by its footer; at most"):
        read_table(path)


def test_a_recording_of_little_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = len(MODULE.manifest.features)
    found = write_recording(tmp_path / "one.parquet", MODULE, made_windows(np.zeros((9, features))))
    (path,) = found.paths
    schema = parquet.read_schema(path)
    zeros = np.zeros(4 * ROWS, np.uint64)
    columns = [
        pa.nulls(2 * ROWS, field.type)
        if field.nullable
        else pa.array(zeros.view(field.type.to_pandas_dtype())[: 2 * ROWS])
        for field in schema
    ]
    wide = pa.Table.from_arrays(columns, schema=schema)
    parquet.write_table(wide, path, compression="zstd", row_group_size=len(wide))
    assert path.stat().st_size < 300_000
    refuse_to_read(monkeypatch)
    (bomb,) = open_recordings(path)
    with pytest.raises(RecordingError, match=r"would take \d+ MiB of memory, by its footer"):
        list(bomb.windows())


def test_columns_that_are_none_of_a_recording_are_not_read(tmp_path: Path) -> None:
    features = len(MODULE.manifest.features)
    found = write_recording(tmp_path / "one.parquet", MODULE, made_windows(np.zeros((9, features))))
    (path,) = found.paths
    table = parquet.read_table(path)
    parquet.write_table(table.append_column("text", pa.array(["x" * 1000] * 9)), path)
    (more,) = open_recordings(path)
    ((at, _, _),) = more.windows()
    assert len(at) == 9


def test_one_text_in_many_rows_is_there_once(tmp_path: Path) -> None:
    path = tmp_path / "texts.parquet"
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(ROWS, np.int32)), ["x" * 100_000])
    parquet.write_table(pa.table({"a": np.zeros(ROWS), "text": text}), path, store_schema=False)
    assert path.stat().st_size < 300_000
    column = read_table(path).columns["text"]
    assert len(column) == ROWS
    assert len({id(each) for each in column}) < 100


def test_texts_and_numbers_are_read_as_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "plain.parquet"
    table = pa.table(
        {"a": [1, 2, 3], "b": [1.5, None, 3], "c": ["x", None, "z"], "d": [[1], [], []]}
    )
    parquet.write_table(table, path, row_group_size=2)
    columns = read_table(path).columns
    assert columns["a"].tolist() == [1, 2, 3]
    assert np.isnan(columns["b"][1])
    assert columns["c"].tolist() == ["x", None, "z"]
    assert "d" not in columns


def test_one_long_text_in_a_csv_takes_no_room_in_each_row(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text("a,b\n" + "1,x\n" * 5_000 + "1," + "y" * 50_000 + "\n")
    with pytest.raises(ModelError, match="its longest texts are too long for so many rows"):
        read_table(path)


def test_a_stream_of_little_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recorder died, as it seems: its file is an open stream, with one batch of zeros."""
    features = len(MODULE.manifest.features)
    found = write_recording(tmp_path / "one.parquet", MODULE, made_windows(np.zeros((9, features))))
    schema = parquet.read_schema(found.paths[0])
    path = tmp_path / "two.arrows"
    zeros = np.zeros(2 * ROWS, np.uint64)
    columns = [
        pa.nulls(2 * ROWS, field.type)
        if field.nullable
        else pa.array(zeros.view(field.type.to_pandas_dtype())[: 2 * ROWS])
        for field in schema
    ]
    options = ipc.IpcWriteOptions(compression="zstd")
    with ipc.new_stream(path, schema, options=options) as stream:
        stream.write_batch(pa.RecordBatch.from_arrays([c[:5] for c in columns], schema=schema))
        stream.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    assert path.stat().st_size < 300_000
    (bomb,) = open_recordings(path)
    read = ipc.read_record_batch
    rows = []

    def look(message: object, schema: object) -> object:
        batch = read(message, schema)
        rows.append(len(batch))
        return batch

    monkeypatch.setattr(ipc, "read_record_batch", look)
    with pytest.raises(RecordingError, match=r"would take \d+ MiB of memory, by its own word"):
        list(bomb.windows())
    assert rows == [5]
