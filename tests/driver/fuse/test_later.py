# SPDX-License-Identifier: Apache-2.0
"""Answers that take time: delayed ones, and those of a backing, through a server on a socket."""

import errno
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from driver.fuse.talking import SIZE, answer, moving, request, serving

from kmind.driver.backing import Backing
from kmind.driver.block import AnswerError, Batch, BlockDriver, Op
from kmind.driver.forward import PlainForwarder, RingForwarder
from kmind.driver.fuse.protocol import Opcode
from kmind.driver.fuse.server import DiskServer
from kmind.errors import KmindError, RingError

MS = 1_000_000
R, W = Opcode.READ, Opcode.WRITE


class Doing(BlockDriver):
    """Does with each batch as it is told."""

    size = SIZE
    operations = frozenset(Op)

    def __init__(self, do: Callable[[Batch], None]) -> None:
        self.serve = do  # type: ignore[method-assign]


def ring(server: DiskServer) -> None:
    server.prepare()
    assert isinstance(server._forwarder, RingForwarder)


def plain(server: DiskServer) -> None:
    server._forwarder = PlainForwarder(server._buffers, server._watched)
    server._prepared = True


def made_when_needed(server: DiskServer) -> None:
    assert not server._prepared


@pytest.fixture
def backing(tmp_path: Path) -> Iterator[Backing]:
    path = tmp_path / "backing"
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    with open(path, "r+b", buffering=0) as file:  # noqa: PTH123
        yield Backing(file.fileno())


def fallocate(mode: int, unique: int, offset: int, length: int) -> bytes:
    return request(Opcode.FALLOCATE, unique, struct.pack("<QQQII", 0, offset, length, mode, 0))


def test_answers_come_when_they_are_due_and_in_that_order() -> None:
    def serve(batch: Batch) -> None:
        batch.delay(np.arange(len(batch)), batch.offset * MS)
        batch.finish(np.arange(len(batch)), [b"%4d" % offset for offset in batch.offset])

    with serving(Doing(serve)) as kernel:
        began = time.monotonic()
        for unique, late in ((2, 300), (4, 100), (6, 200), (8, 0)):
            kernel.send(moving(R, unique, late, 4))
        came = []
        for _ in range(4):
            came.append(answer(kernel))
            assert time.monotonic() - began >= int(came[-1][2]) / 1000
    assert [unique for unique, _, _ in came] == [8, 4, 6, 2]
    assert [data for _, _, data in came] == [b"   0", b" 100", b" 200", b" 300"]


def test_an_answer_is_made_at_once_and_its_data_may_change_afterwards() -> None:
    said: list[Exception] = []

    def serve(batch: Batch) -> None:
        batch.delay(0, 50 * MS)
        data = bytearray(b"then")
        batch.finish(0, [data])
        data[:] = b"now!"
        assert not batch.open.any()
        with pytest.raises(AnswerError, match="answered already"):
            batch.fail(0, errno.EIO)
        with pytest.raises(AnswerError, match="answered already"):
            batch.delay(0, 0)

    with serving(Doing(serve), report=said.append) as kernel:
        kernel.send(moving(R, 2, 0, 4))
        assert answer(kernel) == (2, 0, b"then")
    assert not said


def test_errors_and_writes_are_delayed_too_and_a_later_delay_counts() -> None:
    def serve(batch: Batch) -> None:
        everything = np.ones(len(batch), bool)
        batch.delay(everything, 60_000 * MS)
        batch.delay(everything, 40 * MS)
        batch.fail(batch.op == Op.READ, errno.ENODATA)
        batch.finish(batch.open)

    with serving(Doing(serve)) as kernel:
        began = time.monotonic()
        kernel.send(moving(R, 2, 0, 4))
        kernel.send(moving(W, 4, 0, 4, b"data"))
        assert {answer(kernel) for _ in range(2)} == {
            (2, errno.ENODATA, b""),
            (4, 0, struct.pack("<II", 4, 0)),
        }
        assert time.monotonic() - began >= 0.04


def test_another_thread_delays_less_than_what_is_waited_for() -> None:
    kept: list[Batch] = []
    came = threading.Semaphore(0)

    def serve(batch: Batch) -> None:
        batch.delay(batch.offset == 0, 60_000 * MS)
        batch.finish(batch.offset == 0)
        if batch.offset.any():
            kept.append(batch)
            came.release()

    with serving(Doing(serve)) as kernel:
        kernel.send(moving(R, 2, 0, 4))
        kernel.send(moving(R, 4, 8, 4))
        assert came.acquire(timeout=20)
        kept[0].delay(kept[0].open, 1)
        kept[0].finish(kept[0].open, [b"soon"])
        assert answer(kernel) == (4, 0, b"soon")


def test_a_stopped_server_sends_what_waits() -> None:
    kernel, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    end.setblocking(False)
    kernel.settimeout(20)
    came = threading.Event()

    def serve(batch: Batch) -> None:
        batch.delay(0, 60_000 * MS)
        batch.finish(0, [b"wait"])
        came.set()

    server = DiskServer(Doing(serve), end.fileno(), max_io=8192, depth=1)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    with kernel, end:
        kernel.send(moving(R, 2, 0, 4))
        assert came.wait(20)
        server.stop()
        assert answer(kernel) == (2, 0, b"wait")
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.parametrize("ns", [-1, 90_000 * 10**9, float("nan"), [1, 2], "1", [[1]]])
def test_a_delay_that_is_none_is_refused(ns: object) -> None:
    said: list[Exception] = []
    with serving(Doing(lambda batch: batch.delay(0, ns)), report=said.append) as kernel:  # type: ignore[arg-type]
        kernel.send(moving(R, 2, 0, 4))
        assert answer(kernel) == (2, errno.EIO, b"")
    assert [type(error) for error in said] == [AnswerError]


@pytest.mark.parametrize("how", [ring, plain, made_when_needed])
def test_a_backing_does_what_is_forwarded(
    how: Callable[[DiskServer], None], backing: Backing
) -> None:
    with serving(Doing(lambda batch: batch.forward(backing)), prepare=how) as kernel:
        kernel.send(moving(R, 2, 256, 8))
        assert answer(kernel) == (2, 0, bytes(range(8)))
        kernel.send(moving(W, 4, 4096, 8192, b"x" * 8192))
        assert answer(kernel) == (4, 0, struct.pack("<II", 8192, 0))
        kernel.send(request(Opcode.FSYNC, 6, bytes(16)))
        assert answer(kernel) == (6, 0, b"")
        assert os.pread(backing.descriptor, 3 * 4096, 4095)[:2] == b"\xffx"
        kernel.send(fallocate(3, 8, 4096, 4096))
        assert answer(kernel) == (8, 0, b"")
        kernel.send(fallocate(16, 10, 8192, 512))
        unique, error, _ = answer(kernel)
        assert (unique, error in (0, errno.EOPNOTSUPP)) == (10, True)  # not on tmpfs
        assert os.pread(backing.descriptor, 4096, 4096) == bytes(4096)
        after = os.pread(backing.descriptor, 1024, 8192)
        assert after == (b"x" * 1024 if error else bytes(512) + b"x" * 512)
    assert os.fstat(backing.descriptor).st_size == SIZE


@pytest.mark.parametrize("how", [ring, plain])
def test_a_backing_that_shrinks_or_refuses_is_an_error_for_its_caller(
    how: Callable[[DiskServer], None], backing: Backing, tmp_path: Path
) -> None:
    with open(tmp_path / "backing", "rb") as file:  # noqa: PTH123
        only_read = Backing(file.fileno())
        driver = Doing(
            lambda batch: batch.forward(backing if batch.op[0] == Op.READ else only_read)
        )
        with serving(driver, prepare=how) as kernel:
            kernel.send(moving(W, 2, 0, 4, b"data"))
            assert answer(kernel) == (2, errno.EBADF, b"")
            os.truncate(tmp_path / "backing", 4098)
            kernel.send(moving(R, 4, 4096, 4))
            assert answer(kernel) == (4, errno.EIO, b"")
            kernel.send(moving(R, 6, 4094, 4))
            assert answer(kernel) == (6, 0, bytes((254, 255, 0, 1)))


def test_until_serve_returns_an_answer_takes_the_place_of_a_forward(backing: Backing) -> None:
    def serve(batch: Batch) -> None:
        batch.forward(backing)
        assert batch.open.all()
        batch.delay(0, 20 * MS)
        batch.fail(batch.touches([(0, 10), (5000, 5001)]), errno.EIO)

    with serving(Doing(serve)) as kernel:
        kernel.send(moving(W, 2, 0, 4, b"data"))
        assert answer(kernel) == (2, errno.EIO, b"")
        kernel.send(moving(W, 4, 5001, 4, b"data"))
        assert answer(kernel) == (4, 0, struct.pack("<II", 4, 0))
    assert os.pread(backing.descriptor, 4, 0) == bytes(range(4))
    assert os.pread(backing.descriptor, 4, 5001) == b"data"


def test_what_an_exception_leaves_is_not_forwarded(backing: Backing) -> None:
    def serve(batch: Batch) -> None:
        batch.forward(backing)
        raise RuntimeError

    with serving(Doing(serve)) as kernel:
        kernel.send(moving(W, 2, 0, 4, b"data"))
        assert answer(kernel) == (2, errno.EIO, b"")
    assert os.pread(backing.descriptor, 4, 0) == bytes(range(4))


def test_another_thread_forwards_what_was_kept_and_no_second_time(backing: Backing) -> None:
    kept: list[Batch] = []
    came = threading.Semaphore(0)

    def serve(batch: Batch) -> None:
        kept.append(batch)
        came.release()

    with serving(Doing(serve)) as kernel:
        kernel.send(moving(R, 2, 1, 4))
        assert came.acquire(timeout=20)
        kept[0].delay(0, 50 * MS)
        kept[0].forward(backing)
        assert answer(kernel) == (2, 0, bytes((1, 2, 3, 4)))
        assert time.monotonic_ns() >= kept[0].received + 50 * MS
        with pytest.raises(AnswerError, match="answered already"):
            kept[0].forward(backing, 0)
        kept[0].forward(backing)  # all that is open: nothing


def test_a_closed_backing_is_an_error_and_the_next_request_is_served(backing: Backing) -> None:
    said: list[Exception] = []
    closed = Backing(backing.descriptor)
    closed.descriptor = 999_999

    def serve(batch: Batch) -> None:
        batch.forward(closed if batch.offset[0] else backing)

    with serving(Doing(serve), report=said.append) as kernel:
        kernel.send(moving(R, 2, 1, 4))
        assert answer(kernel) == (2, errno.EIO, b"")
        kernel.send(moving(R, 4, 0, 4))
        assert answer(kernel) == (4, 0, bytes(range(4)))
    assert [type(error) for error in said] == [RingError]


def test_many_at_once_come_from_their_own_places(backing: Backing) -> None:
    with serving(Doing(lambda batch: batch.forward(backing)), depth=16) as kernel:
        for start in range(0, 200, 20):
            for unique in range(start, start + 20):
                kernel.send(moving(R, 2 + 2 * unique, unique, 8))
            for _ in range(20):
                unique, error, data = answer(kernel)
                first = (unique - 2) // 2
                assert (error, data) == (0, bytes(range(first, first + 8)))


def test_ranges_are_touched_by_a_byte_and_not_by_a_flush() -> None:
    seen = []

    def serve(batch: Batch) -> None:
        seen.append(batch.touches([(4, 8), (100, 101), (50, 50)]).tolist())
        batch.finish(batch.open)

    with serving(Doing(serve)) as kernel:
        for unique, offset in enumerate((0, 1, 7, 8, 96, 97, 100, 101, 49)):
            kernel.send(moving(R, 2 + 2 * unique, offset, 4))
            answer(kernel)
        kernel.send(request(Opcode.FSYNC, 40, bytes(16)))
        answer(kernel)
    flat = [one for batch in seen for one in batch]
    assert flat == [False, True, True, False, False, True, True, False, False, False]


def test_a_folder_or_pipe_backs_nothing(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    try:
        with pytest.raises(KmindError, match="no file and no disk"):
            Backing(reading)
    finally:
        os.close(reading)
        os.close(writing)
    with pytest.raises(KmindError, match="cannot open the backing"):
        Backing.open(tmp_path)
