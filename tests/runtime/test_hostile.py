# SPDX-License-Identifier: Apache-2.0
"""Extensions that lie: nothing that they say selects what they are judged by."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from runtime.measured import BASELINE, Owner, Speed

from kmind.agent.sim import SimAgent
from kmind.extension import find_module
from kmind.extension._outcome import OutcomePart
from kmind.runtime.circumstances import Circumstances, Ledger
from kmind.testing.simulate import SimulatedDisk, make_disk_files
from kmind.testing.streams import random, sequential

Make = Callable[..., Owner]


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Make]:
    made: list[Owner] = []

    def make(speed: Speed, **options: Any) -> Owner:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Owner(folder, speed, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def two_outcomes(**beside: Any) -> Any:
    """A manifest by which reads decide, and pages of reads are an outcome, too."""
    speed = OutcomePart(name="speed", help="x", better="higher", numerator=("reads",))
    pages = OutcomePart(name="pages", help="x", better="higher", numerator=("read_pages",))
    manifest = find_module("readahead").manifest
    return msgspec.structs.replace(
        manifest,
        outcomes=(speed, msgspec.structs.replace(pages, **beside)),
        circumstances=(),
    )


def count_pages(one: Owner, pages: Callable[[int], float]) -> None:
    """From now on reads have so many pages under a value."""
    count = one.agent.count

    def counted(column: int, amount: int) -> None:
        count(column, amount)
        if column == one.columns["reads"]:
            count(one.columns["read_pages"], round(amount * pages(one.value)))

    one.agent.count = counted  # type: ignore[method-assign]


@pytest.mark.parametrize("named", ["speed", "pages", "happiness"])
def test_it_cannot_choose_the_outcome(owner: Make, named: str) -> None:
    # Twice the pages, at half the speed: it says that pages are what counts.
    one = owner(lambda value: 1000.0 * (0.5 if value != BASELINE else 1.0), manifest=two_outcomes())
    count_pages(one, lambda value: 4.0 if value != BASELINE else 1.0)
    one.run(5)
    one.recommend(512, outcome=named)
    one.run(70, lambda: one.of("result"))
    assert one.of("result")[0]["metric"] == "speed"
    assert not one.of("result")[0]["kept"]
    assert one.value == BASELINE


@pytest.mark.parametrize(("guard", "kept"), [(1.1, False), (3.0, True), (0, True)])
def test_a_gain_is_not_bought_with_another_outcome(owner: Make, guard: float, kept: bool) -> None:
    one = owner(
        lambda value: 1000.0 * (2.0 if value != BASELINE else 1.0),
        manifest=two_outcomes(guard=guard),
    )
    count_pages(one, lambda value: 0.25 if value != BASELINE else 1.0)
    one.run(5)
    one.recommend(512)
    one.run(70, lambda: one.of("result"))
    assert one.of("result")[0]["kept"] == kept
    if not kept:
        assert one.of("result")[0]["why"].startswith("guard pages")


@pytest.mark.parametrize(
    ("stream", "mapped", "outcome"),
    [
        (sequential(200_000, pages=1 << 18), True, "pages_in"),
        (sequential(200_000, pages=1 << 18), False, "pages"),
        (random(50_000, pages=1 << 18), True, "requests"),
    ],
    ids=["in order, mapped", "in order", "at random"],
)
@pytest.mark.parametrize("kb", [16, 8192])
def test_readahead_is_judged_by_how_files_are_read(
    tmp_path: Path, stream: Any, mapped: bool, outcome: str, kb: int
) -> None:
    # In order under mmap each window makes some faults: a small one makes more "requests".
    manifest = find_module("readahead").manifest
    agent = SimAgent(realtime=False, now_ns=10**12)
    disk = SimulatedDisk(agent, make_disk_files(tmp_path, read_ahead_kb=kb))
    ledger = Ledger(manifest, agent, now=lambda: disk.now)
    disk.run(stream, 5, mapped=mapped)  # until the cache is full
    before = ledger.read()
    disk.run(stream, 2, mapped=mapped)
    load = Circumstances(manifest).tell([ledger.between(before, ledger.read())])
    agent.close()
    assert load.outcome.name == outcome


def test_one_reader_does_not_pay_for_what_another_gains(tmp_path: Path) -> None:
    # Most is read in order, so pages decide; beside it somebody reads at random through mmap.
    manifest = find_module("readahead").manifest
    agent = SimAgent(realtime=False, now_ns=10**12)
    disk = SimulatedDisk(agent, make_disk_files(tmp_path, read_ahead_kb=128))
    ledger = Ledger(manifest, agent, now=lambda: disk.now)
    blocks = []
    for _ in range(5):
        before = ledger.read()
        disk.run(sequential(200_000, pages=1 << 18), 0.5, mapped=False)
        disk.run(random(50_000, pages=1 << 18), 0.5, mapped=True)
        blocks.append(ledger.between(before, ledger.read()))
    load = Circumstances(manifest).tell(blocks)
    agent.close()
    assert load.outcome.name == "pages"
    assert [(side.name, side.limit) for side in load.sides] == [("touches", 1.25)]


def test_a_value_of_another_load_is_measured_first(owner: Make) -> None:
    one = owner(lambda value: 1000.0 * (2.0 if value != BASELINE else 1.0), recheck=20.0)
    one.run(5)
    one.recommend(512, context="x")
    one.run(70, lambda: one.of("kept"))
    one.recommend(BASELINE)
    one.speed = lambda value: 8000.0 * (0.4 if value != BASELINE else 1.0)
    one.run(10)
    one.recommend(512, context="x")  # it says that it is the same
    one.run(60, lambda: len(one.of("result")) == 2)
    assert one.of("applied") == []
    assert [each["kept"] for each in one.of("result")] == [True, False]
    assert one.value == BASELINE


def test_nothing_that_is_recommended_puts_a_recheck_off(owner: Make) -> None:
    one = owner(lambda value: 1000.0 * (2.0 if value != BASELINE else 1.0), recheck=20.0)
    one.run(5)
    one.recommend(512)
    one.run(70, lambda: one.of("kept"))
    began = one.now
    one.speed = lambda value: 1000.0 * (0.4 if value == 512 else 1.0)
    number = 0
    while one.value == 512 or one.trials.running:
        assert one.now < began + 120, "it stood for longer than it may"
        number += 1
        one.recommend(513 + number % 7, context=str(number))
        one.run(0.5)
        one.recommend(512, context=str(number))
        one.run(1.0)
    assert "recheck" in [each["kind"] for each in one.of("experiment")]
    assert not one.of("result")[-1]["kept"]


def test_letting_go_and_taking_up_again_does_not_stop_the_clock(owner: Make) -> None:
    one = owner(lambda value: 1000.0 * (2.0 if value != BASELINE else 1.0), recheck=20.0)
    one.run(5)
    one.recommend(512)
    one.run(70, lambda: one.of("kept"))
    stood = 0.0
    while len(one.of("experiment")) == 1:
        assert stood < 25, "it stands on for what is remembered"
        one.run(4)
        one.recommend(BASELINE)
        one.run(2)
        one.recommend(512)
        one.run(2)
        stood += 4
    assert len(one.of("applied")) > 1


def test_what_does_nothing_is_not_kept_by_trying_often(owner: Make) -> None:
    kept = 0
    for seed in range(12):
        one = owner(lambda value: 1000.0, seed=seed)
        one.run(5)
        for number in range(40):
            one.recommend(200 + number, context=str(number))
            one.run(70, lambda one=one: not one.trials.running)
            if one.of("kept"):
                break
        kept += bool(one.of("kept"))
    assert kept <= 2  # 5% for each; it was 8 of 12


def test_a_day_has_one_budget_whatever_is_loaded_anew(owner: Make) -> None:
    now = [1e6 * 86400]
    one = owner(lambda value: 1000.0 * (0.7 if value != BASELINE else 1.0))
    one.store._now = lambda: now[0]
    one.run(5)
    levels = []
    for number in range(100):
        if number % 20 == 10:
            one.trials.configure(one.manifest, one._params)
            one.run(2)
        one.recommend(200 + number, context=str(number))
        one.run(70, lambda: not one.trials.running)
        if any("00:00 UTC" in each["why"] for each in one.of("failed")):
            break
    levels = [each["error"] for each in one.of("experiment")]
    assert levels == sorted(levels, reverse=True)
    assert sum(levels) <= 0.05
    assert "00:00 UTC" in one.of("failed")[-1]["why"]
    now[0] += 86400
    one.recommend(400)
    one.run(5, lambda: len(one.of("experiment")) > len(levels))
    assert one.of("experiment")[-1]["error"] == levels[0]


@pytest.mark.parametrize("how", ["another value", "the baseline", "nothing"])
def test_experiments_that_it_cuts_off_itself_are_no_way_to_do_harm(owner: Make, how: str) -> None:
    # It ends each one as soon as it has seen the candidate stand, and proposes the next.
    stood: list[int] = []

    def speed(value: int) -> float:
        stood.append(value)
        return 1000.0 * (0.5 if value != BASELINE else 1.0)

    one = owner(speed)
    one.run(5)
    for number in range(300):
        one.recommend(200 + number, renew=how != "nothing", hold_s=1.0, context=str(number))
        one.run(2.0, lambda: one.value != BASELINE)
        one.run(0.16)
        if how == "another value":
            one.recommend(1000 + number)
        elif how == "the baseline":
            one.recommend(BASELINE)
        one.run(2.0, lambda: one.value == BASELINE)
    share = sum(value != BASELINE for value in stood[-10_000:]) / 10_000
    assert share < 0.005
