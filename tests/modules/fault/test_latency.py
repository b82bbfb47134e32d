# SPDX-License-Identifier: Apache-2.0
"""Laws draw what was asked, repeat by seed, and do not depend on the batches."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmind.driver.block import LONGEST_DELAY_NS, Op
from kmind.errors import UsageError
from kmind.modules.fault.latency import Constant, Empirical, Law, Lognormal, Replayed, Schedule

MAKERS: list[Callable[[np.random.Generator], Law]] = [
    lambda _: Constant(5),
    lambda random: Lognormal(1_000_000, 0.5, random),
    lambda random: Empirical([10, 20, 30], random),
    lambda _: Replayed([1, 2, 3], [10, 20]),
]


def ops(count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 3, count).astype(np.uint8)


@pytest.mark.parametrize("make", MAKERS)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), st.integers(0, 2**32))
def test_batches_make_no_difference(
    make: Callable[[np.random.Generator], Law], sizes: list[int], seed: int
) -> None:
    asked = ops(sum(sizes), seed)
    whole = make(np.random.default_rng(seed)).draw(asked, 0)
    law = make(np.random.default_rng(seed))
    parts = [law.draw(part, 0) for part in np.split(asked, np.cumsum(sizes)[:-1])]
    assert np.concatenate(parts).tolist() == whole.tolist()
    assert whole.dtype == np.int64


def test_a_lognormal_has_its_median_and_tail() -> None:
    drawn = Lognormal(1_000_000, 0.5, np.random.default_rng(1)).draw(ops(100_000), 0)
    assert np.median(drawn) == pytest.approx(1e6, rel=0.02)
    assert np.percentile(drawn, 99) == pytest.approx(1e6 * np.exp(0.5 * 2.326), rel=0.05)
    longest = Lognormal(LONGEST_DELAY_NS, 5, np.random.default_rng(1)).draw(ops(1000), 0)
    assert longest.max() == LONGEST_DELAY_NS


def test_a_sample_is_drawn_from_evenly() -> None:
    drawn = Empirical([10, 20, 20, 70], np.random.default_rng(1)).draw(ops(40_000), 0)
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [10, 20, 70]
    assert counts / 40_000 == pytest.approx([0.25, 0.5, 0.25], abs=0.02)


def test_a_schedule_holds_from_each_step_on() -> None:
    law = Schedule([10, 20], [5, 7])
    assert [law.draw(ops(1), at).item() for at in (0, 9, 10, 19, 20, 10**15)] == [0, 0, 5, 5, 7, 7]


def test_a_recording_is_replayed_by_kind_and_again() -> None:
    law = Replayed([1, 2, 3], [10, 20])
    asked = np.array([Op.READ, Op.WRITE, Op.READ, Op.READ, Op.FLUSH, Op.READ, Op.WRITE], np.uint8)
    assert law.draw(asked, 0).tolist() == [1, 10, 2, 3, 20, 1, 10]
    assert law.draw(asked, 0).tolist() == [2, 20, 3, 1, 10, 2, 20]
    assert Replayed([], [4]).draw(asked, 0).tolist() == [0, 4, 0, 0, 4, 0, 4]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Constant(-1),
        lambda: Constant(LONGEST_DELAY_NS + 1),
        lambda: Lognormal(1, -0.1, np.random.default_rng()),
        lambda: Lognormal(1, float("nan"), np.random.default_rng()),
        lambda: Empirical([], np.random.default_rng()),
        lambda: Empirical([1.0, float("inf")], np.random.default_rng()),
        lambda: Schedule([1, 1], [0, 0]),
        lambda: Schedule([1], [0, 0]),
        lambda: Replayed([], []),
    ],
)
def test_what_is_no_latency_is_refused(make: Callable[[], Law]) -> None:
    with pytest.raises(UsageError):
        make()
