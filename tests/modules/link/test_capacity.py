# SPDX-License-Identifier: Apache-2.0
"""A bottleneck never exceeds its rate, over any window, and is never idle while it has frames."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kmind.modules.link.capacity import DELIVERY_BYTES, Capacity, Rate, Trace

MS = 1_000_000
START = 10**15

BATCHES = st.lists(
    st.tuples(st.integers(0, 20 * MS), st.lists(st.integers(14, 9000), min_size=1, max_size=8)),
    min_size=1,
    max_size=20,
)
"""Times between batches, and the bytes of their frames."""
RATES = st.integers(50_000, 10**11)
DELIVERIES = st.lists(st.integers(0, 30), min_size=1, max_size=20).map(
    lambda steps: np.cumsum([*steps, 1]) * MS
)


def run(capacity: Capacity, batches: list[tuple[int, list[int]]]) -> list[tuple[int, int, int]]:
    """Arrival, bytes and departure of each frame."""
    now, frames = START, []
    for gap, sizes in batches:
        now += gap
        times = capacity.send(now, np.array(sizes)).tolist()
        frames += [(now, size, time) for size, time in zip(sizes, times, strict=True)]
        assert capacity.through == times[-1]
        assert capacity.backlog(now) > 0
        assert capacity.backlog(times[-1]) == 0
    return frames


@given(RATES, BATCHES)
def test_over_any_window_no_more_passes_than_the_rate_and_one_frame(
    rate: int, batches: list[tuple[int, list[int]]]
) -> None:
    frames = run(Rate(rate), batches)
    for first in range(len(frames)):
        passed = 0
        for _, size, time in frames[first + 1 :]:
            # The first one was through at the window's start; rounding up may cost a nanosecond.
            passed += size * 8 * 10**9
            assert passed <= rate * (time - frames[first][2] + 1)


@given(RATES, BATCHES)
def test_times_are_exact(rate: int, batches: list[tuple[int, list[int]]]) -> None:
    """To the nanosecond, as fractions give them."""
    free = 0  # in ns times the rate
    for come, size, time in run(Rate(rate), batches):
        free = max(free, come * rate) + size * 8 * 10**9
        assert time == -(-free // rate)


@given(RATES, st.lists(st.integers(14, 1514), min_size=1, max_size=200))
def test_a_rate_that_has_frames_all_the_time_does_not_drift(rate: int, sizes: list[int]) -> None:
    times = [time for _, _, time in run(Rate(rate), [(0, [size]) for size in sizes])]
    exact = np.cumsum(sizes, dtype=object) * 8 * 10**9
    assert [time - START for time in times] == [-(-int(one) // rate) for one in exact]


@given(DELIVERIES, BATCHES)
def test_a_trace_lets_through_what_its_deliveries_carry(
    deliveries: np.ndarray, batches: list[tuple[int, list[int]]]
) -> None:
    """As mm-link does it, delivery by delivery."""
    number, room = 0, 0  # deliveries that were begun, and what is left of the last one
    for come, size, time in run(Trace(deliveries, START), batches):
        while size:
            if not room or at(deliveries, number - 1) <= come:
                number, room = number + 1, DELIVERY_BYTES
                continue
            part = min(size, room)
            size, room = size - part, room - part
        assert time == at(deliveries, number - 1)


def at(deliveries: np.ndarray, number: int) -> int:
    turns, rest = divmod(number, len(deliveries))
    return START + turns * int(deliveries[-1]) + int(deliveries[rest])


def test_a_trace_that_begins_later_lets_nothing_through_before() -> None:
    trace = Trace(np.array([MS, 2 * MS]), START + 50 * MS)
    assert trace.through == START + 50 * MS
    assert trace.send(START, np.array([100, 1514])).tolist() == [START + 51 * MS, START + 52 * MS]


def test_a_delivery_carries_a_whole_frame_or_several_small_ones() -> None:
    trace = Trace(np.array([MS, 2 * MS, 5 * MS]), START)
    sizes = np.array([1514, 757, 757, 1, 1513])
    times = [(time - START) // MS for time in trace.send(START, sizes).tolist()]
    assert times == [1, 2, 2, 5, 5]
