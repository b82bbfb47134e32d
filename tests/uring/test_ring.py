# SPDX-License-Identifier: Apache-2.0
"""A ring on the real kernel: batches, waits, overflow, cancellation, and its end."""

from __future__ import annotations

import errno
import gc
import os
import re
import select
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from uring.rings import ENOUGH_S, Watched, ids, pipe, results

from kmind.errors import RingError, UsageError
from kmind.uring import MOST_ENTRIES, Buffers, Ring, Setup, _syscall, prepare
from kmind.uring.layout import CQE, SQE128


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring(8) as ring:
        yield ring


def descriptors() -> set[str]:
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{path.name} {path.readlink()}")
        except OSError:  # that of the listing itself
            continue
    return found


def mapped_rings() -> int:
    return len(re.findall("io_uring", Path("/proc/self/maps").read_text()))


# Batches.


def test_entries_go_around_the_ring(ring: Ring) -> None:
    """Batches of 5 in a ring of 8 cross its end in each place."""
    expected = 0
    for turn in range(50):
        assert ring.push(prepare.nop(np.arange(5) + 5 * turn)) == 5
        assert ring.pending == 5
        assert ring.submit(5, ENOUGH_S) == 5
        assert ring.pending == ring.in_flight == 0
        done = ring.reap()
        assert done["user_data"].tolist() == list(range(expected, expected + 5))
        assert not done["res"].any()
        expected += 5


def test_a_full_ring_takes_what_has_room(ring: Ring) -> None:
    assert ring.push(prepare.nop(np.arange(5))) == 5
    assert ring.push(prepare.nop(np.arange(5, 12))) == 3
    assert ring.push(prepare.nop(9)) == 0
    assert sorted(results(ring, 8)) == list(range(8))
    assert ring.push(prepare.nop(np.arange(100))) == 8


def test_views_are_the_rings_own_until_released(ring: Ring) -> None:
    ring.push(prepare.nop(np.arange(6)))
    ring.submit(6, ENOUGH_S)
    assert ring.peek(2)["user_data"].tolist() == [0, 1]
    assert ring.peek()["user_data"].tolist() == list(range(6))
    ring.release(4)
    assert ring.peek()["user_data"].tolist() == [4, 5]
    assert ring.ready == 2


def test_commands_reach_the_file() -> None:
    """/dev/null takes any command (drivers/char/mem.c, Linux 6.0)."""
    for big in (False, True):
        with Ring(32, big_sqe=big, big_cqe=big) as ring, Path("/dev/null").open("rb") as null:
            cmd = np.arange(80 if big else 16, dtype=np.uint8)
            ring.push(prepare.uring_cmd(null.fileno(), 1, np.arange(32), cmd=cmd))
            answers = set(results(ring, 32).values())
            assert answers in ({0}, {-errno.EOPNOTSUPP})


def test_small_entries_fit_a_ring_of_large_ones(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    buffers = Buffers(2, 4096)
    with Ring(8, big_sqe=True) as ring, path.open("rb") as file:
        # What an earlier command left in the second half is gone.
        cmd = np.full(80, 255, np.uint8)
        ring.push(prepare.uring_cmd(file.fileno(), 0, np.arange(8), cmd=cmd))
        results(ring, 8)
        places = buffers.addresses(np.arange(2))
        ring.push(prepare.read(file.fileno(), np.array([1, 5]), places, 3, ids(1, 2)))
        assert not ring._sqes[:2, 8:].any()
        assert results(ring, 2) == {1: 3, 2: 3}
    assert [buffers[index][:3].tobytes() for index in range(2)] == [b"123", b"567"]


# Waits.


def test_a_wait_ends_at_its_deadline(ring: Ring) -> None:
    began = time.monotonic()
    assert ring.submit(1, 0.05) == 0
    assert 0.05 <= time.monotonic() - began < ENOUGH_S


def test_a_wait_ends_with_what_it_waits_for(ring: Ring) -> None:
    began = time.monotonic()
    times = prepare.timespecs([1_000_000, 2_000_000, 3_600_000_000_000])
    ring.push(prepare.timeout(times, ids(1, 2, 3)))
    assert ring.submit(2, ENOUGH_S) == 2
    assert time.monotonic() - began < ENOUGH_S
    assert results(ring, 2) == {1: -errno.ETIME, 2: -errno.ETIME}


def test_an_absolute_time_is_that_of_the_monotonic_clock(ring: Ring) -> None:
    due = time.monotonic_ns() + 20_000_000
    ring.push(prepare.timeout(prepare.timespecs(due), 1, absolute=True))
    assert results(ring, 1) == {1: -errno.ETIME}
    assert time.monotonic_ns() >= due


def test_the_descriptor_tells_of_completions(ring: Ring) -> None:
    """So that a ring can be waited for beside other descriptors."""
    assert not select.select([ring.fd], [], [], 0)[0]
    ring.push(prepare.timeout(prepare.timespecs(10_000_000), 1))
    ring.submit()
    assert select.select([ring.fd], [], [], ENOUGH_S)[0]
    assert ring.submit() == 1
    ring.reap()
    assert not select.select([ring.fd], [], [], 0)[0]


def test_a_signal_does_not_end_a_wait(ring: Ring) -> None:
    came: list[float] = []
    before = signal.signal(signal.SIGALRM, lambda *_: came.append(time.monotonic()))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        ring.push(prepare.timeout(prepare.timespecs(60_000_000), 7))
        assert ring.submit(1, ENOUGH_S) == 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert came
    assert results(ring, 1) == {7: -errno.ETIME}


def test_a_handler_that_raises_leaves_the_ring_whole(ring: Ring) -> None:
    def interrupt(*_: object) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        ring.push(prepare.timeout(prepare.timespecs([50_000_000, 60_000_000]), ids(1, 2)))
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(InterruptedError):
            ring.submit(2, ENOUGH_S)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert (ring.pending, ring.in_flight) == (0, 2)
    assert len(results(ring, 2)) == 2


def test_nothing_to_wait_for_takes_no_time(ring: Ring) -> None:
    ring.push(prepare.nop(1))
    assert ring.submit(1, ENOUGH_S) == 1
    began = time.monotonic()
    assert ring.submit(1, ENOUGH_S) == 1
    assert time.monotonic() - began < ENOUGH_S / 2


# Overflow.


def test_more_completions_than_the_ring_holds_are_told_and_come_later() -> None:
    with Ring(8, completions=8) as ring:
        assert ring.completions == 8
        for turn in range(4):
            ring.push(prepare.nop(np.arange(8) + 8 * turn))
            assert ring.submit() == 8
        assert ring.overflows >= 1
        assert sorted(results(ring, 32)) == list(range(32))
        assert ring.in_flight == 0


def test_a_kernel_without_room_is_told_unless_completions_are_the_way_out(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older kernels say EBUSY until completions are taken; EBADR is for some that are lost."""
    ring.push(prepare.nop(1))
    ring.submit(1, ENOUGH_S)
    monkeypatch.setattr(_syscall, "enter", lambda *_: -errno.EBUSY)
    assert ring.submit(2, ENOUGH_S) == 1
    ring.reap()
    with pytest.raises(RingError, match="Device or resource busy"):
        ring.submit()
    monkeypatch.setattr(_syscall, "enter", lambda *_: -errno.EBADR)
    with pytest.raises(RingError, match="no memory for 0 completions"):
        ring.submit()


# Cancellation.


def test_a_read_of_an_empty_pipe_is_cancelled(ring: Ring) -> None:
    buffers = Buffers(3, 4096)
    with pipe() as (reader, _):
        places = buffers.addresses(np.arange(3))
        ring.push(prepare.read(reader, -1, places, 64, ids(1, 2, 3)))
        assert ring.submit() == 0
        assert ring.in_flight == 3
        ring.push(prepare.cancel(ids(2, 99), ids(10, 11)))
        assert results(ring, 3) == {2: -errno.ECANCELED, 10: 0, 11: -errno.ENOENT}
        ring.push(prepare.cancel_all(12))
        found = results(ring, 3)
        assert found.pop(12) == 2
        assert set(found.values()) == {-errno.ECANCELED}
        assert ring.in_flight == 0


def test_a_timeout_is_cancelled(ring: Ring) -> None:
    ring.push(prepare.timeout(prepare.timespecs(3_600_000_000_000), 1))
    ring.submit()
    ring.push(prepare.cancel(1, 2))
    assert results(ring, 2) == {1: -errno.ECANCELED, 2: 0}


# Its end.


def test_close_leaves_nothing_behind() -> None:
    gc.collect()
    before, mapped = descriptors(), mapped_rings()
    ring = Ring(8)
    view = ring.peek()
    assert mapped_rings() > mapped
    ring.push(prepare.nop(ids(1, 2)))
    ring.close()
    ring.close()
    assert descriptors() == before
    assert mapped_rings() == mapped, "a view that is still held keeps the ring"
    assert len(view) == 0


def test_close_ends_what_is_in_flight() -> None:
    """After it nothing is written into the buffers, and no end of the pipe is held."""
    buffers = Buffers(4, 4096)
    reader, writer = os.pipe()
    with Watched(4, completions=4) as ring:
        ring.push(prepare.read(reader, -1, buffers.addresses(np.arange(4)), 64, np.arange(4)))
        ring.submit()
        ring.push(prepare.nop(np.arange(4)))  # full, and not submitted
    assert ring.left == 0
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"x")
    os.close(writer)
    assert not buffers.rows.any()


def test_close_waits_for_what_cannot_be_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "file"
    buffers = Buffers(64, 1 << 16)
    buffers.rows[:] = 5
    with Watched(64) as ring, path.open("wb") as file:
        offsets = np.arange(64) << 16
        places = buffers.addresses(np.arange(64))
        ring.push(prepare.write(file.fileno(), offsets, places, 1 << 16, np.arange(64), flags=16))
        ring.submit()
        ring.close()
        assert ring.left == 0
        written = path.stat().st_size
        time.sleep(0.05)
        assert path.stat().st_size == written, "something was still written after close"


def test_a_closed_ring_says_so(ring: Ring) -> None:
    ring.close()
    for use in (
        lambda: ring.fd,
        lambda: ring.push(prepare.nop(1)),
        lambda: ring.submit(),
        lambda: ring.submit(1, 1.0),
        ring.peek,
        ring.reap,
        lambda: ring.release(0),
        lambda: ring.in_flight,
        ring.enable,
    ):
        with pytest.raises(RingError, match="the ring is closed"):
            use()


def test_a_fork_closes_the_childs_ring_and_leaves_the_parents(ring: Ring) -> None:
    with pipe() as (reader, _):
        buffers = Buffers(1, 4096)
        ring.push(prepare.read(reader, -1, buffers.address, 64, 1))
        ring.submit()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                ring.submit()
            except RingError:
                status = 0 if not mapped_rings() else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert ring.in_flight == 1
        ring.push(prepare.cancel(1, 2))
        assert results(ring, 2) == {1: -errno.ECANCELED, 2: 0}


def test_one_that_is_killed_half_way_leaves_nothing(tmp_path: Path) -> None:
    """Its reads of a pipe end, and so do its writes: the file is not written to any more."""
    reader, writer = os.pipe()
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            own = Ring(64)
            buffers = Buffers(64, 4096)
            places = buffers.addresses(np.arange(64))
            own.push(prepare.read(reader, -1, places[:32], 64, np.arange(32)))
            own.submit()
            with (tmp_path / "file").open("wb") as file:
                os.write(tell, b"!")
                while True:
                    own.push(prepare.write(file.fileno(), 0, places[32:], 4096, np.arange(32)))
                    own.submit(1, 1.0)
                    own.reap()
        finally:
            os._exit(1)
    os.close(reader)
    assert os.read(told, 1) == b"!"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    deadline = time.monotonic() + ENOUGH_S
    while True:  # the kernel takes a ring apart in a worker of its own
        try:
            os.write(writer, b"x")
        except BrokenPipeError:
            break
        assert time.monotonic() < deadline, "the pipe is still held"
        time.sleep(0.01)
    for end in (writer, told, tell):
        os.close(end)


# Wrong use.


@pytest.mark.parametrize(
    ("entries", "completions"),
    [(0, 0), (-1, 0), (MOST_ENTRIES + 1, 0), (8, 4), (8, -1), (8, 2 * MOST_ENTRIES + 1)],
)
def test_sizes_that_cannot_be_are_refused(entries: int, completions: int) -> None:
    with pytest.raises(UsageError, match=r"a ring .*cannot have"):
        Ring(entries, completions=completions)


def test_sizes_are_rounded_up() -> None:
    with Ring(5, completions=9) as ring:
        assert (ring.entries, ring.completions) == (8, 16)


def test_wrong_use_is_refused_in_one_line(ring: Ring) -> None:
    for use, said in (
        (lambda: ring.push(np.zeros(1, SQE128)), "entries of 64 bytes"),
        (lambda: ring.push(np.zeros(1, CQE)), "entries of 64 bytes"),
        (lambda: ring.push(np.zeros(4)), "entries of 64 bytes"),
        (lambda: ring.submit(17, 1.0), "cannot wait for 17 of 16"),
        (lambda: ring.submit(-1, 1.0), "cannot wait for -1"),
        (lambda: ring.submit(1, -1.0), "cannot wait -1.0 s"),
        (lambda: ring.submit(1, float("inf")), "cannot wait inf s"),
        (lambda: ring.submit(1, float("nan")), "cannot wait nan s"),
        (lambda: ring.release(1), "cannot release 1 of 0"),
        (lambda: ring.release(-1), "cannot release -1"),
    ):
        with pytest.raises(UsageError, match=said) as refused:
            use()
        assert "\n" not in str(refused.value)
    assert (ring.pending, ring.ready) == (0, 0)


def test_a_bad_entry_does_not_keep_its_neighbours(ring: Ring) -> None:
    made = prepare.nop(np.arange(5))
    made["opcode"][2] = 255
    made["fd"][3] = -1
    ring.push(made)
    found = results(ring, 5)
    assert found.pop(2) == -errno.EINVAL
    assert not any(found.values())


def test_bad_addresses_and_descriptors_are_answered(ring: Ring) -> None:
    with Path("/dev/zero").open("rb") as zero:
        fds = np.array([zero.fileno(), -1, 1 << 20])
        ring.push(prepare.read(fds, 0, 8, 4096, ids(1, 2, 3)))
        assert results(ring, 3) == {1: -errno.EFAULT, 2: -errno.EBADF, 3: -errno.EBADF}


def test_another_threads_use_is_refused(ring: Ring) -> None:
    if not ring.flags & Setup.SINGLE_ISSUER:
        pytest.skip("this kernel has no SINGLE_ISSUER")
    ring.push(prepare.nop(1))
    said: list[str] = []

    def use() -> None:
        try:
            ring.submit()
        except RingError as error:
            said.append(str(error))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert said
    assert "one thread alone" in said[0]
    assert results(ring, 1) == {1: 0}


def test_another_thread_may_close_it() -> None:
    gc.collect()
    before = descriptors()
    ring = Ring(8)
    with pipe() as (reader, _):
        buffers = Buffers(1, 4096)
        ring.push(prepare.read(reader, -1, buffers.address, 64, 1))
        ring.submit()
        thread = threading.Thread(target=ring.close)
        thread.start()
        thread.join()
    assert descriptors() == before
