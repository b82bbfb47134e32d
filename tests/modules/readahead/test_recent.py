# SPDX-License-Identifier: Apache-2.0
"""The grounds of a proposal: what the latest three windows say together."""

from dataclasses import replace
from math import inf

import pytest

from kmind.modules.readahead.phase import Usage
from kmind.modules.readahead.recent import Recent

RANDOM = Usage(
    start_s=0, end_s=1, requests=1000, misses=500, pages=5000, sequential_share=0.02,
    added=1000, removed=0, uncached_pages=10_000, left_pages=50_000, device_bytes=4e6,
    device_latency_us=100, pages_per_miss=32, stride_pages=0, stride_spread=0, ahead=0,
    mapped_requests=1, mapped_misses=1, said=0,
)  # fmt: skip


def recent(*windows: Usage) -> Recent:
    made = Recent()
    for usage in windows:
        made.learn_one(usage)
    return made


def test_three_windows_have_to_agree() -> None:
    assert RANDOM.phase == "random"
    assert not recent(*[RANDOM] * 2).agree("random")
    assert recent(*[RANDOM] * 3).agree("random")
    idle = replace(RANDOM, requests=0, misses=0)
    assert not recent(RANDOM, idle, RANDOM).agree("random")
    assert recent(idle, *[RANDOM] * 3).agree("random")  # the fourth is forgotten


def test_none_yet() -> None:
    assert Recent().last is None
    assert not Recent().mapped
    assert not Recent().agree("random")


def test_miss_brings_in_kib() -> None:
    assert recent(RANDOM, replace(RANDOM, pages_per_miss=64)).miss_kb == 48 * 4


def test_files_fit_only_if_each_window_has_room() -> None:
    assert recent(*[RANDOM] * 3).fits
    assert recent(*[RANDOM] * 3).until_cached_s == 10
    tight = replace(RANDOM, left_pages=9_999)
    assert not recent(RANDOM, tight, RANDOM).fits
    assert recent(RANDOM, tight, RANDOM).until_cached_s == inf
    dropping = replace(RANDOM, removed=600)
    assert not recent(*[dropping] * 3).fits


def test_what_is_left_to_cache_rises_where_file_follows_file() -> None:
    made = Recent()
    for turn in range(3):
        assert not made.file_by_file
        made.learn_one(replace(RANDOM, uncached_pages=1_000))
        made.learn_one(replace(RANDOM, uncached_pages=50_000))
        made.learn_one(replace(RANDOM, uncached_pages=1_000 + turn))
    assert made.file_by_file
    made.begin()
    assert not made.file_by_file


@pytest.mark.parametrize(
    ("windows", "context"),
    [
        ([RANDOM] * 3, "random, mapped, fits"),
        ([replace(RANDOM, left_pages=0)] * 3, "random, mapped"),
        ([replace(RANDOM, mapped_misses=0, left_pages=0)] * 3, "random, read"),
    ],
)
def test_context_names_the_circumstances(windows: list[Usage], context: str) -> None:
    assert recent(*windows).context("random") == context


def test_model_is_heard_only_if_it_says_the_same_of_all() -> None:
    two, one = replace(RANDOM, said=2), replace(RANDOM, said=1)
    assert recent(two, two, two).said == 2
    assert recent(two, one, two).said == 0


def test_grounds_and_numbers_are_of_the_windows() -> None:
    made = recent(*[RANDOM] * 3)
    assert made.grounds("random") == "98% of reads are at random and a miss reads 32 pages"
    assert made.grounds("stream").startswith("2% of the reads go on")
    assert made.numbers()["requests_per_s"] == 1000
    assert made.numbers()["uncached_pages"] == 10_000
