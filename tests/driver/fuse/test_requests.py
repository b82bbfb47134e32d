# SPDX-License-Identifier: Apache-2.0
"""Headers as the kernel sends them, and as a liar would."""

import errno
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from kmind.driver.block import Op, Requests
from kmind.driver.fuse.protocol import FALLOCATE, IN_HEADER_BYTES, REQUEST, Opcode
from kmind.driver.fuse.requests import NO_OP, SERVE, as_ops, decode

SIZE = 1 << 20
MAX_IO = 64 << 10
ALL = frozenset(Op)
Decoded = tuple[Requests, npt.NDArray[np.int64]]


def decoded(
    opcode: int,
    offset: int = 0,
    size: int = 4096,
    *,
    received: int | None = None,
    operations: frozenset[Op] = ALL,
) -> Decoded:
    head = np.zeros(1, REQUEST)
    head["opcode"], head["offset"], head["size"] = opcode, offset, size
    if received is None:
        received = REQUEST.itemsize + (size if opcode == Opcode.WRITE else 0)
    sizes = np.array([received])
    return told(decode(head, sizes, size=SIZE, max_io=MAX_IO, operations=operations))


def falloc(mode: int, offset: int, length: int, operations: frozenset[Op] = ALL) -> Decoded:
    head: Any = np.zeros(1, FALLOCATE)
    head["opcode"], head["offset"] = Opcode.FALLOCATE, offset
    head["length"], head["mode"] = length, mode
    sizes = np.array([72])
    heads = head.view(REQUEST)
    return told(decode(heads, sizes, size=SIZE, max_io=MAX_IO, operations=operations))


def told(decoded: tuple[Requests, npt.NDArray[np.int64] | None]) -> Decoded:
    requests, verdict = decoded
    return requests, np.full(len(requests.op), SERVE) if verdict is None else verdict


def row(decoded: Decoded) -> tuple[int, ...]:
    requests, verdict = decoded
    columns = (requests.op, requests.offset, requests.length, verdict)
    return tuple(int(column[0]) for column in columns)


def test_records_are_as_long_as_the_kernels() -> None:
    assert REQUEST.itemsize == FALLOCATE.itemsize == 80
    assert REQUEST.fields is not None
    assert REQUEST.fields["fh"][1] == IN_HEADER_BYTES == 40


def test_data_requests_are_told_from_others() -> None:
    codes = np.array([Opcode.READ, Opcode.WRITE, Opcode.FSYNC, Opcode.FALLOCATE, 3, 63, 4096], "u4")
    expected = [Op.READ, Op.WRITE, Op.FLUSH, Op.WRITE_ZEROES, NO_OP, NO_OP, NO_OP]
    assert as_ops(codes).tolist() == expected


def test_reads_are_cut_at_the_end() -> None:
    assert row(decoded(Opcode.READ, 4096)) == (Op.READ, 4096, 4096, SERVE)
    assert row(decoded(Opcode.READ, SIZE - 512)) == (Op.READ, SIZE - 512, 512, SERVE)
    for beyond in (SIZE, 1 << 62, (1 << 64) - 1):
        assert row(decoded(Opcode.READ, beyond)) == (Op.READ, SIZE, 0, 0)


@pytest.mark.parametrize("offset", [SIZE, SIZE - 4095, 1 << 63, (1 << 64) - 4096])
def test_writes_beyond_the_end_fail(offset: int) -> None:
    assert decoded(Opcode.WRITE, offset)[1].tolist() == [errno.ENOSPC]
    assert decoded(Opcode.WRITE, SIZE - 4096)[1].tolist() == [SERVE]


@pytest.mark.parametrize(
    ("opcode", "size", "received"),
    [
        (Opcode.READ, 4096, 79),
        (Opcode.READ, MAX_IO + 1, None),
        (Opcode.READ, 0xFFFFFFFF, None),
        (Opcode.WRITE, 4096, 80),
        (Opcode.WRITE, 4096, 80 + 4095),
        (Opcode.WRITE, 4096, 80 + 4097),
        (Opcode.WRITE, MAX_IO + 1, None),
        (Opcode.FSYNC, 0, 55),
        (Opcode.FALLOCATE, 0, 71),
    ],
)
def test_lengths_that_do_not_fit_are_refused(opcode: int, size: int, received: int | None) -> None:
    assert decoded(opcode, 0, size, received=received)[1].tolist() == [errno.EINVAL]


def test_a_flush_is_served_or_done() -> None:
    assert row(decoded(Opcode.FSYNC, 7, 7)) == (Op.FLUSH, 0, 0, SERVE)
    assert decoded(Opcode.FSYNC, operations=frozenset())[1].tolist() == [0]


def test_ranges_become_zeros() -> None:
    punched = falloc(3, 4096, 8192)
    assert row(punched) == (Op.WRITE_ZEROES, 4096, 8192, SERVE)
    assert punched[0].unmap.tolist() == [True]
    for mode in (16, 17):
        zeroed = falloc(mode, 4096, 1 << 40)
        assert row(zeroed) == (Op.WRITE_ZEROES, 4096, SIZE - 4096, SERVE)
        assert zeroed[0].unmap.tolist() == [False]


@pytest.mark.parametrize("mode", [0, 1, 2, 8, 32, 64])
def test_other_kinds_of_fallocate_are_refused(mode: int) -> None:
    assert falloc(mode, 0, 4096)[1].tolist() == [errno.EOPNOTSUPP]


def test_zeros_are_refused_for_a_driver_without() -> None:
    assert falloc(3, 0, 4096, frozenset())[1].tolist() == [errno.EOPNOTSUPP]
