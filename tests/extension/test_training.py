# SPDX-License-Identifier: Apache-2.0
"""Records that a module's recipe gets, and the logarithm that it shares with its agent."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmind.abi import layout
from kmind.extension.training import Recipe, Recorded, log_of


def recorded(spans_ns: list[int], counts: list[int]) -> Recorded:
    windows = np.zeros(len(counts), layout.WINDOW)
    windows["end_ns"] = spans_ns
    windows["value"][:, 2] = counts
    return Recorded("m@x", windows, {"reads": 2}, {}, {}, {}, {}, {})


def test_rate_is_a_second() -> None:
    one = recorded([500_000_000, 2_000_000_000], [100, 100])
    assert one.rate("reads").tolist() == [200, 50]
    assert one.gauge("reads").tolist() == [100, 100]


def test_rate_of_a_window_without_length_is_finite() -> None:
    assert recorded([0], [5]).rate("reads").tolist() == [5000]


@given(st.integers(0, 2**63 - 1))
def test_log_is_base_two_in_sixteenths(value: int) -> None:
    (found,) = log_of(np.array([value]))
    if value < 2:
        assert found == 0
    else:
        power = value.bit_length() - 1
        assert found >> 4 == power
        assert found & 15 == (value << 4 >> power) & 15


@given(st.lists(st.integers(-5, 2**62), min_size=2))
def test_log_keeps_the_order(given_values: list[int]) -> None:
    values = np.sort(np.array(given_values))
    assert (np.diff(log_of(values)) >= 0).all()


def test_recipe_has_to_be_written() -> None:
    with pytest.raises(NotImplementedError):
        Recipe().dataset([])
    with pytest.raises(NotImplementedError):
        Recipe().rule(np.zeros((1, 1)), ("a",))
