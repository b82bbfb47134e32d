# SPDX-License-Identifier: Apache-2.0
"""The server, on a socket in place of /dev/fuse: it hears what no kernel would say, too."""

import errno
import socket
import struct
import threading
import time

import pytest
from driver.fuse.talking import SIZE, answer, moving, request, serving
from rams import opened_ram

from kmind.driver.block import Batch, BlockDriver
from kmind.driver.fuse.protocol import Opcode
from kmind.driver.fuse.server import DiskServer
from kmind.driver.server import Chore


def test_what_is_written_is_read() -> None:
    with serving(opened_ram(SIZE)) as kernel:
        kernel.send(moving(Opcode.WRITE, 10, 4096, 5, b"hello"))
        assert answer(kernel) == (10, 0, struct.pack("<II", 5, 0))
        kernel.send(moving(Opcode.READ, 12, 4095, 7))
        assert answer(kernel) == (12, 0, b"\0hello\0")
        kernel.send(moving(Opcode.READ, 14 | 1 << 63, SIZE - 2, 7))
        assert answer(kernel) == (14 | 1 << 63, 0, b"\0\0")
        kernel.send(request(Opcode.FSYNC, 16, bytes(16)))
        assert answer(kernel) == (16, 0, b"")


LIES = {
    "a length that is too short": request(Opcode.READ, 20, bytes(40), size=60),
    "a length that is too long": request(Opcode.READ, 20, bytes(40), size=1 << 30),
    "a write that is cut short": moving(Opcode.WRITE, 20, 0, 4096, bytes(100)),
    "a write with too much data": moving(Opcode.WRITE, 20, 0, 10, bytes(100)),
    "a write beyond the end": moving(Opcode.WRITE, 20, SIZE, 4, bytes(4)),
    "a write far beyond the end": moving(Opcode.WRITE, 20, (1 << 64) - 4, 4, bytes(4)),
    "a read of too much": moving(Opcode.READ, 20, 0, 1 << 31),
    "a read without its fields": request(Opcode.READ, 20),
    "a flush without its fields": request(Opcode.FSYNC, 20),
    "a read of the folder": request(Opcode.READ, 20, bytes(40), node=1),
    "a read of no file": request(Opcode.READ, 20, bytes(40), node=77),
    "an unknown operation": request(4711, 20),
    "another size": request(Opcode.SETATTR, 20, bytes(88)),
    "an interrupt": request(Opcode.INTERRUPT, 20, bytes(8)),
}


@pytest.mark.parametrize("message", LIES.values(), ids=LIES.keys())
def test_a_lie_is_an_error_and_harms_nobody(message: bytes) -> None:
    with serving(opened_ram(SIZE)) as kernel:
        kernel.send(moving(Opcode.WRITE, 8, 0, 4, b"true"))
        assert answer(kernel)[:2] == (8, 0)
        kernel.send(message)
        unique, error, data = answer(kernel)
        assert (unique, data) == (20, b"")
        assert error in errno.errorcode
        kernel.send(moving(Opcode.READ, 30, 0, 4))
        assert answer(kernel) == (30, 0, b"true")


def test_what_is_never_answered_takes_no_slot() -> None:
    with serving(opened_ram(SIZE), depth=2) as kernel:
        for _ in range(10):
            kernel.send(request(Opcode.FORGET, 2, bytes(8)))
            kernel.send(request(Opcode.BATCH_FORGET, 4, bytes(8)))
            kernel.send(b"too short for a header")
        kernel.send(moving(Opcode.READ, 30, 0, 4))
        assert answer(kernel) == (30, 0, bytes(4))


class Keeper(BlockDriver):
    """Keeps what comes until it is told to answer."""

    size = SIZE

    def __init__(self) -> None:
        self.kept: list[Batch] = []
        self.came = threading.Semaphore(0)

    def serve(self, batch: Batch) -> None:
        self.kept.append(batch)
        for _ in range(len(batch)):
            self.came.release()


def test_with_all_slots_taken_nothing_is_read_until_one_is_free() -> None:
    driver = Keeper()
    with serving(driver, depth=2) as kernel:
        for unique in (2, 4, 6):
            kernel.send(moving(Opcode.READ, unique, 0, 4))
        assert driver.came.acquire(timeout=20)
        assert driver.came.acquire(timeout=20)
        assert not driver.came.acquire(timeout=0.1)
        for batch in list(driver.kept):
            batch.finish(batch.open, [b"data"] * len(batch))
        assert [answer(kernel)[0] for _ in range(2)] == [2, 4]
        assert driver.came.acquire(timeout=20)
        driver.kept[-1].finish(0, [b"late"])
        assert answer(kernel) == (6, 0, b"late")


def test_a_stopped_server_returns_though_all_slots_are_taken() -> None:
    driver = Keeper()
    with serving(driver, depth=1) as kernel:
        kernel.send(moving(Opcode.READ, 2, 0, 4))
        assert driver.came.acquire(timeout=20)


def test_the_end_of_the_connection_is_seen_though_all_slots_are_taken() -> None:
    kernel, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    end.setblocking(False)
    driver = Keeper()
    server = DiskServer(driver, end.fileno(), max_io=8192, depth=1)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    with end:
        with kernel:
            kernel.send(moving(Opcode.READ, 2, 0, 4))
            assert driver.came.acquire(timeout=20)
        thread.join(20)
        assert not thread.is_alive()


def test_the_chore_is_done_while_it_serves_and_while_it_waits() -> None:
    kernel, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    end.setblocking(False)
    kernel.settimeout(20)
    done = threading.Semaphore(0)

    def duty() -> float:
        done.release()
        return time.monotonic() + 0.01

    server = DiskServer(opened_ram(SIZE), end.fileno(), max_io=8192, depth=4, chore=Chore(duty))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    with kernel, end:
        for _ in range(3):  # nothing else wakes it
            assert done.acquire(timeout=20)
        before = done._value
        until = time.monotonic() + 0.1
        while time.monotonic() < until:
            kernel.send(moving(Opcode.READ, 30, 0, 4))
            assert answer(kernel) == (30, 0, bytes(4))
        assert done._value > before
        server.stop()
        thread.join(20)
        assert not thread.is_alive()
