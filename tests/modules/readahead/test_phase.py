# SPDX-License-Identifier: Apache-2.0
"""Phases of reading, told by windows."""

from typing import Any

import pytest
from modules.readahead_disk import Bench, at_random, in_order
from modules.readers import mixed_reads, random_reads


def test_three_windows_of_a_kind_are_enough_for_what_is_known() -> None:
    bench = Bench(baseline=128, gains={(128, 4096)})
    bench.feed(5)
    bench.feed(3, **in_order(10_000))
    assert bench.proposed == []
    bench.feed(30, **in_order(10_000))
    assert bench.value == 4096
    later = Bench(baseline=128, owner="remembers", memory=bench.memory)
    later.feed(5)
    later.feed(3, **in_order(10_000))
    assert later.value == 4096


def test_moments_that_look_mixed_change_nothing() -> None:
    bench = Bench()
    bench.feed(30, **random_reads())
    for _ in range(5):
        bench.feed(5, **mixed_reads())
        bench.feed(5, **random_reads())
    assert bench.value == 16
    bench.feed(12, **mixed_reads())
    assert bench.value == 8192


def backwards(kb: int, **more: Any) -> dict[str, Any]:
    """A large table is scanned backwards, through mmap: a miss is as far as it brings in pages."""
    steps = {"stride_pages": 200 * kb / 4, "stride_spread": 10 * kb / 4}
    return {**at_random(200.0, kb, **more), **steps}


@pytest.mark.parametrize("left", [0, 1 << 22], ids=["does not fit", "fits"])
def test_a_mapped_file_that_is_read_backwards_is_no_file_read_at_random(left: int) -> None:
    """Fewer pages a miss make more faults there, by which 16 KiB looked five times as good."""
    bench = Bench(gains={(128, 4096)}, baseline=128)
    bench.feed(10, **backwards(128, uncached=1 << 22, left=left))
    assert bench.proposed[0] == 4096
    note = bench.notes()[0]
    assert note["evidence"]["context"] == "random, mapped, in steps"
    assert "step by step" in note["reason"]
    bench.feed(100, **backwards(4096, uncached=1 << 22, left=left))
    assert bench.value == 4096
    assert all(each["value"] >= 128 for each in bench.made)
    large = Bench()
    large.feed(100, **backwards(8192, uncached=1 << 22, left=left))
    assert large.made == []


def test_one_window_in_three_tells_steps() -> None:
    """Under 8 MiB there are few misses in a window, and some go to another file."""
    bench = Bench()
    for _ in range(30):
        bench.feed(1, **backwards(8192, uncached=1 << 22))
        bench.feed(2, **at_random(6.0, 8192))
    assert bench.made == []


# Windows of 100 ms as a disk had them when a load at random ended and other programs started:
# misses, pages in a miss, mean stride and spread.
STARTS = [(72, 3, 428, 766), (73, 6, 305, 585), (84, 6, 34, 61), (80, 5, 277, 515), (1, 20, 37, 0)]


@pytest.mark.parametrize("window", STARTS, ids=str)
def test_programs_that_start_are_not_read_step_by_step(window: tuple[int, int, int, int]) -> None:
    """Under 16 KiB that looked like a step, and 4096 KiB was tried at the end of such a load."""
    misses, pages, stride, spread = window
    bench = Bench(gains={(16, 4)}, baseline=16)
    bench.feed(30, **at_random(200.0, 16))
    start = at_random(misses, 4 * pages) | {
        "stride_pages": misses * stride,
        "stride_spread": misses * spread,
    }
    bench.feed(1, **start)
    bench.feed(30, **start)
    assert bench.made
    assert all(each["value"] <= 16 for each in bench.made), bench.proposed


def test_regular_strides_are_steps_however_little_a_miss_brings_in() -> None:
    bench = Bench(gains={(16, 4096)}, baseline=16)
    strided = {"stride_pages": 200 * 64, "stride_spread": 200 * 8}
    bench.feed(20, **(at_random(200.0, 16) | strided))
    assert bench.proposed[0] == 4096
