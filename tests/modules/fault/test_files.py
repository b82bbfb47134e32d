# SPDX-License-Identifier: Apache-2.0
"""Files with latencies: read as they are meant, or refused in one line that says where."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmind.errors import KmindError
from kmind.modules.fault.files import read_sample, read_schedule


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "latencies"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_sample_is_in_microseconds(tmp_path: Path) -> None:
    path = written(tmp_path, "# of my disk\n100\n\n 250.5  # slow\n0\n")
    assert read_sample(path).tolist() == [100_000, 250_500, 0]


def test_a_schedule_has_seconds_and_microseconds(tmp_path: Path) -> None:
    at, latency = read_schedule(written(tmp_path, "0 100\n2.5 5000\n10 0\n"))
    assert at.tolist() == [0, 2_500_000_000, 10_000_000_000]
    assert latency.tolist() == [100_000, 5_000_000, 0]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "has no latency"),
        ("# nothing\n", "has no latency"),
        ("1\nfast\n", r"line 2 has 'fast', no number"),
        ("1\n2 3\n", "line 2 has 2 numbers"),
        ("-1\n", "line 1 has a latency of -1 us"),
        ("nan\n", "line 1 has a latency of nan us"),
        ("1e300\n", "line 1 has a latency of 1e300 us"),
        (b"\xff\x00\x1b[31m\n", "line 1 has '"),
    ],
)
def test_a_sample_that_is_none_is_refused_in_a_line(
    text: str | bytes, where: str, tmp_path: Path
) -> None:
    with pytest.raises(KmindError, match=where) as caught:
        read_sample(written(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("1\n", "line 1 has 1 numbers, not two"),
        ("0 1\n0 2\n", "line 2 is not later"),
        ("5 1\n4 2\n", "line 2 is not later"),
        ("-1 5\n", "line 1 begins at -1 s"),
        ("inf 5\n", "line 1 begins at inf s"),
        ("0 inf\n", "line 1 has a latency of inf us"),
    ],
)
def test_a_schedule_that_is_none_is_refused_in_a_line(
    text: str, where: str, tmp_path: Path
) -> None:
    with pytest.raises(KmindError, match=where):
        read_schedule(written(tmp_path, text))


@given(data=st.binary(max_size=200))
def test_no_bytes_raise_anything_else(
    data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = written(tmp_path_factory.getbasetemp(), data)
    for read in (read_sample, read_schedule):
        with contextlib.suppress(KmindError):
            read(path)


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    for read in (read_sample, read_schedule):
        with pytest.raises(KmindError, match="nowhere"):
            read(tmp_path / "nowhere")
    with pytest.raises(KmindError, match="Is a directory"):
        read_sample(tmp_path)
