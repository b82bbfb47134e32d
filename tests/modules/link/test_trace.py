# SPDX-License-Identifier: Apache-2.0
"""Files of traces: read as they are, or refused with the number of the line."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmind.modules.link.trace import TraceError, read_course, read_deliveries

MS = 1_000_000


def written(folder: Path, data: bytes | str) -> Path:
    path = folder / "trace"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_deliveries_are_read_as_mahimahi_writes_them(tmp_path: Path) -> None:
    times = read_deliveries(written(tmp_path, "0\n0\n5\n12\n"))
    assert (times / MS).tolist() == [0, 0, 5, 12]
    assert read_deliveries(written(tmp_path, "7\r\n9")).tolist() == [7 * MS, 9 * MS]


@pytest.mark.parametrize(
    ("data", "line", "why"),
    [
        ("", 0, "last time"),
        ("0\n0\n", 2, "last time"),
        ("1\n\n2\n", 2, "no time"),
        ("1\n2\n1\n", 3, "before the line above"),
        ("1\n-2\n", 2, "no time"),
        ("1\n1.5\n", 2, "no time"),
        ("1\n2 3\n", 2, "no time"),
        ("1\n99999999999999999999\n", 2, "no time"),
        ("1\n\xb2\n", 2, "no time"),
        (b"1\n\xff\x00\x1b[31m\n", 2, "no time"),
        ("1\n" + "9" * 100_000 + "\n", 2, "no time"),
    ],
)
def test_a_malformed_trace_is_named_by_its_line(
    tmp_path: Path, data: bytes | str, line: int, why: str
) -> None:
    with pytest.raises(TraceError, match=why) as caught:
        read_deliveries(written(tmp_path, data))
    said = str(caught.value)
    assert f"trace:{line}: " in said
    assert said.isprintable()
    assert len(said) < len(str(tmp_path)) + 150


def test_a_course_is_read_by_its_columns(tmp_path: Path) -> None:
    text = "time_ms, delay_ms,loss\n0,10,0\n250.5,20.5,0.25\n"
    assert read_course(written(tmp_path, text)) == [
        (0, {"delay_ms": 10, "loss": 0}),
        (250_500_000, {"delay_ms": 20.5, "loss": 0.25}),
    ]


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("", 1, "no conditions"),
        ("time_ms,loss\n", 1, "no conditions"),
        ("time_ms\n0\n", 1, "names columns"),
        ("delay_ms,time_ms\n", 1, "names columns"),
        ("time_ms,loss,loss\n0,1,1\n", 1, "once each"),
        ("time_ms,colour\n", 1, "no column is named 'colour'"),
        ("time_ms,loss\n1,0\n", 2, "not 0"),
        ("time_ms,loss\n0,0\n0,0\n", 3, "not after"),
        ("time_ms,loss\n0,0\n5\n", 3, "1 values for 2"),
        ("time_ms,loss\n0,1.5\n", 2, "not from 0 to 1"),
        ("time_ms,loss\n0,nan\n", 2, "not from 0 to 1"),
        ("time_ms,loss\n0,x\n", 2, "no number"),
        ("time_ms,rate_kbit\n0,-1\n", 2, "not from 0"),
        ("time_ms,delay_ms\n0,inf\n", 2, "not from 0"),
    ],
)
def test_a_malformed_course_is_named_by_its_line(
    tmp_path: Path, text: str, line: int, why: str
) -> None:
    with pytest.raises(TraceError, match=why) as caught:
        read_course(written(tmp_path, text))
    assert f"trace:{line}: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for read in (read_deliveries, read_course):
        with pytest.raises(TraceError, match="none: No such file"):
            read(tmp_path / "none")
        with pytest.raises(TraceError, match="Is a directory"):
            read(tmp_path)


@settings(deadline=None)  # it writes to a disk
@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = written(tmp_path_factory.getbasetemp(), data)
    for read in (read_deliveries, read_course):
        said = "nothing"
        try:
            assert len(read(path))
        except TraceError as error:
            said = str(error)
        assert said.isprintable()
