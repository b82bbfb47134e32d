# SPDX-License-Identifier: Apache-2.0
"""Entries are what the caller asked for, or are refused in one line."""

import os
import select
from pathlib import Path

import numpy as np
import pytest

from kmind.errors import UsageError
from kmind.uring import Op, Ring, SqeFlag, prepare
from kmind.uring.layout import SQE, SQE128, TIMESPEC


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def test_values_are_for_all_entries_or_one_for_each() -> None:
    made = prepare.read(7, numbers(0, 512, 1024), 4096, numbers(1, 2, 3), numbers(10, 11, 12))
    assert made.dtype == SQE
    assert made["opcode"].tolist() == [Op.READ] * 3
    assert made["fd"].tolist() == [7, 7, 7]
    assert made["off"].tolist() == [0, 512, 1024]
    assert made["addr"].tolist() == [4096] * 3
    assert made["len"].tolist() == [1, 2, 3]
    assert made["user_data"].tolist() == [10, 11, 12]


def test_out_keeps_nothing_of_what_it_held() -> None:
    out = np.frombuffer(bytearray(b"\xff" * 256), SQE128)
    assert prepare.nop(numbers(1, 2), out=out) is out
    assert out["user_data"].tolist() == [1, 2]
    out["user_data"] = 0
    assert not out.view(np.uint8).any(), "a nop is all zeroes"


def test_flags_may_differ() -> None:
    linked = np.array([SqeFlag.IO_LINK, 0])
    made = prepare.fsync(3, numbers(1, 2), data_only=True, flags=linked)
    assert made["flags"].tolist() == [SqeFlag.IO_LINK, 0]
    assert made["op_flags"].tolist() == [1, 1]


@pytest.mark.parametrize("width", [4, 16, 17, 80])
def test_a_command_has_as_many_bytes_as_it_needs(width: int) -> None:
    cmd = np.arange(2 * width, dtype=np.uint8).reshape(2, width)
    made = prepare.uring_cmd(3, 0x1234, numbers(1, 2), cmd=cmd)
    assert made.dtype == (SQE if width <= 16 else SQE128)
    assert made["cmd_op"].tolist() == [0x1234] * 2
    assert (made["cmd"][:, :width] == cmd).all()
    one = prepare.uring_cmd(3, 0, numbers(1, 2), cmd=cmd[1])
    assert (one["cmd"][:, :width] == cmd[1]).all()


def test_times_become_seconds_and_nanoseconds() -> None:
    times = prepare.timespecs([0, 999_999_999, 3_000_000_007])
    assert times.tolist() == [(0, 0), (0, 999_999_999), (3, 7)]
    made = prepare.timeout(times, numbers(1, 2, 3), absolute=True)
    assert (np.diff(made["addr"]) == TIMESPEC.itemsize).all()
    assert made["addr"][0] == times.ctypes.data
    assert made["op_flags"].tolist() == [1] * 3


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: prepare.read(1, numbers(1, 2), 0, 1, numbers(1)), "1 entries of READ"),
        (lambda: prepare.read(1, 0, 0, -1, numbers(1)), "entries of READ"),
        (lambda: prepare.write(1 << 40, 0, 0, 1, 1), "entries of WRITE"),
        (lambda: prepare.nop("x"), "entries of NOP"),
        (lambda: prepare.nop(numbers(1), out=np.zeros(2, SQE)), "out must have 1"),
        (lambda: prepare.nop(numbers(1, 2), out=np.zeros(4, SQE)[::2]), "next to each other"),
        (lambda: prepare.nop(numbers(1), out=np.zeros(1, np.uint64)), "out must have 1"),
        (lambda: prepare.uring_cmd(1, 0, 1, cmd=np.zeros(81, np.uint8)), "81 bytes"),
        (
            lambda: prepare.uring_cmd(1, 0, 1, cmd=np.zeros(17, np.uint8), out=np.zeros(1, SQE)),
            "17 bytes",
        ),
        (lambda: prepare.timeout(numbers(1), numbers(1)), "timespecs"),
        (lambda: prepare.timeout(prepare.timespecs([1, 2]), numbers(1)), "entries of TIMEOUT"),
    ],
)
def test_wrong_use_is_refused_in_one_line(call, said: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        call()
    assert "\n" not in str(refused.value)


def test_a_range_of_a_file_is_freed_and_a_pipe_tells_that_it_is_readable(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 16384)
    reading, writing = os.pipe()
    try:
        with Ring(4) as ring, path.open("r+b") as file:
            ring.push(prepare.fallocate(file.fileno(), 1 | 2, 4096, 8192, 1))
            ring.push(prepare.poll(reading, select.POLLIN, 2))
            ring.submit(1, 20)
            assert ring.reap().tolist() == [(1, 0, 0)]
            os.write(writing, b"x")
            ring.submit(1, 20)
            assert ring.reap().tolist() == [(2, select.POLLIN, 0)]
            os.close(writing)
            os.read(reading, 1)
            ring.push(prepare.poll(reading, 0, 3))
            ring.submit(1, 20)
            assert ring.reap().tolist() == [(3, select.POLLHUP, 0)]
    finally:
        os.close(reading)
    assert path.read_bytes() == b"x" * 4096 + bytes(8192) + b"x" * 4096
