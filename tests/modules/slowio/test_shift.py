# SPDX-License-Identifier: Apache-2.0
"""The shift detector alone, on made-up series."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from kmind.modules.slowio.shift import ShiftDetector

RISE = float(np.log2(1.5))


def _shifted_at(series: npt.NDArray[np.float64]) -> int | None:
    detector = ShiftDetector(RISE)
    for at, value in enumerate(series):
        detector.learn_one(float(value))
        if detector.shifted:
            return at
    return None


def _normal(choose: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
    return choose.normal(0, 0.15, count)


def _heavy_tails(choose: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
    return 0.1 * choose.standard_t(2, count)


def _wandering(choose: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
    # Each round resembles the last one, as those of a real load do.
    made = np.zeros(count)
    for at in range(1, count):
        made[at] = 0.8 * made[at - 1] + choose.normal(0, 0.06)
    return made


@pytest.mark.parametrize("noise", [_normal, _heavy_tails, _wandering])
def test_noise_alone_is_suspected_in_none_of_300_runs(noise: Any) -> None:
    alarms = [seed for seed in range(300) if _shifted_at(noise(np.random.default_rng(seed), 600))]
    assert alarms == []


def test_bursts_are_suspected_in_none_of_300_runs() -> None:
    for seed in range(300):
        choose = np.random.default_rng(seed)
        series = _normal(choose, 600)
        at = 40
        while at < 590:
            series[at : at + choose.integers(1, 6)] += choose.uniform(1, 6)
            at += int(choose.integers(20, 60))
        assert _shifted_at(series) is None, seed


@pytest.mark.parametrize("noise", [_normal, _heavy_tails, _wandering])
def test_a_disk_at_half_its_speed_is_suspected_in_each_of_300_runs(noise: Any) -> None:
    late = []
    for seed in range(300):
        series = noise(np.random.default_rng(seed), 200)
        series[100:] += 1.0
        at = _shifted_at(series)
        assert at is not None, seed
        assert at >= 100, seed
        late.append(at - 100)
    assert np.median(late) <= 15


def test_a_rise_too_small_to_matter_is_left_alone() -> None:
    series = _normal(np.random.default_rng(1), 600)
    series[100:] += np.log2(1.2)
    assert _shifted_at(series) is None


def test_a_disk_that_is_fast_again_is_cleared() -> None:
    detector = ShiftDetector(RISE)
    series = _normal(np.random.default_rng(2), 300)
    series[60:120] += 2.0
    told = []
    for value in series:
        detector.learn_one(float(value))
        told.append(detector.shifted)
    assert any(told[60:120])
    assert not any(told[170:])
