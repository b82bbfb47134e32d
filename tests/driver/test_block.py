# SPDX-License-Identifier: Apache-2.0
"""Batches: each request gets one answer, and none that cannot be right."""

import errno
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from kmind.driver.block import AnswerError, Batch, Buffer, Op, Requests, Which


class Sent:
    """Keeps the answers that a transport was told to send: an error number, or data, by index."""

    def __init__(self) -> None:
        self.answers: dict[int, int | bytes] = {}

    def __call__(
        self, indices: Sequence[int], error: int, data: Sequence[Buffer] | None, /
    ) -> None:
        for place, index in enumerate(indices):
            assert index not in self.answers, "answered twice"
            self.answers[index] = error if data is None else bytes(data[place])


def make_batch(*ops: Op, length: int = 4) -> tuple[Batch, Sent]:
    sent = Sent()
    count = len(ops)
    none = np.zeros(count, bool)
    requests = Requests(
        np.array(ops, np.uint8),
        np.arange(count, dtype=np.int64) * length,
        np.full(count, length, np.int64),
        none,
        none,
    )
    batch = Batch(
        requests,
        [memoryview(bytearray(b"%d" % index * length)) for index in range(count)],
        sent,
    )
    return batch, sent


R, W, F = Op.READ, Op.WRITE, Op.FLUSH


def test_results_go_to_their_requests_in_any_order() -> None:
    batch, sent = make_batch(R, W, R, F, R)
    batch.finish([4, 1, 0], [b"four", None, b"zero"])
    assert sent.answers == {4: b"four", 1: b"", 0: b"zero"}
    assert batch.open.tolist() == [False, False, True, True, False]
    batch.finish(batch.open)
    assert sent.answers[2] == b"2222"  # its memory is sent
    assert sent.answers[3] == b""
    assert not batch.open.any()


@pytest.mark.parametrize(
    "which", [1, [1], np.int8(1), np.array([1]), np.array([False, True, False])]
)
def test_requests_are_named_by_index_or_mask(which: Which) -> None:
    batch, sent = make_batch(R, R, R)
    batch.fail(which, errno.ENOSPC)
    assert sent.answers == {1: errno.ENOSPC}


def test_nothing_named_is_nothing_answered() -> None:
    batch, sent = make_batch(R, R)
    batch.finish([])
    batch.fail(np.zeros(2, bool), errno.EIO)
    assert sent.answers == {}


@pytest.mark.parametrize(
    "which", [2, -1, [0, 2], [0, 0], [True], [0.0], [[0]], np.array([True, False, True])]
)
def test_an_unknown_request_is_refused_and_nothing_is_answered(which: Which) -> None:
    batch, sent = make_batch(R, R)
    with pytest.raises(AnswerError):
        batch.finish(which)
    with pytest.raises(AnswerError):
        batch.fail(which, errno.EIO)
    assert sent.answers == {}
    assert batch.open.all()


def test_a_second_answer_is_refused_and_the_first_stands() -> None:
    batch, sent = make_batch(R, R)
    batch.finish(0, [b"true"])
    with pytest.raises(AnswerError, match="request 0 is answered already"):
        batch.finish([1, 0])
    with pytest.raises(AnswerError, match="request 0 is answered already"):
        batch.fail([1, 0], errno.EIO)
    assert sent.answers == {0: b"true"}


@pytest.mark.parametrize("wrong", [b"", b"123", b"12345", memoryview(b"12345678").cast("Q")])
def test_data_of_another_length_is_an_error_for_its_caller_alone(wrong: Buffer) -> None:
    batch, sent = make_batch(R, R, R)
    with pytest.raises(AnswerError, match="request 1, which takes 4"):
        batch.finish([0, 1, 2], [b"zero", wrong, b"two!"])
    assert sent.answers == {0: b"zero", 1: errno.EIO, 2: b"two!"}


def test_data_for_a_write_is_refused() -> None:
    batch, sent = make_batch(W)
    with pytest.raises(AnswerError):
        batch.finish(0, [b"data"])
    assert sent.answers == {0: errno.EIO}


def test_results_have_to_be_as_many_as_requests() -> None:
    batch, sent = make_batch(R, R)
    with pytest.raises(AnswerError, match="1 results for 2 requests"):
        batch.finish([0, 1], [b"zero"])
    assert sent.answers == {}


@pytest.mark.parametrize("error", [0, -5, 100_000])
def test_an_error_has_to_be_one(error: int) -> None:
    batch, sent = make_batch(R)
    with pytest.raises(AnswerError, match="there is no error"):
        batch.fail(0, error)
    assert sent.answers == {}


def test_threads_that_race_for_a_request_answer_it_once() -> None:
    batch, sent = make_batch(*[R] * 500)
    lost = []
    together = threading.Barrier(4)

    def answer() -> None:
        together.wait()
        for index in range(500):
            try:
                batch.finish(index)
            except AnswerError:
                lost.append(index)

    threads = [threading.Thread(target=answer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sent.answers) == 500
    assert len(lost) == 3 * 500
