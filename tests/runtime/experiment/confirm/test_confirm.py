# SPDX-License-Identifier: Apache-2.0
"""Modules that measure by themselves: what they say decides nothing, and what helps stays."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runtime.confirmed import BASELINES, METRIC, Owner, Worth
from runtime.searching import Search

from kmind.abi import layout
from kmind.agent.types import Mode
from kmind.errors import KnobError
from kmind.runtime.experiment.exploring import DEBT_S
from kmind.runtime.experiment.measure.effort import Effort

HOUR = 3600.0
GOOD = {"block.nr_requests": 512, "block.nomerges": 1}
MakeOwner = Callable[..., Owner]


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[MakeOwner]:
    made: list[Owner] = []

    def make(worth: Worth, **words: Any) -> Owner:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Owner(folder, worth, **words))
        return made[-1]

    yield make
    for one in made:
        one.close()


def flat(knobs: Mapping[str, Any]) -> float:
    return 100.0


def together(knobs: Mapping[str, Any]) -> float:
    """Better only where both are set: either alone is worse."""
    set_ = [knobs[name] == value for name, value in GOOD.items()]
    return 130.0 if all(set_) else 60.0 if any(set_) else 100.0


def harmful(knobs: Mapping[str, Any]) -> float:
    return 100.0 if knobs == BASELINES else 80.0


def outcomes(one: Owner) -> list[tuple[str, bool]]:
    return [(each["outcome"], each["kept"]) for each in one.of("result")]


def begin(one: Owner) -> Owner:
    """Have the good setting stand, and the owner begin to measure it."""
    one.run(10)
    one.recommend(nr_requests=512, nomerges=1)
    return one.run(90, lambda: one.confirm.running)


def confirm(one: Owner) -> Owner:
    begin(one).run(120, lambda: one.of("result"))
    assert outcomes(one) == [("gain", True)]
    return one


# What helps


def test_what_helps_is_confirmed_and_stands(owner: MakeOwner) -> None:
    one = confirm(owner(together))
    began = next(when for when, event, _ in one.events if event == "experiment")
    assert began - 1010 <= 90  # a minute unconfirmed, and five blocks
    assert one.stands == GOOD
    assert [change.trial for change in one.journal.open_changes()] == [False, False]
    (row,) = one.rows()
    assert (row["kind"], row["outcome"], row["kept"]) == ("confirmation", "gain", True)
    assert row["candidate"] == GOOD
    assert row["incumbent"] == {name: BASELINES[name] for name in GOOD}
    assert row["metric"] == METRIC
    one.run(HOUR)
    assert all(kept for _, kept in outcomes(one))
    times = [when for when, event, _ in one.events if event == "result"]
    pauses = [b - a for a, b in itertools.pairwise(times)]
    assert 60 <= pauses[0] <= 120
    assert pauses == sorted(pauses)  # twice as long each time
    assert len(times) <= 8


def test_all_knobs_are_moved_together(owner: MakeOwner) -> None:
    one = begin(owner(together))
    seen = set()
    while one.confirm.running:
        one.step()
        seen.add(tuple(sorted(one.stands)))
    assert seen == {(), tuple(sorted(GOOD))}
    assert outcomes(one) == [("gain", True)]


def test_the_extension_is_told_when_it_is_measured(owner: MakeOwner) -> None:
    one = confirm(owner(together))
    told = [value for kind, value in one.told() if kind == layout.KIND["MEASURING"]]
    assert told == [1, 0]


def test_the_objective_may_be_better_lower(owner: MakeOwner) -> None:
    one = confirm(owner(lambda knobs: 1 / together(knobs), better="lower"))
    assert one.stands == GOOD
    two = owner(together, better="lower")
    begin(two).run(120, lambda: two.of("result"))
    assert outcomes(two) == [("loss", False)]


def test_what_was_confirmed_may_stand_beside_what_is_tried(owner: MakeOwner) -> None:
    """The search goes on around the current setting: nothing of that is put back."""
    one = confirm(owner(together))
    for turn in range(40):
        one.recommend(nr_requests=512, nomerges=1, read_ahead_kb=256 if turn % 2 else 128)
        one.run(3)
    assert {each["knob"] for each in one.of("undone")} == {"block.read_ahead_kb"}
    assert not one.of("dropped")
    assert not one.of("failed")
    tried = [each for each in one.of("applied") if each["knob"] == "block.read_ahead_kb"]
    assert len(tried) >= 15


def test_what_a_module_compares_leaves_few_rows_open(owner: MakeOwner) -> None:
    one = owner(flat)
    one.run(1)
    one.recommend(nr_requests=512)
    for _ in range(3):
        one.recommend(nr_requests=1000)
        assert one.stands == {"block.nr_requests": 1000}
        assert len(one.journal.open_changes()) == 2
        one.recommend(nr_requests=512)
        assert one.stands == {"block.nr_requests": 512}
        assert len(one.journal.open_changes()) == 1
    one.recommend()
    assert one.stands == {}
    assert one.journal.open_changes() == []


@pytest.mark.parametrize("ratio", [1.3, 0.8])
def test_a_knob_whose_change_resets_others_is_undone_and_set_anew(
    owner: MakeOwner, ratio: float
) -> None:
    """As block.scheduler: what the kernel resets with it comes back with it."""
    one = owner(lambda knobs: 100.0 * (ratio if knobs["block.nr_requests"] == 512 else 1.0))
    each = one.granted["block.nr_requests"]
    knob = replace(each.knob, disturbs=("block.nomerges",))
    one.granted["block.nr_requests"] = replace(each, knob=knob)
    one.changes.knobs.grant(one.granted.values())
    one.run(10)
    one.recommend(nr_requests=512)
    one.run(90, lambda: one.confirm.running)
    rows = set()
    while one.confirm.running:
        one.step()
        rows.add(len(one.journal.open_changes()))
    assert rows == {0, 2}
    assert outcomes(one) == [("gain", True) if ratio > 1 else ("loss", False)]
    if ratio > 1:
        assert one.stands == {"block.nr_requests": 512}
        main, _ = one.journal.open_changes()
        assert (main.knob, main.trial) == ("block.nr_requests", False)
        one.recommend()
    assert one.stands == {}
    assert one.journal.open_changes() == []


# What lies


def test_what_is_harmful_is_put_back_and_waits(owner: MakeOwner) -> None:
    one = begin(owner(harmful))
    one.run(120, lambda: one.of("result"))
    assert outcomes(one) == [("loss", False)]
    assert one.stands == {}
    assert [each["outcome"] for each in one.of("dropped")] == ["loss", "loss"]
    told = {kind for kind, _ in one.told()}
    assert layout.KIND["DROPPED"] in told
    one.run(20)
    assert one.stands.keys() < GOOD.keys()  # what would make it whole is refused
    assert "it is not tried again for" in one.of("failed")[0]["why"]


def stretches(one: Owner, seconds: float, each: Callable[[], None]) -> tuple[float, float]:
    """Run; how long anything stood, and the longest that it did without the baseline between."""
    longest = since = 0.0
    began = one.away_s
    end = one.now + seconds
    while one.now < end:
        before = one.away_s
        each()
        one.step()
        since = since + one.away_s - before if one.stands else 0.0
        longest = max(longest, since)
    return one.away_s - began, longest


def in_turn(one: Owner, seconds: float, *values: dict[str, int]) -> Callable[[], None]:
    """An extension that goes from one setting to the next, again and again."""
    turns = itertools.cycle(values)
    at = [0.0]

    def each() -> None:
        if one.now >= at[0]:
            at[0] = one.now + seconds
            one.recommend(**next(turns))

    return each


@pytest.mark.parametrize(
    "how", ["renews", "alternates", "by turns with the baseline", "never the same"]
)
def test_nothing_harmful_stands_for_long(owner: MakeOwner, how: str) -> None:
    one = owner(harmful)
    one.run(10)
    settings: list[dict[str, int]] = {
        "renews": [{"nr_requests": 512}],
        "alternates": [{"nr_requests": 512}, {"nr_requests": 256, "nomerges": 1}],
        "by turns with the baseline": [{"nr_requests": 512}, {}],
        "never the same": [{"nr_requests": n, "read_ahead_kb": 2 * n} for n in range(8, 1000, 8)],
    }[how]
    away, longest = stretches(one, HOUR, in_turn(one, 40, *settings))
    assert not any(kept for _, kept in outcomes(one))
    # Ten minutes, and then a sixth of the time; each experiment may run to its end.
    assert away <= 600 + DEBT_S + HOUR / 6 + 60
    assert longest <= 60 + 3 + 20 * 2.3


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_what_collapses_goes_at_once(owner: MakeOwner, better: str) -> None:
    one = owner(
        lambda knobs: (
            (harmful(knobs) / (1 if knobs == BASELINES else 8)) ** (1 if better == "higher" else -1)
        ),
        better=better,
    )
    one.run(10)
    one.recommend(nr_requests=512)
    away, longest = stretches(one, 600, lambda: None)
    assert longest <= 3
    assert away <= 30
    assert "three times worse" in one.of("undone")[0]["why"]
    assert "not tried again" in one.of("failed")[0]["why"]
    settings = [{"nr_requests": n} for n in range(8, 1000, 8)]
    away, longest = stretches(one, 600, in_turn(one, 5, *settings))
    assert longest <= 5
    assert away <= 300


def test_what_does_nothing_is_not_confirmed_by_trying_often(owner: MakeOwner) -> None:
    kept = 0
    for seed in range(4):
        one = owner(flat, seed=seed, noise=0.1)
        one.run(10)
        turns = in_turn(one, 100, *({"nr_requests": n} for n in range(128, 1000, 64)))
        stretches(one, HOUR / 2, turns)
        assert len(outcomes(one)) >= 5
        kept += any(kept for _, kept in outcomes(one))
    assert kept <= 2  # 5% a day: three of four come once in two thousand times


def test_a_confirmed_setting_is_measured_again_whatever_is_recommended(owner: MakeOwner) -> None:
    one = confirm(owner(together))
    one.worth = harmful
    began, before = one.now, one.away_s
    turns = in_turn(
        one, 2, {"nr_requests": 512, "nomerges": 1},
        {"nr_requests": 512, "nomerges": 1, "read_ahead_kb": 256},
    )  # fmt: skip
    while len(outcomes(one)) < 2 and one.now < began + 400:
        turns()
        one.step()
    assert not outcomes(one)[1][1]
    assert one.stands == {}
    assert one.away_s - before <= 60 + 60 + 60


def test_another_load_asks_for_a_measurement_soon(owner: MakeOwner) -> None:
    one = confirm(owner(together))
    one.run(HOUR / 2)
    assert one.stands == GOOD
    count = len(outcomes(one))
    one.worth = lambda knobs: harmful(knobs) / 10
    one.run(90, lambda: len(outcomes(one)) > count)
    assert not outcomes(one)[count][1]


def test_the_day_has_one_budget(owner: MakeOwner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kmind.evidence.budget.LEAST_LEVEL", 0.02)
    one = owner(flat)
    one.run(10)
    one.recommend(nr_requests=512)
    one.run(200, lambda: one.of("result"))
    one.recommend(nr_requests=256)
    one.run(120)
    assert len(outcomes(one)) == 1
    assert "as many experiments today" in one.of("undone")[-1]["why"]
    assert one.stands == {} or one.confirm._standing.exploring.stretch_s < 60


def test_effort_that_differs_between_the_arms_voids_a_gain(owner: MakeOwner) -> None:
    used = [0.0]
    boxes: list[Owner] = []

    def effort() -> Effort:
        used[0] += 0.0 if boxes[0].stands else 0.2  # it slows the baseline down
        return Effort(used[0], 0, 0)

    boxes.append(one := owner(together, effort=effort))
    begin(one).run(120, lambda: one.of("result"))
    assert outcomes(one) == [("aborted", False)]
    assert one.of("result")[0]["why"].startswith("void:")
    assert one.stands == {}


# What fails


def test_without_readings_nothing_stands_longer_than_exploring_allows(owner: MakeOwner) -> None:
    one = owner(together)
    one.gap = True
    one.run(10)
    one.recommend(nr_requests=512, nomerges=1)
    away, longest = stretches(one, HOUR / 2, lambda: None)
    assert outcomes(one) == []
    assert longest <= 62
    assert away <= 600 + HOUR / 12 + 60
    assert "the objective has no value" in one.of("undone")[0]["why"]


def test_readings_that_stop_end_an_experiment_and_what_it_confirms(owner: MakeOwner) -> None:
    one = begin(owner(together))
    one.gap = True
    one.run(60, lambda: one.of("result"))
    assert outcomes(one) == [("aborted", False)]
    assert one.stands == {}


def test_readings_that_only_the_setting_lacks_speak_against_it(owner: MakeOwner) -> None:
    one = begin(owner(together))
    while one.confirm.running:
        one.gap = bool(one.stands)
        one.step()
    assert outcomes(one) == [("aborted", False)]
    assert one.stands == {}
    one.gap = False
    one.run(10)
    assert any("not tried again" in each["why"] for each in one.of("failed"))


def test_a_module_without_an_objective_only_explores(owner: MakeOwner) -> None:
    one = owner(together)
    one.confirm._source = None
    one.run(10)
    one.recommend(nr_requests=512, nomerges=1)
    one.run(70)
    assert "no objective that kmind could measure" in one.of("undone")[0]["why"]


def test_canary_confirms_nothing(owner: MakeOwner) -> None:
    one = owner(together, mode=Mode.CANARY)
    one.run(10)
    one.recommend(nr_requests=512, nomerges=1)
    away, _ = stretches(one, HOUR / 2, lambda: None)
    assert outcomes(one) == []
    assert away <= 600 + HOUR / 12 + 60


def test_an_extension_that_stops_caring_ends_it(owner: MakeOwner) -> None:
    one = begin(owner(together))
    one.cares = False
    one.run(30, lambda: one.of("result"))
    assert outcomes(one) == [("aborted", False)]
    one.run(1)
    assert one.stands == {}
    assert one.journal.open_changes() == []


def test_an_admin_who_sets_one_knob_ends_it_and_all_goes_back(owner: MakeOwner) -> None:
    one = begin(owner(together))
    one.run(30, lambda: one.stands == GOOD)
    (one.root / "sys/block/sim0/queue/nomerges").write_text("2\n")
    one.cares = False
    one.run(2)
    assert outcomes(one) == [("aborted", False)]
    assert one.stands == {"block.nomerges": 2}


def test_a_knob_that_cannot_be_set_ends_it(
    owner: MakeOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = begin(owner(together))

    def refuse(*_: object, **__: object) -> None:
        raise KnobError("the kernel says no")

    with monkeypatch.context() as patch:
        patch.setattr("kmind.runtime.holds.trial_holds.TrialHolds.switch", refuse)
        one.run(30, lambda: one.of("result"))
    assert outcomes(one) == [("aborted", False)]
    one.run(1)
    assert one.stands == {}


def test_another_mode_ends_it(owner: MakeOwner) -> None:
    one = begin(owner(together))
    one.confirm.set_mode(Mode.CANARY)
    assert outcomes(one) == [("aborted", False)]
    assert one.stands == {}


# Other owners


def adopt(one: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go on as another owner, after the one before was killed."""
    holds = one.changes.holds()
    monkeypatch.setattr("kmind.guard._owner.start_time", lambda pid: 12345)
    one.open()
    one.confirm._source = None  # the objective is measured once the instance is taken over
    one.changes.adopt(list(one.granted.values()), holds, ())
    one.confirm.take_up()
    one.listen()


@pytest.mark.parametrize("arm", [{}, GOOD])
def test_killed_in_mid_experiment_the_baseline_comes_back(
    owner: MakeOwner, monkeypatch: pytest.MonkeyPatch, arm: dict[str, Any]
) -> None:
    one = begin(owner(together))
    one.run(30, lambda: one.stands == arm)
    assert len(one.journal.open_changes()) == 2
    adopt(one, monkeypatch)
    assert one.stands == {}
    assert one.journal.open_changes() == []


def test_killed_while_it_explores_the_baseline_comes_back(
    owner: MakeOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = owner(together)
    one.run(10)
    one.recommend(nr_requests=512, nomerges=1)
    assert one.stands == GOOD
    assert all(change.trial for change in one.journal.open_changes())
    adopt(one, monkeypatch)
    assert one.stands == {}


def test_what_was_confirmed_is_taken_over_and_measured_soon(
    owner: MakeOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = confirm(owner(together))
    adopt(one, monkeypatch)
    assert one.stands == GOOD
    one.run(60, lambda: len(one.of("experiment")) > 1)
    assert "is measured again" in one.of("experiment")[1]["reason"]


def test_what_was_confirmed_may_stand_at_once_after_a_restart(owner: MakeOwner) -> None:
    one = confirm(owner(together))
    one.confirm.abort("the run ended")
    one.changes.stop("the run ended")
    assert one.stands == {}
    one.open()
    one.recommend(nr_requests=512, nomerges=1)
    assert one.of("applied")[-1]["measured"] == "confirmed in experiment 1"
    assert not any(change.trial for change in one.journal.open_changes())
    one.worth = harmful
    one.run(90, lambda: len(outcomes(one)) > 1)
    assert not outcomes(one)[1][1]
    one.open()  # and what was refuted since is not believed
    one.confirm.approved(*_again(one))
    assert one.of("applied")[-1]["measured"].startswith("not confirmed")


def _again(one: Owner) -> tuple[Any, Any, str, dict[str, Any]]:
    each = one.granted["block.nr_requests"]
    return each, replace(one._action(each, 512), id=10**6), "The test says so.", {}


# Autotune in front of it


def hill(knobs: Mapping[str, Any]) -> float:
    """Best at 512 requests, 1.5 times as good as at 64; the others do nothing."""
    off = math.log2(knobs["block.nr_requests"]) - 9
    return 100 * math.exp(-0.09 * off**2 / 2)


def test_an_honest_search_keeps_what_it_finds(tmp_path: Path) -> None:
    with closing(Search(tmp_path, hill)) as one:
        one.run(600)
        assert outcomes(one)
        assert all(kept for _, kept in outcomes(one))
        assert not one.of("failed")
        assert hill(one.knobs()) > 95 or one.extension.status()["gain"] > 1.4
        assert one.extension.status()["trials"] > 20


def test_a_search_believes_the_owner(tmp_path: Path) -> None:
    """A gain that lasts for two seconds only: a block of autotune's takes it for a real one."""
    moved = [0.0, 64]

    def worth(knobs: Mapping[str, Any]) -> float:
        if knobs["block.nr_requests"] != moved[1]:
            moved[:] = one.now, knobs["block.nr_requests"]
        if moved[1] == BASELINES["block.nr_requests"]:
            return 100.0
        return 150.0 if one.now - moved[0] < 1.7 else 50.0

    with closing(Search(tmp_path, worth, noise=0.01, recheck=86400)) as one:
        one.run(300, lambda: one.of("result"))
        assert not outcomes(one)[0][1]
        one.run(1)
        assert any("by the owner's own experiment" in line for line in one.lines)
        assert one.extension.status()["best"] == "nothing"
