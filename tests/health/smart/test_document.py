# SPDX-License-Identifier: Apache-2.0
"""Hostile files: each is one clear line, and no field is believed for its name."""

import os
import resource
import time
from pathlib import Path

import pytest
from health.smart.samples import ata, encoded

from kmind.errors import KmindError
from kmind.health.smart.document import MOST_BYTES, SmartError, count, parse, read_file
from kmind.health.smart.record import read_record

WHOLE = encoded(ata())

BAD = {
    "empty": (b"", "is empty"),
    "blanks": (b" \n", "is empty"),
    "cut off": (WHOLE[:700], "is not JSON, or is cut off"),
    "text": (b"smartctl 7.3 2022-02-28\n", "is not JSON"),
    "binary": (bytes(range(256)), "is not JSON"),
    "UTF-16": ("{}".encode("utf-16"), "is not JSON"),
    "NaN": (b'{"smartctl": {}, "x": NaN}', "NaN is no number of JSON"),
    "infinite": (b'{"smartctl": {}, "x": -Infinity}', "-Infinity is no number of JSON"),
    "digits": (b'{"smartctl": ' + b"9" * 5000 + b"}", "is not JSON"),
    "list": (b"[1, 2]", "is a JSON list"),
    "number": (b"7", "is a JSON int"),
    "null": (b"null", "is a JSON NoneType"),
    "two": (WHOLE + WHOLE, "is not JSON"),
    "deep lists": (b'{"smartctl": ' + b"[" * 500_000, "is nested too deeply"),
    "deep objects": (b'{"smartctl":' * 200_000, "is nested too deeply"),
    "other JSON": (b'{"blockdevices": []}', "not the output of smartctl"),
    "no disk": (b'{"smartctl": {"version": [7, 3]}}', "tells of no disk"),
    "no disk, and why": (
        b'{"smartctl": {"messages": [{"string": "UNRECOGNIZED\\nOPTION"}]}}',
        "tells of no disk: UNRECOGNIZED OPTION",
    ),
    "old": (b'{"smartctl": {"version": [6, 6]}, "device": {"name": "/dev/sda"}}', "smartctl 6.6"),
    "later": (b'{"smartctl": {"version": [9, 0]}, "json_format_version": [2, 0]}', "later format"),
    "too long": (b" " * (MOST_BYTES + 1), "more than 4 MiB"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_output_is_one_line(name: str) -> None:
    data, says = BAD[name]
    with pytest.raises(KmindError) as error:
        read_record(data)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_worst_output_of_the_allowed_length_is_bounded() -> None:
    """The most objects that fit; the interpreter makes some 20 bytes of each byte."""
    data = b'{"smartctl":{"exit_status":0},"device":{"name":"x"},"x":['
    data += b"{},[]," * ((MOST_BYTES - len(data) - 3) // 6) + b"0]}"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    read_record(data)
    assert time.process_time() - start < 10
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 400_000  # KB


def test_only_regular_files_of_bounded_length_are_read(tmp_path: Path) -> None:
    pipe, large, none = tmp_path / "pipe", tmp_path / "large", tmp_path / "none"
    os.mkfifo(pipe)
    large.touch()
    os.truncate(large, 100 << 20)
    for path, says in (
        (pipe, "is not a regular file"),
        (tmp_path, "is not a regular file"),
        (Path("/dev/zero"), "is not a regular file"),
        (large, "more than 4 MiB"),
        (none, "cannot be opened: No such file"),
        (tmp_path / "nul\0", "cannot be opened"),
    ):
        with pytest.raises(SmartError, match=says):
            read_file(path)


def test_names_that_are_no_utf8_are_read() -> None:
    record = read_record(WHOLE.replace(b"WDC WD40EFRX", b"WDC \xff\xfe\\u0000"))
    assert record.model == "WDC ��"


def test_byte_order_mark_is_no_error() -> None:
    assert parse(b"\xef\xbb\xbf" + WHOLE)["serial_number"] == "WD-1"


@pytest.mark.parametrize(
    ("holder", "is_read_as"),
    [
        ({"n": 7}, 7),
        ({"n": 7.0}, 7),
        ({"n": 7.5}, None),
        ({"n": True}, None),
        ({"n": "7"}, None),
        ({"n": -1}, None),
        ({"n": 1e300}, None),
        ({"n": [7]}, None),
        ({}, None),
        # Digits count where a reader of JSON may have rounded, and only there.
        ({"n": 18446744073709552000, "n_s": "18446744073709551615"}, 2**64 - 1),
        ({"n": 3.402823669209385e38, "n_s": str(2**128 - 1)}, 2**128 - 1),
        ({"n": 7, "n_s": "8"}, 7),
        ({"n_s": "9007199254740993"}, 2**53 + 1),
        ({"n": 2**53, "n_s": "9" * 40}, 2**53),
        ({"n_s": "٣"}, None),
        ({"n": 2**128}, None),
    ],
)
def test_count_is_a_whole_number_or_nothing(
    holder: dict[str, object], is_read_as: int | None
) -> None:
    assert count(holder, "n") == is_read_as
