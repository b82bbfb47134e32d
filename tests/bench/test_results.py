# SPDX-License-Identifier: Apache-2.0
"""Medians, spreads, orders, the machine, and tables."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kmind.bench import Metric, describe_machine, interleaved, over_rounds, show_result


def test_a_spread_is_half_the_interquartile_range_in_percent_of_the_median():
    metric = Metric("push_ns", [90, 100, 100, 110, 300])
    assert metric.as_json() == {"push_ns": 100.0, "push_ns_spread": 5.0}


def test_the_spread_of_a_percentage_is_in_points():
    assert Metric("x", [-1.0, 0.0, 1.0], percent=True).spread == 0.5


def test_spreads_without_a_scale():
    assert Metric("x", [5.0]).spread == 0
    assert Metric("x", [0.0, 0.0]).spread == 0
    assert Metric("x", [-1.0, 0.0, 1.0]).spread == 50


def test_the_interval_over_rounds_is_that_of_the_paired_t_test():
    these, those = [11.0, 12.5, 9.0, 10.0], [10.0, 10.0, 10.0, 9.0]
    logs = np.log(these) - np.log(those)
    interval = stats.ttest_1samp(logs, 0).confidence_interval(0.95)
    ratio = over_rounds("r", these, those)
    found = [ratio["r"], ratio["r_low"], ratio["r_high"]]
    assert found == pytest.approx(np.exp([logs.mean(), *interval]), abs=1e-4)


def test_equal_rounds_have_no_width():
    assert over_rounds("r", [2.0, 4.0], [1.0, 2.0]) == {"r": 2.0, "r_low": 2.0, "r_high": 2.0}


@given(st.lists(st.floats(0.1, 1e12), min_size=1), st.floats(0.1, 1e3))
def test_a_relative_spread_has_no_unit(values, scale):
    spread = Metric("x", values).spread
    assert Metric("x", [scale * v for v in values]).spread == pytest.approx(
        spread, rel=1e-6, abs=1e-6
    )


@given(st.integers(1, 5), st.integers(0, 9), st.integers(0, 3))
def test_each_round_has_each_arm_and_every_other_one_is_the_last_backwards(arms, rounds, seed):
    names = [str(number) for number in range(arms)]
    orders = interleaved(names, rounds, seed=seed)
    assert len(orders) == rounds
    assert all(Counter(order) == Counter(names) for order in orders)
    for first, second in zip(orders[::2], orders[1::2], strict=False):
        assert second == first[::-1]
    assert orders == interleaved(names, rounds, seed=seed)


def test_orders_are_random():
    assert len({tuple(order) for order in interleaved("abcd", 20)}) > 2


def test_the_machine_is_described():
    disk = next(path.name for path in Path("/sys/block").iterdir() if (path / "queue").is_dir())
    machine = describe_machine(disk)
    assert machine["cores"] == os.cpu_count()
    assert machine["cpu"]
    assert machine["memory_gib"] > 0
    assert machine["disk"]["name"] == disk
    queue = Path("/sys/block", disk, "queue")
    assert machine["disk"]["read_ahead_kb"] == int((queue / "read_ahead_kb").read_text())
    assert json.loads(json.dumps(machine)) == machine
    assert "disk" not in describe_machine()


def test_a_result_is_shown_with_its_spreads():
    rows = [{"name": "mmap-random", "kmind": 12345.6, "kmind_spread": 2.0}]
    result = {"schema": "a/1", "push_ns": 6.25, "push_ns_spread": 1.5, "workloads": rows}
    shown = show_result(result)
    for word in ("a/1", "push_ns", "6.25", "1.5", "mmap-random", "12,346", "±2.0%"):
        assert word in shown
    assert "_spread" not in shown
