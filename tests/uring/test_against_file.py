# SPDX-License-Identifier: Apache-2.0
"""A random mix of operations does to a file what pread and pwrite do."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uring.rings import results

from kmind.uring import (
    Buffers,
    Op,
    Ring,
    SqeFlag,
    prepare,
    register_buffers,
    register_files,
)

SIZE = 16 * 1024  # of the file, at most
MOST = 4096  # of one request
KINDS = (Op.READ, Op.READ_FIXED, Op.WRITE, Op.WRITE_FIXED, Op.FSYNC, Op.NOP)


@dataclass(frozen=True)
class Request:
    """One operation; writes write ``fill``."""

    op: Op
    offset: int
    length: int
    fill: int
    by_index: bool


REQUESTS = st.builds(
    Request,
    st.sampled_from(KINDS),
    st.integers(0, SIZE),
    st.integers(0, MOST),
    st.integers(1, 255),
    st.booleans(),
)


def entry(request: Request, fd: int, place: int, user_data: int) -> np.ndarray:
    """Make the entry of one request; the registered file has index 0.

    It begins when those before it have ended. (A short read would end a chain of links.)
    """
    flags = SqeFlag.IO_DRAIN | (SqeFlag.FIXED_FILE if request.by_index else 0)
    fd = 0 if request.by_index else fd
    transfers = {
        Op.READ: prepare.read,
        Op.READ_FIXED: prepare.read_fixed,
        Op.WRITE: prepare.write,
        Op.WRITE_FIXED: prepare.write_fixed,
    }
    if make := transfers.get(request.op):
        return make(fd, request.offset, place, request.length, user_data, flags=flags)
    if request.op == Op.FSYNC:
        return prepare.fsync(fd, user_data, data_only=request.by_index, flags=flags)
    return prepare.nop(user_data, flags=flags)


def expected(request: Request, fd: int) -> tuple[int, bytes]:
    """Do it by a system call; return the result, and what was read."""
    if request.op in (Op.READ, Op.READ_FIXED):
        read = os.pread(fd, request.length, request.offset)
        return len(read), read
    if request.op in (Op.WRITE, Op.WRITE_FIXED):
        return os.pwrite(fd, bytes([request.fill]) * request.length, request.offset), b""
    return 0, b""


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(REQUESTS, max_size=12), max_size=8), st.integers(1, 8))
def test_a_file_is_what_system_calls_make_of_it(batches: list[list[Request]], entries: int) -> None:
    with (
        tempfile.TemporaryFile() as ours,
        tempfile.TemporaryFile() as theirs,
        Ring(entries, completions=16) as ring,
    ):
        buffers = Buffers(12, MOST)
        register_files(ring, [ours.fileno()])
        register_buffers(ring, [buffers.span])
        for batch in batches:
            wanted = [expected(request, theirs.fileno()) for request in batch]
            found: dict[int, int] = {}
            for index, request in enumerate(batch):
                buffers[index][:] = 0 if request.op in (Op.READ, Op.READ_FIXED) else request.fill
                made = entry(request, ours.fileno(), int(buffers.addresses(index)), index)
                if not ring.push(made):  # full
                    found |= results(ring, ring.pending + ring.in_flight)
                    assert ring.push(made) == 1
            found |= results(ring, ring.pending + ring.in_flight)
            for index, (count, read) in enumerate(wanted):
                assert found[index] == count, batch[index]
                if read:
                    assert buffers[index][:count].tobytes() == read
            assert os.fstat(ours.fileno()).st_size == os.fstat(theirs.fileno()).st_size
        assert os.pread(ours.fileno(), 2 * SIZE, 0) == os.pread(theirs.fileno(), 2 * SIZE, 0)
