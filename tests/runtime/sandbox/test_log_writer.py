# SPDX-License-Identifier: Apache-2.0
"""Printing that never waits, into a real pipe."""

import os
from collections.abc import Iterator

import pytest

from kmind.runtime.sandbox.log_writer import LineOutput


@pytest.fixture
def pipe() -> Iterator[tuple[int, LineOutput]]:
    here, there = os.pipe()
    os.set_blocking(here, False)
    os.set_blocking(there, False)
    yield here, LineOutput(there)
    os.close(there)
    os.close(here)


def drain(fd: int) -> bytes:
    data = b""
    while True:
        try:
            data += os.read(fd, 1 << 16)
        except BlockingIOError:
            return data


def test_lines(pipe: tuple[int, LineOutput]) -> None:
    here, output = pipe
    print("one", file=output)
    print("tw", end="", file=output, flush=True)
    assert drain(here) == b"one\n"
    print("o\nthree", end="", file=output)
    assert drain(here) == b"two\n"
    output.end_line()
    output.end_line()
    assert drain(here) == b"three\n"
    print("\udcff\xe4", file=output)
    assert drain(here) == "?\xe4\n".encode()


def test_long_lines_are_cut(pipe: tuple[int, LineOutput]) -> None:
    here, output = pipe
    print("x" * 10000, file=output)
    print("y" * 5000, end="", file=output)
    print("y" * 5000, end="", file=output)
    output.end_line()
    data = drain(here)
    assert data == b"x" * 4095 + b"\n" + b"y" * 4095 + b"\n"


def test_drops_and_says_so(pipe: tuple[int, LineOutput]) -> None:
    here, output = pipe
    for number in range(100_000):
        print(f"line {number}", file=output)
    lines = drain(here).decode().splitlines()
    assert lines == [f"line {number}" for number in range(len(lines))]
    print("later", file=output)
    dropped = 100_000 - len(lines)
    assert drain(here).decode() == f"({dropped} lines dropped: nobody read the log)\nlater\n"


def test_a_reader_that_is_gone() -> None:
    here, there = os.pipe()
    os.close(here)
    print("into nothing", file=LineOutput(there))
    os.close(there)
