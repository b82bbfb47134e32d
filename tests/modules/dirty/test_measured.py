# SPDX-License-Identifier: Apache-2.0
"""The dirty module as its owner measures it: values that are kept, and by whose word."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modules.writers import BASELINE, BURSTS, MODULE, STEEP, Load, Writers, bursts

from kmind.agent.types import Mode
from kmind.modules.dirty.extension import Dirty

HOUR = 3600.0
MakeWriters = Callable[..., Writers]


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[MakeWriters]:
    made: list[Writers] = []

    def make(load: Load, **words: Any) -> Writers:
        made.append(Writers(tmp_path / str(len(made)), load, **words))
        return made[-1]

    yield make
    for one in made:
        one.close()


def results(one: Writers) -> list[tuple[str, bool]]:
    return [(each["outcome"], each["kept"]) for each in one.of("result")]


class Liar(Dirty):
    """Wants writeback to begin later, which makes writers wait more, and says that it helps.

    Whatever becomes of it, it is said again at once.
    """

    def _plan(self) -> int:
        self._not_before = 0.0
        return 15

    def _give_up(self, doing: str, *, cut: bool = False) -> None:
        super()._give_up(doing, cut=cut)
        self._not_before = 0.0

    def _renew(self) -> None:
        self._evidence = {"spared": 0.99, "gain": 50.0}
        super()._renew()


def uneven(seed: int) -> Load:
    """Bursts of 6 to 12 s, 10 to 60 s apart."""
    rng, edges = np.random.default_rng(seed), [0.0]
    while edges[-1] < 10 * HOUR:
        edges += [edges[-1] + rng.uniform(10, 60)]
        edges += [edges[-1] + rng.uniform(6, 12)]
    return lambda now: 150_000.0 if np.searchsorted(edges, now) % 2 == 0 else 0.0


def test_the_owner_measures_it() -> None:
    manifest = MODULE.manifest
    assert manifest.evidence.by == "owner"
    first = manifest.outcomes[0]
    assert (first.numerator, first.denominator) == (("pause_ns",), ("dirtied_pages",))
    # Nothing stands unmeasured for longer than a setting may that no one has confirmed.
    assert manifest.evidence.block_s <= 60


@pytest.mark.parametrize(
    "load",
    [BURSTS, bursts(150_000, 9, 27), uneven(1), lambda now: max(20.0, BURSTS(now))],
    ids=["even", "close", "uneven", "beside a trickle"],
)
def test_what_spares_writers_waiting_stands_for_hours(writers: MakeWriters, load: Load) -> None:
    one = writers(load)
    one.run(HOUR, lambda: one.of("kept"))
    assert results(one)[-1] == ("gain", True)
    assert one.of("kept")[0]["evidence"]["experiment"] == 1
    assert one.value == 5
    away = one.away_s
    began, waited = one.now, one.waited_s
    one.run(HOUR)
    # It is measured again once it has stood for ten minutes, and then after twice as long.
    assert all(kept for _, kept in results(one))
    assert "recheck" in [each["kind"] for each in one.of("experiment")]
    assert one.value == 5 or one.experiments.running
    assert one.away_s - away > 0.5 * (one.now - began)
    alone = writers(load, mode=Mode.OBSERVE)
    alone.run(began - 1000)
    before = alone.waited_s
    alone.run(HOUR)
    assert one.waited_s - waited < 0.8 * (alone.waited_s - before)


def test_what_is_kept_is_measured_again(writers: MakeWriters) -> None:
    one = writers(BURSTS, recheck=600)
    one.run(HOUR, lambda: one.of("kept"))
    one.machine.load = lambda now: 400_000.0  # above what the disk takes: nothing helps there
    one.run(2 * HOUR, lambda: one.value == BASELINE and len(results(one)) > 1)
    assert results(one)[0] == ("gain", True)
    assert not results(one)[-1][1]
    assert one.value == BASELINE


def test_what_harms_another_load_goes_within_the_hour(writers: MakeWriters) -> None:
    # As much is written as before, so that only measuring tells that it is another load.
    one = writers(BURSTS)
    one.run(HOUR, lambda: one.of("kept"))
    one.machine.load, one.machine.expires = STEEP, True
    harm = 0.0
    began = one.now
    while one.now < began + 3 * HOUR and not one.of("dropped"):
        before = one.away_s
        one.run(10)
        harm += one.away_s - before
    assert one.of("dropped")
    assert one.value == BASELINE
    assert harm < 0.5 * HOUR, harm


@pytest.mark.parametrize("load", [BURSTS, uneven(2)], ids=["even", "uneven"])
def test_what_changes_nothing_is_put_back(writers: MakeWriters, load: Load) -> None:
    one = writers(load, follows=False)
    one.run(3 * HOUR)
    assert results(one)
    assert {kept for _, kept in results(one)} == {False}
    assert "let go of" in one.extension.status()["doing"]


def test_a_disk_that_never_keeps_up_is_not_helped(writers: MakeWriters) -> None:
    one = writers(lambda now: 400_000.0)
    one.run(2 * HOUR)
    assert results(one)
    assert {kept for _, kept in results(one)} == {False}
    assert one.value == BASELINE


def test_what_an_extension_claims_decides_nothing(writers: MakeWriters) -> None:
    one = writers(BURSTS, made=Liar)
    one.run(4 * HOUR)
    assert len(results(one)) >= 4
    assert {kept for _, kept in results(one)} == {False}
    # Ten minutes, and then a sixth of the time.
    assert one.away_s <= 600 + 4 * HOUR / 6
    assert any("for as long as it may" in each["why"] for each in one.of("failed"))
    assert one.journal.open_changes() == [] or one.experiments.running


def test_writers_that_go_end_an_experiment(writers: MakeWriters) -> None:
    one = writers(BURSTS)
    one.run(HOUR, lambda: one.of("experiment"))
    one.machine.load = lambda now: 0.0
    one.run(HOUR, lambda: one.of("result"))
    assert results(one) == [("aborted", False)]
    assert one.value == BASELINE
    assert one.journal.open_changes() == []


def test_blocks_where_nobody_waits_have_a_ratio(writers: MakeWriters) -> None:
    one = writers(lambda now: 50_000.0)
    metrics = one.experiments._controller._load.metrics
    before = metrics.read()
    one.run(60)
    block = metrics.between(before, metrics.read())
    assert block.values["page_cost"] == 1000.0


@pytest.mark.parametrize("mode", [Mode.CANARY, Mode.ADVISE, Mode.OBSERVE])
def test_only_in_mode_auto_something_stands(writers: MakeWriters, mode: Mode) -> None:
    one = writers(BURSTS, mode=mode)
    one.run(HOUR)
    assert bool(results(one)) == (mode == Mode.CANARY)
    assert one.value == BASELINE or one.experiments.running
    assert one.of("kept") == []
