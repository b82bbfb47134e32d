# SPDX-License-Identifier: Apache-2.0
"""The histogram of the owner's turns."""

import math

from hypothesis import given
from hypothesis import strategies as st

from kmind.runtime.supervisor.turn_times import CLASSES, TurnTimes, class_of, quantile, upper_ms


@given(st.floats(0, 1e6, allow_nan=False))
def test_length_lies_within_its_class(seconds: float) -> None:
    index = class_of(seconds)
    assert 0 <= index < CLASSES
    if 1e-5 < seconds < 100:
        assert upper_ms(index - 1) < 1e3 * seconds * (1 + 1e-9)
        assert 1e3 * seconds <= upper_ms(index) * (1 + 1e-9)


def test_turns_are_counted_without_the_waits_between_them() -> None:
    clock = [100.0]
    turns = TurnTimes(lambda: clock[0], lambda: clock[0] / 2)
    turns.end()  # none has begun
    for length in [0.001] * 99 + [0.2]:
        turns.begin()
        clock[0] += length
        turns.end()
        clock[0] += 1.0
    told = turns.describe()
    assert told["turns"] == 100
    assert math.isclose(told["max_ms"], 200, rel_tol=1e-6)
    assert math.isclose(told["total_s"], 0.299, rel_tol=1e-6)
    assert 1 <= told["p50_ms"] <= 1.1
    assert 1 <= told["p99_ms"] <= 1.1
    assert sum(told["counts"].values()) == 100
    assert quantile({int(k): n for k, n in told["counts"].items()}, 1.0) >= 200
    assert math.isclose(told["cpu"]["max_ms"], 100, rel_tol=1e-6)
    assert quantile({}, 0.5) == 0


def test_turn_with_a_change_that_was_asked_for_is_counted_apart() -> None:
    clock = [0.0]
    turns = TurnTimes(lambda: clock[0], lambda: clock[0] / 2)
    for length, asked in ((0.3, True), (0.001, False)):
        turns.begin()
        clock[0] += length
        if asked:
            turns.mark()
        turns.end()
    told = turns.describe()
    assert (told["turns"], told["asked"]["turns"]) == (1, 1)
    assert told["max_ms"] < 2
    assert told["asked"]["max_ms"] > 299
