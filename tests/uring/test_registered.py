# SPDX-License-Identifier: Apache-2.0
"""Registered files and buffers work by index, and restrictions hold."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from uring.rings import ENOUGH_S, Watched, ids, pipe, results

from kmind.errors import RingError, UsageError
from kmind.uring import (
    Buffers,
    Op,
    Ring,
    SqeFlag,
    prepare,
    register_buffers,
    register_files,
    restrict,
    update_files,
)

FIXED = SqeFlag.FIXED_FILE


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring(16) as ring:
        yield ring


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 64)
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


def test_files_go_by_index(ring: Ring, file: int) -> None:
    buffers = Buffers(2, 4096)
    register_files(ring, [-1, file])
    ring.push(prepare.read(1, 10, buffers.address, 5, 1, flags=FIXED))
    ring.push(prepare.read(np.array([0, 2]), 0, buffers.address, 5, ids(2, 3), flags=FIXED))
    assert results(ring, 3) == {1: 5, 2: -errno.EBADF, 3: -errno.EBADF}
    assert buffers[0][:5].tolist() == [10, 11, 12, 13, 14]
    update_files(ring, 0, [file, -1])
    ring.push(prepare.read(np.arange(2), 0, buffers.address, 5, ids(4, 5), flags=FIXED))
    assert results(ring, 2) == {4: 5, 5: -errno.EBADF}


def test_a_registered_file_stays_open(ring: Ring) -> None:
    with pipe() as (reader, writer):
        register_files(ring, [os.dup(reader)])
        os.write(writer, b"abc")
    buffers = Buffers(1, 4096)
    ring.push(prepare.read(0, -1, buffers.address, 64, 1, flags=FIXED))
    assert results(ring, 1) == {1: 3}


def test_buffers_go_by_index_and_requests_stay_inside(ring: Ring, file: int) -> None:
    buffers = Buffers(4, 4096)
    register_buffers(ring, [buffers.span])
    places = buffers.addresses(np.arange(4))
    ring.push(prepare.read_fixed(file, np.arange(4) * 4096, places, 4096, np.arange(4)))
    assert results(ring, 4) == dict.fromkeys(range(4), 4096)
    assert (buffers.rows == np.tile(np.arange(256), 16)).all()
    buffers[2][:] = 77
    ring.push(prepare.write_fixed(file, 0, places[2], 4096, 1))
    assert results(ring, 1) == {1: 4096}
    assert os.pread(file, 8192, 0) == b"\x4d" * 4096 + bytes(range(256)) * 16
    ring.push(prepare.read_fixed(file, 0, places[3] + 1, 4096, 1))
    ring.push(prepare.read_fixed(file, 0, places[0], 4096, 2, buffer=1))
    assert results(ring, 2) == {1: -errno.EFAULT, 2: -errno.EFAULT}


def test_what_cannot_be_registered_is_refused_in_one_line(ring: Ring, file: int) -> None:
    register_files(ring, [file])
    for use, kind, said in (
        (lambda: register_files(ring, [file]), RingError, "registered already"),
        (lambda: register_files(ring, []), UsageError, "give one at least"),
        (lambda: register_files(ring, [-2]), UsageError, "no descriptors"),
        (lambda: register_files(ring, [1 << 40]), UsageError, "no descriptors"),
        (lambda: update_files(ring, 0, [1 << 20]), RingError, "Bad file descriptor"),
        (lambda: update_files(ring, 1, [file]), RingError, "Invalid argument"),
        (lambda: update_files(ring, -1, [file]), UsageError, "no registered file -1"),
        (lambda: register_buffers(ring, []), RingError, "Invalid argument"),
        (lambda: register_buffers(ring, [(4096, 1 << 40)]), RingError, "buffers"),
        (lambda: register_buffers(ring, [(8, 4096)]), RingError, "Bad address"),
        (lambda: register_buffers(ring, [(-1, 4096)]), UsageError, "no buffers"),
        (lambda: restrict(ring, [Op.READ]), RingError, "enabled already"),
        (ring.enable, RingError, "enabled already"),
    ):
        with pytest.raises(kind, match=said) as refused:
            use()
        assert "\n" not in str(refused.value)


# Restrictions.


@pytest.fixture
def restricted(file: int) -> Iterator[Ring]:
    """A ring that reads one file, and nothing else."""
    with Ring(16, disabled=True) as ring:
        register_files(ring, [file])
        restrict(ring, [Op.READ, Op.NOP])
        ring.enable()
        yield ring


def test_a_disabled_ring_takes_nothing() -> None:
    with Ring(8, disabled=True) as ring:
        ring.push(prepare.nop(1))
        with pytest.raises(RingError, match="the ring is disabled"):
            ring.submit()
        ring.enable()
        assert results(ring, 1) == {1: 0}


def test_what_is_allowed_is_done(restricted: Ring) -> None:
    buffers = Buffers(1, 4096)
    restricted.push(prepare.read(0, 3, buffers.address, 2, 1, flags=FIXED))
    restricted.push(prepare.nop(2, flags=FIXED))
    assert results(restricted, 2) == {1: 2, 2: 0}
    assert buffers[0][:2].tolist() == [3, 4]


def test_other_operations_files_and_flags_are_refused(restricted: Ring, file: int) -> None:
    buffers = Buffers(1, 4096)
    place = buffers.address
    times = prepare.timespecs(1)
    forbidden = [
        prepare.read(file, 0, place, 8, 1),  # the very file, but not by index
        prepare.nop(2),
        prepare.write(0, 0, place, 8, 3, flags=FIXED),
        prepare.write_fixed(0, 0, place, 8, 4, flags=FIXED),
        prepare.fsync(0, 5, flags=FIXED),
        prepare.uring_cmd(0, 0, 6, flags=FIXED),
        prepare.timeout(times, 7, flags=FIXED),
        prepare.read(0, 0, place, 8, 8, flags=FIXED | SqeFlag.IO_LINK),
    ]
    for entries in forbidden:
        restricted.push(entries)
    assert results(restricted, 8) == dict.fromkeys(range(1, 9), -errno.EACCES)
    assert not buffers.rows.any()


def test_nothing_can_be_registered_any_more(restricted: Ring, file: int) -> None:
    for use in (
        lambda: update_files(restricted, 0, [file]),
        lambda: register_buffers(restricted, [Buffers(1, 4096).span]),
        lambda: restrict(restricted, [Op.WRITE]),
        restricted.enable,
    ):
        with pytest.raises(RingError, match="the ring is restricted") as refused:
            use()
        assert "\n" not in str(refused.value)


def test_flags_can_be_allowed(file: int) -> None:
    buffers = Buffers(1, 4096)
    with Ring(8, disabled=True) as ring:
        register_files(ring, [file])
        restrict(ring, [Op.WRITE, Op.FSYNC], flags=SqeFlag.IO_LINK)
        ring.enable()
        ring.push(prepare.write(0, 0, buffers.address, 8, 1, flags=FIXED | SqeFlag.IO_LINK))
        ring.push(prepare.fsync(0, 2, flags=FIXED))
        assert results(ring, 2) == {1: 8, 2: 0}


def test_a_restricted_ring_ends_what_is_in_flight() -> None:
    buffers = Buffers(1, 4096)
    with pipe() as (reader, writer):
        with Watched(8, disabled=True) as ring:
            register_files(ring, [reader])
            restrict(ring, [Op.READ])
            ring.enable()
            ring.push(prepare.read(0, -1, buffers.address, 64, 1, flags=FIXED))
            ring.submit()
            assert ring.in_flight == 1
        assert ring.left == 0
        os.write(writer, b"late")
        assert os.read(reader, 64) == b"late"
    assert not buffers.rows.any()


def test_two_kinds_of_unknown_are_refused() -> None:
    with Ring(8, disabled=True) as ring, pytest.raises(RingError, match="restrictions"):
        restrict(ring, [250])  # type: ignore[list-item]
    with Ring(8, disabled=True) as ring:
        restrict(ring, [Op.NOP])
        with pytest.raises(RingError, match="registered already"):
            restrict(ring, [Op.READ])
        ring.enable()
        ring.push(prepare.nop(1, flags=FIXED))
        assert ring.submit(1, ENOUGH_S) == 1
