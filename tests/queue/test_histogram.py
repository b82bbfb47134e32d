# SPDX-License-Identifier: Apache-2.0
"""Buckets of base-2 exponential histograms, against their definition in floating point."""

import re
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import kmind
from kmind.queue import bucket_bounds, bucket_count, bucket_of
from kmind.queue.histogram import _fine_bounds

TABLE_H = Path(kmind.__file__).parent / "include/kmind/table.h"

ranges = st.tuples(st.integers(0, 5), st.integers(0, 40), st.integers(1, 10)).map(
    lambda drawn: (drawn[0], drawn[1], drawn[1] + drawn[2])
)


@given(ranges, st.integers(0, 2**64 - 1) | st.integers(0, 63).map(lambda power: 2**power))
def test_bucket_holds_values_above_its_lower_bound_up_to_its_upper_one(
    histogram: tuple[int, int, int], value: int
) -> None:
    bounds = bucket_bounds(*histogram)
    bucket = bucket_of(value, *histogram)
    # A float holds 53 bits: beside a bound it may err by one part in 2^52.
    near = 1 + 2**-50
    assert value <= bounds[bucket] * near
    assert bucket == 0 or value * near > bounds[bucket - 1]


@given(ranges)
def test_power_of_two_belongs_to_the_bucket_that_it_ends(histogram: tuple[int, int, int]) -> None:
    scale, low, high = histogram
    for power in range(low, high + 1):
        bucket = bucket_of(1 << power, *histogram)
        assert bucket == (power - low) << scale
        assert bucket_bounds(*histogram)[bucket] == 2.0**power


def test_values_outside_the_range_are_counted_at_its_ends() -> None:
    for value, bucket in ((0, 0), (16, 0), (17, 1), (256, 4), (257, 5), (2**64 - 1, 5)):
        assert bucket_of(value, 0, 4, 8) == bucket
    assert bucket_count(0, 4, 8) == 6
    assert len(bucket_bounds(0, 4, 8)) == 6


def test_bounds_of_the_c_library_are_those_of_python() -> None:
    text = TABLE_H.read_text().partition("km_bounds[")[2].partition("};")[0]
    assert [int(word, 16) for word in re.findall(r"0x[0-9a-f]{16}", text)] == list(_fine_bounds())


def test_bounds_are_exact_roots() -> None:
    for step, bound in enumerate(_fine_bounds()):
        power = 1 << ((63 << 5) + step)
        assert bound**32 <= power < (bound + 1) ** 32
    assert np.all(np.diff([float(bound) for bound in _fine_bounds()]) > 0)
