# SPDX-License-Identifier: Apache-2.0
"""Batches of frames: what is answered goes once, to where it was sent, and nothing else does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmind.driver.block import AnswerError
from kmind.driver.net.batch import Batch, Frames
from kmind.driver.net.tap import VNET

NOW = 1_000


class Sent:
    """The transport's half: remembers what was answered after ``serve``."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[int], list[int], list[int]]] = []

    def __call__(self, slots: np.ndarray, to: np.ndarray, due: np.ndarray) -> None:
        self.calls.append((slots.tolist(), to.tolist(), due.tolist()))


def make(
    count: int, *, rows: np.ndarray | None = None, length: int = 60, sent: Sent | None = None
) -> Batch:
    if rows is None:
        rows = np.zeros((count + 10, 200), np.uint8)
    slots = np.arange(10, 10 + count)
    return Batch(
        Frames(rows, slots, np.full(count, length)),
        np.zeros(count, np.int64),
        NOW,
        interfaces=2,
        aggregated=True,
        send=sent or Sent(),
    )


def test_each_frame_goes_where_it_was_sent_and_when() -> None:
    batch = make(4)
    batch.forward([0, 2], np.array([1, 0]))
    batch.delay(np.array([True, True, False, False]), 500)
    batch.drop(3)
    assert batch.open.tolist() == [False, True, False, False]
    slots, to, due, dropped = (part.tolist() for part in batch.end_of_serve())
    assert (slots, to, due, dropped) == ([10, 12], [1, 0], [NOW + 500, NOW], [13])


def test_an_answer_after_serve_goes_at_once_and_keeps_its_delay() -> None:
    sent = Sent()
    batch = make(3, sent=sent)
    batch.delay([0, 1], np.array([7, 8]))
    batch.end_of_serve()
    batch.forward(1, 1)
    batch.drop([0, 2])
    assert sent.calls == [([11], [1], [NOW + 8]), ([10, 12], [-1, -1], [NOW + 7, NOW])]
    assert not batch.open.any()


def test_what_a_failed_serve_left_is_dropped() -> None:
    batch = make(2)
    batch.forward(0, 1)
    slots, _, _, dropped = (part.tolist() for part in batch.end_of_serve(failed=True))
    assert (slots, dropped) == ([10], [11])
    with pytest.raises(AnswerError, match="already"):
        batch.forward(1, 1)


@pytest.mark.parametrize("late", [False, True])
def test_a_second_answer_is_refused_and_does_nothing(late: bool) -> None:
    sent = Sent()
    batch = make(3, sent=sent)
    if late:
        batch.end_of_serve()
    batch.forward(0, 1)
    for again in (lambda: batch.forward([0, 1], 1), lambda: batch.drop([1, 0])):
        with pytest.raises(AnswerError, match="already"):
            again()
    assert batch.open.tolist() == [False, True, True]
    assert len(sent.calls) == late


@pytest.mark.parametrize(
    ("which", "to"),
    [(3, 1), (-1, 1), ([0, 0], 1), (0, 2), (0, -1), (0, 0.5), ([0, 1], np.array([1])), (0.5, 1)],
)
def test_a_wrong_answer_is_refused(which: object, to: object) -> None:
    batch = make(3)
    with pytest.raises(AnswerError):
        batch.forward(which, to)  # type: ignore[arg-type]
    with pytest.raises(AnswerError):
        batch.forward(np.array([True]), 1)
    assert batch.open.all()


@pytest.mark.parametrize("ns", [-1, 0.5, 2**62, np.array([1, 2])])
def test_a_delay_that_cannot_be_is_refused(ns: object) -> None:
    batch = make(3)
    with pytest.raises(AnswerError, match="delay"):
        batch.delay(0, ns)  # type: ignore[arg-type]
    batch.drop(0)
    with pytest.raises(AnswerError, match="gone"):
        batch.delay(0, 1)


def test_frames_are_views_of_their_bytes() -> None:
    rows = np.arange(15 * 200).reshape(15, 200).astype(np.uint8)
    batch = make(5, rows=rows, length=30)
    start = VNET.itemsize
    assert [bytes(frame) for frame in batch.frames] == [
        bytes(row[start : start + 30]) for row in rows[10:]
    ]
    assert batch.frames.head(6).tolist() == rows[10:, start : start + 6].tolist()
    batch.frames[2][0] = 99
    assert rows[12, start] == 99


@given(st.integers(1, 65_000), st.integers(8, 1460), st.integers(5, 15))
def test_an_aggregated_frame_counts_as_its_packets(payload: int, size: int, words: int) -> None:
    rows = np.zeros((11, 200), np.uint8)
    vnet = rows[:, : VNET.itemsize].view(VNET)[:, 0]
    vnet["gso_type"][10], vnet["gso_size"][10], vnet["csum_start"][10] = 1, size, 34
    vnet["hdr_len"][10] = 190  # a hint, and wrong as it may be
    rows[10, VNET.itemsize + 34 + 12] = words << 4
    header = 34 + 4 * words
    batch = make(1, rows=rows, length=header + payload)
    parts = [min(size, payload - start) + header for start in range(0, payload, size)]
    assert batch.packets.tolist() == [len(parts)]
    assert batch.wire.tolist() == [sum(parts)]
    assert batch.length.tolist() == [header + payload]


@given(st.binary(min_size=VNET.itemsize, max_size=VNET.itemsize), st.integers(1, 100))
def test_headers_full_of_lies_count_as_something(header: bytes, length: int) -> None:
    rows = np.full((11, 200), 255, np.uint8)
    rows[10, : VNET.itemsize] = np.frombuffer(header, np.uint8)
    batch = make(1, rows=rows, length=length)
    assert 1 <= batch.packets[0] <= max(length, 1)
    assert length <= batch.wire[0] <= length + length // 8 * 256
