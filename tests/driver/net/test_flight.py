# SPDX-License-Identifier: Apache-2.0
"""Frames that wait leave in the order of their times, each once; slots are handed out once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmind.driver.net.flight import Flight, Slots

BATCHES = st.lists(st.lists(st.integers(0, 50), max_size=6), max_size=12)


@given(BATCHES, st.lists(st.integers(0, 60), max_size=12))
def test_frames_leave_by_time_and_then_by_order(batches: list[list[int]], turns: list[int]) -> None:
    flight = Flight()
    waiting: list[tuple[int, int]] = []
    number = 0
    for batch, now in zip(batches, [*turns, *[60] * len(batches)], strict=False):
        slots = np.arange(number, number + len(batch))
        flight.add(slots, slots % 3, np.array(batch, np.int64))
        waiting += zip(batch, slots.tolist(), strict=True)
        number += len(batch)
        assert len(flight) == len(waiting)
        if waiting:
            assert flight.next == min(waiting)[0]
        due = sorted(one for one in waiting if one[0] <= now)
        taken, to = flight.take(now)
        assert taken.tolist() == [slot for _, slot in due]
        assert to.tolist() == [slot % 3 for _, slot in due]
        waiting = [one for one in waiting if one[0] > now]


@given(st.lists(st.integers(0, 9), max_size=40))
def test_a_slot_is_had_by_one_at_a_time(counts: list[int]) -> None:
    slots, taken = Slots(100, 16), []
    for count in counts:
        if count <= slots.free:
            taken.append(slots.take(count))
        elif taken:
            slots.give(taken.pop(0))
        held = [slot for one in taken for slot in one.tolist()]
        assert len(held) == len(set(held)) == 16 - slots.free
        assert all(100 <= slot < 116 for slot in held)
    with pytest.raises(IndexError):
        slots.take(17)
