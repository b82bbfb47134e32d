# SPDX-License-Identifier: Apache-2.0
"""Metadata of a recording, and of the machine that it was made on."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from learn.replayed import FEATURES, MODULE, made

from kmind.cli.main import main
from kmind.errors import RecordingError
from kmind.extension import find_module
from kmind.learn.meta import Host
from kmind.testing.recordings import made_windows, write_recording

if TYPE_CHECKING:
    pass


def foreign(path: Path) -> None:
    parquet.write_table(pa.table({"x": [1]}), path)


def cut(path: Path) -> None:
    made(path.with_suffix(".whole"))
    whole = path.with_suffix(".whole") / "readahead@vda.windows.000001.parquet"
    path.write_bytes(whole.read_bytes()[:-100])


def no_parquet(path: Path) -> None:
    path.write_text("feature,value\n")


def other_abi(path: Path) -> None:
    write_recording(path, MODULE, made_windows(np.zeros((2, FEATURES))), abi=1)


def other_schema(path: Path) -> None:
    write_recording(path, MODULE, made_windows(np.zeros((2, FEATURES))), schema="kmind.recording/9")


def other_module(path: Path) -> None:
    slowio = find_module("slowio")
    write_recording(path, slowio, made_windows(np.zeros((2, len(slowio.manifest.features)))))


def other_features(path: Path) -> None:
    features = MODULE.manifest.features[1:]
    write_recording(
        path, MODULE, made_windows(np.zeros((2, FEATURES - 1))), features=features, version="0.0.1"
    )


def lacking(path: Path) -> None:
    made(path.with_suffix(".whole"))
    whole = path.with_suffix(".whole") / "readahead@vda.windows.000001.parquet"
    table = parquet.read_table(whole)
    parquet.write_table(table.drop_columns(["faults"]), path)


def no_windows(path: Path) -> None:
    path.mkdir()


def absent(path: Path) -> None:
    pass


BAD: list[tuple[Callable[[Path], None], int, str]] = [
    (foreign, 1, "is not a recording of kmind: its metadata has no key 'kmind'"),
    (cut, 1, "cannot be read: "),
    (no_parquet, 1, "cannot be read: "),
    (other_abi, 1, "was recorded with ABI 1, and this kmind speaks"),
    (other_schema, 1, "has the schema 'kmind.recording/9', and this kmind reads"),
    (other_module, 1, "holds nothing of module readahead; it holds slowio@vda"),
    (other_features, 1, "its features are those of readahead 0.0.1, and version"),
    (lacking, 1, "lacks the column faults, or it is of another type"),
    (no_windows, 1, "nothing was recorded in"),
    (absent, 2, "there is no"),
]


@pytest.mark.parametrize(
    ("make", "code", "message"), BAD, ids=lambda value: getattr(value, "__name__", "")
)
def test_bad_input(
    tmp_path: Path, capfd: Any, make: Callable[[Path], None], code: int, message: str
) -> None:
    path = tmp_path / "bad.parquet"
    with contextlib.suppress(RecordingError):  # which reading it back raises
        make(path)
    capfd.readouterr()
    assert main(["replay", str(path), "readahead"]) == code
    error = capfd.readouterr().err
    assert error.count("\n") == 1, error
    assert message in error
    assert "Traceback" not in error


def test_another_kernel_is_said(tmp_path: Path, capfd: Any) -> None:
    host = Host(kernel="6.99.1", machine="x", cpus=1, memory_bytes=1)
    made(tmp_path / "out", host=host)
    assert main(["replay", str(tmp_path / "out"), "readahead", "--json"]) == 0
    shown = capfd.readouterr()
    assert "recorded on kernel 6.99.1; this is" in shown.err
    assert json.loads(shown.out)["recorded_kernel"] == "6.99.1"
