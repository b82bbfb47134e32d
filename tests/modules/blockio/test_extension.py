# SPDX-License-Identifier: Apache-2.0
"""The block I/O reporter: counts, and a report of requests that fail."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from kmind.abi import layout
from kmind.extension import Context, Given, Outlets, find_module
from kmind.modules.blockio.extension import BlockIo
from kmind.testing.contract import CHECKS, Check

MODULE = find_module("blockio")


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_contract(check: Check) -> None:
    check("blockio")


class Bench:
    """The extension with a clock of the test's own; what it files is in ``reports``."""

    def __init__(self) -> None:
        self.now = 100.0
        self.reports: list[dict[str, Any]] = []
        self.extension = BlockIo(
            Context(
                Given(
                    module="blockio",
                    target="sim0",
                    params={},
                    features=MODULE.manifest.columns,
                    knobs={},
                    reports=[part.name for part in MODULE.manifest.reports],
                ),
                Outlets(
                    port=None,
                    now=lambda: self.now,
                    hand_over=lambda what, text: self.reports.append(json.loads(text)),
                ),
            )
        )

    def records(self, failed: int, *, good: int = 0, op: int = 0) -> None:
        """Requests of 8 sectors that took 1 ms with 3 in the disk."""
        made: npt.NDArray[np.void] = np.zeros(failed + good, layout.RECORD)
        made["kind"] = layout.KIND["MODULE"] + op
        made["subject"] = 8 | 0xFFF0 << 16
        made["value"] = 1_000_000 | 3 << 40
        made["value"][:failed] |= np.uint64(1 << 56)
        made["time_ns"] = np.arange(failed + good)
        self.extension.on_records(made)

    def window(self) -> None:
        self.extension.on_windows(np.zeros(1, layout.WINDOW))


def test_failed_requests_are_reported_with_their_records() -> None:
    bench = Bench()
    bench.records(3, good=5)
    (report,) = bench.reports
    assert (report["kind"], report["signature"], report["count"]) == (
        "failed_requests", "reads fail", 3,
    )  # fmt: skip
    ((name, _),) = report["files"].items()
    assert name == "reads.csv"
    lines = bench.extension._failures["read"].text().decode().splitlines()
    assert lines == [
        "time_ns,latency_ns,in_flight,sectors",
        *(f"{n},1000000,3,8" for n in range(3)),
    ]


def test_good_requests_are_no_report() -> None:
    bench = Bench()
    bench.records(0, good=100)
    bench.window()
    assert bench.reports == []


def test_reads_and_writes_are_two_reports() -> None:
    bench = Bench()
    bench.records(1, op=0)
    bench.records(2, op=1)
    assert [(each["signature"], each["count"]) for each in bench.reports] == [
        ("reads fail", 1),
        ("writes fail", 2),
    ]


def test_a_storm_is_one_report_in_ten_seconds_and_counts_all() -> None:
    bench = Bench()
    for _ in range(1000):
        bench.records(300)
        bench.now += 0.01
    assert [each["count"] for each in bench.reports] == [300]
    bench.now += 10
    bench.window()  # none fails any more: what was counted is filed all the same
    assert [each["count"] for each in bench.reports] == [300, 999 * 300]
    bench.now += 100
    bench.window()
    assert len(bench.reports) == 2
    assert len(bench.extension._failures["read"].last) == 200
