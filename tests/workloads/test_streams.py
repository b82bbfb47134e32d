# SPDX-License-Identifier: Apache-2.0
"""Access streams as arrays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmind.errors import UsageError
from kmind.workloads import streams

sizes = st.integers(1, 64)
counts = st.integers(0, 300)


@given(n=counts, pages=st.integers(64, 4096), length=sizes, stride=st.integers(-100, 100),
       start=st.integers(0, 10**6), seed=st.integers(0, 9))  # fmt: skip
def test_streams_stay_inside_the_file_and_repeat(n, pages, length, stride, start, seed):
    for make in (
        lambda: streams.random(n, pages=pages, length=length, seed=seed),
        lambda: streams.strided(n, pages=pages, length=length, stride=stride, start=start),
        lambda: streams.sequential(n, pages=pages, length=length),
    ):
        stream = make()
        assert stream.shape == (n, 2)
        assert stream.dtype == np.int64
        assert (stream[:, 0] >= 0).all()
        assert (stream.sum(axis=1) <= pages).all()
        np.testing.assert_array_equal(stream, make())


def test_patterns_of_streams():
    ahead = streams.sequential(5, pages=8, length=2)
    assert ahead[:, 0].tolist() == [0, 2, 4, 6, 0]
    assert streams.sequential(3, pages=8, length=2, start=3)[:, 0].tolist() == [3, 5, 3]
    assert np.diff(streams.strided(5, pages=100, stride=7)[:, 0]).tolist() == [7] * 4
    mixed = streams.random(1000, pages=1000, seed=1)
    assert len(np.unique(mixed[:, 0])) > 500
    assert (mixed != streams.random(1000, pages=1000, seed=2)).any()


def test_phases_take_turns_and_go_on_where_they_stopped():
    a = streams.sequential(5, pages=100)
    b = streams.sequential(3, pages=100, start=50)
    assert streams.phased([a, b], period=2)[:, 0].tolist() == [0, 1, 50, 51, 2, 3, 52, 4]
    assert streams.phased([], period=1).shape == (0, 2)


def test_streams_that_cannot_be():
    with pytest.raises(UsageError):
        streams.random(1, pages=1, length=2)
    with pytest.raises(UsageError):
        streams.sequential(1, pages=4, start=4)
    with pytest.raises(UsageError):
        streams.phased([], period=0)
