# SPDX-License-Identifier: Apache-2.0
"""Recipe of readahead: learn from one window of a load which value of a ladder suits it best.

The labels come from recordings under a sweep (``kmind record --sweep``), tagged with the load that
ran. The best value is the one under which the load did most a second, by its own count
(outcome.csv) or, without one, by the number of pages read. Each round of the sweep is compared by
itself, so that drift affects all values alike. Among values that cannot be told from the best, the
smallest is taken, which wastes least memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kmind.extension import Column, Dataset, Recipe, Recorded, log_of

__all__ = ["COLUMNS", "ReadaheadRecipe", "columns_of"]

_Array = npt.NDArray[Any]

_KNOB = "block.read_ahead_kb"
_TAG = "workload"
_EQUAL = 0.03
_FEW = 20.0  # requests a second: below that a window says nothing
_LEAST = 5  # windows under each value in a round
_ROUNDS = 2
_MOST = 1 << 20
_USED_MOST = 8000

COLUMNS = (
    Column("in_order", "1/1000", "Requests that went on where the last one of their file ended."),
    Column("mapped", "1/1000", "Requests that were touches of mapped pages."),
    Column("missed", "1/1000", "Requests that had to wait for the disk, as far as that is seen."),
    Column("request_pages", "1/16 pages", "Pages that a buffered read asked for."),
    Column("added_pages", "1/16 pages", "Pages cached for each request."),
    Column("used", "1/1000", "Pages asked for, to pages cached; at most 8."),
    Column("stride", "log2(pages)/16", "Mean distance from miss to miss of a file."),
    Column("spread", "log2(pages)/16", "Mean change of that distance."),
    Column("sync", "1/1000", "Readahead that a miss started, to requests."),
    Column("async", "1/1000", "Readahead ahead of time, to requests."),
    Column("device_pages", "1/16 pages", "Size of the disk's reads."),
    Column("device_us", "log2(us)/16", "Mean time of the disk's reads."),
    Column("writes", "1/1000", "Writes, of all that the disk did."),
    Column("value", "log2(KiB)/16", "Value in effect."),
)
"""The features, in whole numbers, in their order."""


def columns_of(window: _Array, features: Mapping[str, int], kb: _Array) -> _Array:
    """``COLUMNS`` of windows, as ``ra_inputs`` of inputs.h has them, shape (n, columns).

    ``window`` are counters, shape (n, features), ``features`` names their columns, ``kb``, shape
    (n,), is the value in effect.
    """
    value = {name: window[:, column].astype(np.int64) for name, column in features.items()}
    faults = value["faults"] + value["fault_around"]
    requests = value["reads"] + faults
    ordered = value["read_sequential"] + value["fault_sequential"] + value["around_sequential"]
    done, writes = value["device_reads"], value["device_writes"]
    added, strides = value["added_pages"], value["strides"]
    found = [
        _part(1000, ordered, requests),
        _part(1000, faults, requests),
        _part(1000, value["read_misses"] + value["fault_misses"], requests),
        _part(16, value["read_pages"], value["reads"]),
        _part(16, added, requests),
        np.minimum(_part(1000, value["read_pages"] + faults, added), _USED_MOST),
        log_of(_mean(value["stride_pages"], strides)),
        log_of(_mean(value["stride_spread"], strides)),
        _part(1000, value["sync_readahead"], requests),
        _part(1000, value["async_readahead"], requests),
        _part(1, value["device_bytes"] >> 8, done),
        log_of(_mean(value["device_ns"], done) // 1000),
        _part(1000, writes, done + writes),
        log_of(kb),
    ]
    return np.column_stack(found)


def _mean(total: _Array, count: _Array) -> _Array:
    return np.where(count > 0, total // np.maximum(count, 1), 0)


def _part(times: int, part: _Array, whole: _Array) -> _Array:
    return np.minimum(_mean(times * part, whole), _MOST)


@dataclass(frozen=True)
class _Load:
    # Results of a sweep for one load: ``label`` is the place of the best value in the ladder.
    label: int
    payoff: _Array
    rounds: int
    counted: bool

    @classmethod
    def of(cls, data: Recorded, ladder: Sequence[int]) -> _Load:
        rounds = _rounds(data, ladder, _name_of(data))
        mean = rounds.mean(axis=0)
        payoff = np.exp(mean - mean.max())
        return cls(_best(rounds), payoff, len(rounds), data.outcome is not None)

    def as_json(self, ladder: Sequence[int]) -> dict[str, Any]:
        return {
            "best": ladder[self.label],
            "by": "its own count" if self.counted else "pages served",
            "rounds": self.rounds,
            "relative": {
                str(v): round(float(p), 3) for v, p in zip(ladder, self.payoff, strict=True)
            },
        }


class ReadaheadRecipe(Recipe):
    """Predict the best value of the sweep: trained on four of KML's loads, tested on two others.

    A recording in which loads take turns (phases.csv) is for testing too. Its windows have the
    label of the load at their end, so a window that saw a change has to predict the next load.
    """

    models = ("tree", "forest", "boosted", "logistic")
    held_out = (_TAG, ("mixgraph", "updaterandom", "phases"))
    limits = (
        "Each load has one label, the same in all its windows.",
        "Where no outcome is on record, pages served stand for it; mapped pages that are touched "
        "again are not seen.",
        "Windows of a load that is served from memory alone are left out.",
        "A load unlike those recorded may be given any value; the measured trial decides.",
    )

    def dataset(self, recordings: Sequence[Recorded]) -> Dataset:
        """Rows of windows in which the disk was read under one value of the ladder."""
        ladder = _ladder(recordings)
        swept = [None if data.phases else _Load.of(data, ladder) for data in recordings]
        named = {_name_of(data): load for data, load in zip(recordings, swept, strict=True) if load}
        parts: list[tuple[_Array, ...]] = []
        for number, (data, load) in enumerate(zip(recordings, swept, strict=True)):
            at_end = [load] * len(data.windows) if load else _by_turns(data, named)
            use = _usable(data, ladder) & np.array([each is not None for each in at_end], bool)
            ran = [each for each, used in zip(at_end, use, strict=True) if used and each]
            parts.append(
                (
                    columns_of(data.windows["value"][use], data.features, data.knobs[_KNOB][use]),
                    np.array([each.label for each in ran], np.int64),
                    np.full(len(ran), number),
                    data.windows["start_ns"][use] / 1e9,
                    np.array([each.payoff for each in ran]).reshape(-1, len(ladder)),
                )
            )
        x, y, group, time_s, payoffs = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        best = {name: load.as_json(ladder) for name, load in named.items()}
        return Dataset(
            COLUMNS,
            tuple(map(str, ladder)),
            x,
            y,
            group,
            time_s,
            payoffs,
            {"loads": best, "knob": _KNOB},
        )

    def rule(self, x: _Array, classes: Sequence[str]) -> _Array:
        """The least value of the ladder for reads at random, the largest for those in order."""
        return np.where(x[:, 0] < 500, 0, len(classes) - 1)


def _name_of(data: Recorded) -> str:
    if _TAG not in data.tags:
        raise ValueError(f"{data.instance} has no tag {_TAG}: record it with --tag {_TAG}=NAME")
    return data.tags[_TAG]


def _by_turns(data: Recorded, loads: Mapping[str, _Load]) -> list[_Load | None]:
    # Loads that ran at the end of each window, if any.
    for _, _, name in data.phases:
        if name not in loads:
            raise ValueError(f"{name} ran in {_name_of(data)}, and has no recording of its own")
    begins, ends = (np.array([phase[n] for phase in data.phases]) for n in (0, 1))
    ended = data.windows["end_ns"] / 1e9
    place = np.searchsorted(begins, ended) - 1
    ran = (place >= 0) & (ended <= ends[place])
    return [
        loads[data.phases[number][2]] if some else None
        for number, some in zip(place.tolist(), ran.tolist(), strict=True)
    ]


def _ladder(recordings: Sequence[Recorded]) -> list[int]:
    ladders = {tuple(sorted(int(v) for v in data.sweep.get(_KNOB, ()))) for data in recordings}
    if len(ladders) != 1 or len(found := ladders.pop()) < 2:
        raise ValueError(f"all recordings have to be made under one sweep of {_KNOB}")
    return list(found)


def _usable(data: Recorded, ladder: Sequence[int]) -> _Array:
    requests = data.rate("reads") + data.rate("faults") + data.rate("fault_around")
    read = (requests > _FEW) & (data.rate("added_pages") > 0)
    use: _Array = read & data.known[_KNOB] & np.isin(data.knobs[_KNOB], ladder)
    return use


def _rounds(data: Recorded, ladder: Sequence[int], name: str) -> _Array:
    # Logarithms of speeds, shape (rounds, values): a round is the shortest stretch of time
    # that has enough of them under each value.
    speed, place, least = _served(data, ladder) if data.outcome is None else _counted(data, ladder)
    found: list[list[float]] = []
    under: list[list[float]] = [[] for _ in ladder]
    for each, value in zip(speed.tolist(), place.tolist(), strict=True):
        under[value].append(each)
        if min(map(len, under)) >= least:
            found.append([float(np.log(np.mean(speeds))) for speeds in under])
            under = [[] for _ in ladder]
    if len(found) < _ROUNDS:
        raise ValueError(
            f"{name} has {len(found)} rounds with every value of the sweep, "
            f"and {_ROUNDS} are needed: record for longer"
        )
    return np.array(found)


def _served(data: Recorded, ladder: Sequence[int]) -> tuple[_Array, _Array, int]:
    # Pages a second of each window, as far as the agent sees them.
    pages = data.rate("read_pages") + data.rate("faults") + data.rate("fault_around")
    use = _usable(data, ladder)
    return pages[use], np.searchsorted(ladder, data.knobs[_KNOB][use]), _LEAST


def _counted(data: Recorded, ladder: Sequence[int]) -> tuple[_Array, _Array, int]:
    # What the load counted itself, in spans all through which one value stood.
    assert data.outcome is not None
    starts, ends = data.windows["start_ns"] / 1e9, data.windows["end_ns"] / 1e9
    speeds, places = [], []
    for begin, end, rate in data.outcome:
        inside = (ends > begin) & (starts < end)
        stood = np.unique(data.knobs[_KNOB][inside])
        whole = inside.any() and starts[inside][0] <= begin and ends[inside][-1] >= end
        if whole and data.known[_KNOB][inside].all() and len(stood) == 1 and stood[0] in ladder:
            speeds.append(max(float(rate), 1.0))
            places.append(ladder.index(int(stood[0])))
    return np.array(speeds), np.array(places, np.int64), 1


def _best(rounds: _Array) -> int:
    best = int(rounds.mean(axis=0).argmax())
    behind = rounds[:, [best]] - rounds
    error = behind.std(axis=0, ddof=1) / np.sqrt(len(rounds))
    return int(np.flatnonzero(behind.mean(axis=0) <= np.maximum(error, _EQUAL))[0])
