# SPDX-License-Identifier: Apache-2.0
"""Extensions that lie: nothing that they say selects what they are judged by."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from runtime.counted import HIDDEN, STARVED
from runtime.measured import BASELINE, Make, Owner

from kmind.agent.sim.agent import SimAgent
from kmind.extension import find_module
from kmind.extension.manifest.outcome import OutcomePart
from kmind.runtime.experiment.measure.circumstances import Circumstances, Counted, Ledger
from kmind.workloads.simulated_disk import SimulatedDisk, make_disk_files
from kmind.workloads.streams import random, sequential, strided


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
    load = Circumstances(manifest).classify([ledger.between(before, ledger.read())])
    agent.close()
    assert load.outcome.name == outcome


COUNTERS = (
    *("reads", "read_sequential", "read_misses", "faults", "fault_sequential", "fault_misses"),
    *("fault_around", "around_sequential", "added_pages", "strides", "stride_pages"),
)
# Sums of all windows under one value, as a disk had them: RocksDB's readreverse, and reads at
# random, both through mmap.
BACKWARDS = {
    16: (104366, 100456, 388, 76216, 2791, 71792, 152613, 5302, 247893, 72180, 2889063),
    128: (66507, 63938, 283, 18025, 821, 16714, 54384, 2713, 284901, 16997, 653997),
    1024: (89031, 85910, 838, 9816, 3981, 5529, 44165, 2404, 556054, 6367, 1633923),
    8192: (88374, 87138, 265, 1227, 430, 779, 22752, 1211, 349828, 1044, 790505),
}
AT_RANDOM = {
    128: (270, 0, 0, 47593, 817, 47098, 64367, 3121, 1362096, 47098, 4114697510),
    8192: (171, 11, 0, 5037, 489, 4577, 7251, 668, 3479873, 4577, 387416672),
}


def seen(totals: tuple[int, ...]) -> Counted:
    columns = find_module("readahead").manifest.columns
    return Counted(
        8.0, {}, {}, dict.fromkeys(columns, 0) | dict(zip(COUNTERS, totals, strict=True))
    )


def test_what_a_real_scan_backwards_is_judged_by() -> None:
    loads = Circumstances(find_module("readahead").manifest)
    told = {kb: loads.classify([seen(totals)]) for kb, totals in BACKWARDS.items()}
    decides = {kb: load.outcome.name for kb, load in told.items()}
    steps = "pages_in_steps"
    # Under 16 KiB a third of the touches wait: that may be any load.
    assert decides == {16: "requests", 128: steps, 1024: steps, 8192: steps}
    assert "pages_in" in {side.name for side in told[16].sides}
    for kb in (1024, 8192):
        assert loads.believed(told[128].outcome, [seen(BACKWARDS[kb])])
    assert not loads.believed(told[128].outcome, [seen(AT_RANDOM[8192])])
    assert not loads.believed(told[128].outcome, [])


@pytest.mark.parametrize("kb", AT_RANDOM)
def test_what_real_reads_at_random_are_judged_by(kb: int) -> None:
    load = Circumstances(find_module("readahead").manifest).classify([seen(AT_RANDOM[kb])])
    assert load.outcome.name == "requests"
    assert "pages_in" not in {side.name for side in load.sides}


@pytest.mark.parametrize("kb", [32, 128, 192])
@pytest.mark.parametrize("stride", [48, 64, 100, -64])
def test_pages_that_are_not_used_decide_nothing(tmp_path: Path, stride: int, kb: int) -> None:
    # One page of each step is touched: under larger values more comes in, and less is done.
    manifest = find_module("readahead").manifest
    agent = SimAgent(realtime=False, now_ns=10**12)
    disk = SimulatedDisk(agent, make_disk_files(tmp_path, read_ahead_kb=kb))
    ledger = Ledger(manifest, agent, now=lambda: disk.now)
    steps = strided(100_000, pages=1 << 18, stride=stride)
    disk.run(steps, 0.2, mapped=True)  # not until all is cached
    before = ledger.read()
    disk.run(steps, 0.3, mapped=True)
    load = Circumstances(manifest).classify([ledger.between(before, ledger.read())])
    agent.close()
    assert load.outcome.name == "requests"
    assert "pages_in" in {side.name for side in load.sides}


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
    load = Circumstances(manifest).classify(blocks)
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


def test_its_word_joins_no_two_loads(owner: Make) -> None:
    # As many reads, so the level is the same; but each of many pages, and so the load another.
    one = owner(lambda value: 1000.0 * (2.0 if value != BASELINE else 1.0), manifest=two_outcomes())
    pages = [1.0]
    count_pages(one, lambda value: pages[0])
    one.run(5)
    one.recommend(512, context="x")
    one.run(70, lambda: one.of("kept"))
    one.recommend(BASELINE)
    pages[0] = 64.0
    one.run(10)
    one.recommend(512, context="x")
    one.run(60, lambda: len(one.of("result")) == 2)
    assert one.of("applied") == [], "it was remembered"
    pages[0] = 1.0
    one.recommend(BASELINE)
    one.run(10)
    one.recommend(512, context="x")
    one.run(5, lambda: one.of("applied"))
    assert "remembered" in one.of("applied")[0]["measured"]


def test_what_is_better_than_something_harmful_does_not_stand(owner: Make) -> None:
    one = owner(lambda value: 1000.0 * (2.0 if value != BASELINE else 1.0), recheck=30.0)
    one.run(5)
    one.recommend(512)
    one.run(70, lambda: one.of("kept"))
    began = one.now
    # Another load: 256 is better than 512, and 300 than 256, and each is worse than the baseline.
    one.speed = {BASELINE: 1000.0, 512: 500.0, 256: 650.0, 300: 800.0}.__getitem__
    one.run(5)
    for number, value in enumerate((256, 300), 2):
        one.recommend(value)
        one.run(15, lambda number=number: len(one.of("kept")) == number)
    one.run(60, lambda: one.value == BASELINE and not one.trials.running)
    assert one.now < began + 45, "the chain has one clock"
    assert one.value == BASELINE
    rechecks = [each for each in one.of("experiment") if each["kind"] == "recheck"]
    assert {each["incumbent"] for each in rechecks} == {BASELINE}
    assert one.journal.history()[0].old == BASELINE
    assert not one.journal.open_changes()


def test_what_was_refuted_is_measured_sooner(owner: Make) -> None:
    one = owner(lambda value: 1000.0, recheck=20.0)
    stood = []
    for number in range(3):
        one.speed = lambda value: 1000.0 * (2.0 if value != BASELINE else 1.0)
        one.run(35)  # what was refuted is not tried at once
        one.run(120, lambda: one.trials.running or not one.recommend(512))
        one.run(70, lambda number=number: len(one.of("kept")) > number)
        began = one.now
        one.speed = lambda value: 1000.0 * (0.4 if value != BASELINE else 1.0)
        one.run(70, lambda number=number: one.of("dropped")[number:])
        stood.append(one.now - began)
        one.recommend(BASELINE)
    assert stood[0] > stood[1] > stood[2]
    assert stood[2] < 15


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


def test_what_stands_is_measured_to_the_end_whatever_is_recommended(owner: Make) -> None:
    one = owner(lambda value: 1000.0 * (2.0 if value != BASELINE else 1.0), recheck=20.0)
    one.run(5)
    one.recommend(512)
    one.run(70, lambda: one.of("kept"))
    one.run(60, lambda: len(one.of("experiment")) == 2)
    while len(one.of("result")) == 1:
        one.recommend(256)
        one.run(0.5)
        one.recommend(512)
        one.run(0.5)
    assert one.of("result")[1]["outcome"] == "gain"
    assert one.value == 512


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


def test_reader_that_is_hidden_among_others_is_not_starved_for_them(owner: Make) -> None:
    """More requests of the others, for what was seen of it only under the value."""
    one = owner(lambda value: 0.001, noise=0.0)
    count = one.agent.count

    def counted(column: int, amount: int) -> None:
        # A tick is a tenth of a block.
        for name, number in (HIDDEN if one.value == BASELINE else STARVED).items():
            count(one.columns[name], number // 10)

    one.agent.count = counted  # type: ignore[method-assign]
    one.run(5)
    one.recommend(8)
    one.run(70, lambda: one.of("result"))
    (result,) = one.of("result")
    assert (result["outcome"], result["kept"]) == ("aborted", False)
    assert "guard pages_in under the candidate: effect x0.0" in result["why"]
    assert one.value == BASELINE
