# SPDX-License-Identifier: Apache-2.0
"""The schedule of a link: it conserves frames, keeps their order, and never exceeds its rate."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmind.modules.link.loss import Loss
from kmind.modules.link.path import Conditions, Path

MS = 1_000_000
START = 10**15

SIZES = st.integers(14, 1514)
FRAMES = st.lists(st.tuples(st.integers(0, 20 * MS), SIZES), min_size=1, max_size=60)
"""Times between frames, and their bytes."""
DELIVERIES = st.lists(st.integers(0, 30), min_size=1, max_size=20).map(
    lambda steps: np.cumsum([*steps, 1]) * MS
)
LOSSES = st.builds(
    Loss,
    good=st.sampled_from([0.0, 0.1, 1.0]),
    turns_bad=st.sampled_from([0.0, 0.2, 1.0]),
    turns_good=st.sampled_from([0.3, 1.0]),
    bad=st.sampled_from([0.5, 1.0]),
)


@st.composite
def conditions(draw: st.DrawFn) -> Conditions:
    bottleneck = draw(st.sampled_from(["none", "rate", "trace"]))
    return Conditions(
        delay=draw(st.integers(0, 50 * MS)),
        jitter=draw(st.sampled_from([0, MS, 30 * MS])),
        reorder=draw(st.booleans()),
        loss=draw(LOSSES),
        rate=draw(st.integers(50_000, 10**9)) if bottleneck == "rate" else 0,
        trace=draw(DELIVERIES) if bottleneck == "trace" else None,
        buffer=draw(st.integers(1, 20_000)),
    )


def run(
    what: Conditions, frames: list[tuple[int, int]], *, seed: int = 1, together: int = 1
) -> tuple[Path, np.ndarray, np.ndarray, np.ndarray]:
    """The path, arrivals, sizes, departures; frames come ``together`` at a time."""
    path = Path(what, np.random.SeedSequence(seed), START)
    arrivals = START + np.cumsum([gap for gap, _ in frames])
    arrivals = arrivals[(np.arange(len(frames)) // together) * together]
    sizes = np.array([size for _, size in frames])
    leaves = [
        path.admit(
            int(arrivals[at]), sizes[at : at + together], np.ones_like(sizes[at:][:together])
        )
        for at in range(0, len(frames), together)
    ]
    return path, arrivals, sizes, np.concatenate(leaves)


@given(conditions(), FRAMES, st.integers(1, 9))
def test_each_frame_leaves_once_or_is_counted_and_never_before_its_time(
    what: Conditions, frames: list[tuple[int, int]], together: int
) -> None:
    path, arrivals, sizes, leaves = run(what, frames, together=together)
    gone = leaves < 0
    tally = path.tally
    assert (tally.packets, tally.bytes) == (len(frames), sizes.sum())
    assert tally.sent + tally.lost + tally.full == tally.packets
    assert (tally.sent, tally.sent_bytes) == (np.count_nonzero(~gone), sizes[~gone].sum())
    assert (leaves[~gone] >= arrivals[~gone] + (0 if what.jitter else what.delay)).all()
    if not what.loss.mean:
        assert not tally.lost
    if not what.mean_rate:
        assert not tally.full
        if not what.jitter:
            assert (leaves[~gone] == arrivals[~gone] + what.delay).all()


@given(conditions(), FRAMES, st.integers(1, 9))
def test_no_frame_overtakes_another_unless_that_is_asked(
    what: Conditions, frames: list[tuple[int, int]], together: int
) -> None:
    _, _, _, leaves = run(what, frames, together=together)
    if not what.reorder or not what.jitter:
        assert (np.diff(leaves[leaves >= 0]) >= 0).all()


def test_with_reorder_frames_do_overtake() -> None:
    frames = [(MS, 100)] * 200
    what = Conditions(delay=20 * MS, jitter=5 * MS, reorder=True)
    _, arrivals, _, leaves = run(what, frames)
    assert (np.diff(leaves) < 0).any()
    late = (leaves - arrivals) / MS
    assert abs(late.mean() - 20) < 1.5
    assert abs(late.std() - 5) < 1.5


@given(conditions(), FRAMES, st.integers(1, 9))
def test_the_buffer_never_holds_more_than_it_may(
    what: Conditions, frames: list[tuple[int, int]], together: int
) -> None:
    path = Path(what, np.random.SeedSequence(1), START)
    now = START
    for at in range(0, len(frames), together):
        now += frames[at][0]
        sizes = np.array([size for _, size in frames[at : at + together]])
        before, full = path.backlog(now), path.tally.full
        path.admit(now, sizes, np.ones_like(sizes))
        after = path.backlog(now)
        # One that finds nothing before it is sent, however large.
        assert after <= max(what.room, before, 0 if before else 1514)
        if before + sizes.sum() <= what.room:
            assert path.tally.full == full


@given(conditions(), FRAMES, st.integers(0, 2**32))
def test_the_same_seed_makes_the_same_schedule_and_another_does_not_matter_to_rates(
    what: Conditions, frames: list[tuple[int, int]], seed: int
) -> None:
    first = run(what, frames, seed=seed)[3]
    assert first.tolist() == run(what, frames, seed=seed)[3].tolist()
    if not what.loss.mean and not what.jitter:
        assert first.tolist() == run(what, frames, seed=seed + 1)[3].tolist()


def test_another_seed_makes_another_schedule() -> None:
    what = Conditions(jitter=MS, loss=Loss(0.5))
    schedules = [run(what, [(MS, 100)] * 50, seed=seed)[3].tolist() for seed in range(3)]
    assert schedules[0] != schedules[1] != schedules[2]


@given(conditions(), st.lists(SIZES, min_size=2, max_size=40), st.data())
def test_it_makes_no_difference_how_frames_of_one_time_come_in_batches(
    what: Conditions, sizes: list[int], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sizes)), max_size=5)))
    edges = [0, *cuts, len(sizes)]
    whole = Path(what, np.random.SeedSequence(1), START)
    parts = Path(what, np.random.SeedSequence(1), START)
    wire = np.array(sizes)
    at_once = whole.admit(START, wire, np.ones_like(wire))
    pieces = [
        parts.admit(START, wire[low:high], np.ones_like(wire[low:high]))
        for low, high in pairwise(edges)
    ]
    assert at_once.tolist() == np.concatenate(pieces).tolist()
    assert whole.tally == parts.tally


@given(st.integers(2, 45))
def test_an_aggregated_frame_counts_as_its_packets(count: int) -> None:
    path = Path(Conditions(rate=10**9, buffer=1 << 20), np.random.SeedSequence(1), START)
    wire, packets = np.array([1514 * count]), np.array([count])
    assert path.admit(START, wire, packets)[0] == START + 1514 * count * 8
    assert (path.tally.packets, path.tally.sent) == (count, count)
    lossy = Path(Conditions(loss=Loss(1.0)), np.random.SeedSequence(1), START)
    assert lossy.admit(START, wire, packets).tolist() == [-1]
    assert (lossy.tally.lost, lossy.tally.sent) == (count, 0)


def test_aggregated_frames_are_taken_where_they_make_no_difference() -> None:
    assert Conditions(delay=MS, jitter=MS).offload
    assert Conditions(rate=10**9).offload
    assert not Conditions(rate=10**9 - 1).offload
    assert not Conditions(loss=Loss(0.001)).offload
    assert not Conditions(loss=Loss(turns_bad=0.001)).offload
    assert not Conditions(trace=np.array([MS])).offload


def test_conditions_can_change_without_a_frame_overtaking() -> None:
    path = Path(Conditions(delay=50 * MS), np.random.SeedSequence(1), START)
    one = np.array([1000])
    first = path.admit(START, one, np.array([1]))
    path.change(Conditions(delay=MS, rate=8_000_000), START)
    second = path.admit(START + MS, one, np.array([1]))
    third = path.admit(START + 100 * MS, one, np.array([1]))
    assert (first[0], second[0]) == (START + 50 * MS, START + 50 * MS)
    assert third[0] == START + 102 * MS
    path.change(Conditions(loss=Loss(1.0)), START + 100 * MS)
    assert path.admit(START + 101 * MS, one, np.array([1]))[0] == -1


def test_a_course_changes_conditions_as_time_goes_by() -> None:
    course = [
        (0, {"delay_ms": 5.0}),
        (10 * MS, {"delay_ms": 20.0, "loss": 0.0}),
        (20 * MS, {"loss": 1.0}),
    ]
    path = Path(Conditions(delay=MS), np.random.SeedSequence(1), START, course)
    times = [START, START + 9 * MS, START + 10 * MS, START + 25 * MS]
    leaves = [int(path.admit(now, np.array([60]), np.array([1]))[0]) for now in times]
    assert leaves == [START + 5 * MS, START + 14 * MS, START + 30 * MS, -1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"delay": -1},
        {"delay": 0.5},
        {"jitter": 1 << 62},
        {"rate": 10**13},
        {"rate": 1, "buffer": 1 << 20},
        {"rate": 1000, "trace": np.array([MS])},
    ],
)
def test_conditions_that_cannot_be_are_refused_in_one_line(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="link: ") as caught:
        Conditions(**wrong)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
