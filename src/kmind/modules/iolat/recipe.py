# SPDX-License-Identifier: Apache-2.0
"""Recipe of iolat: learn from records of blockio which requests of a disk will be slow.

The features are those of the agent (iolat.h), computed from recordings: the requests in the order
of their issue, each with the last four that were completed before it. A request is slow if it takes
longer than a threshold. Without a tag ``slow_us`` the threshold is where the sorted latencies leave
their plateau, as M. Hao and others choose it for each disk ("LinnOS", OSDI 2020): the point of
their logarithms, from the 10th to the 99.5th percentile, that lies furthest below the straight line
between the ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kmind.extension import Column, Dataset, Recipe, Recorded, log_of

__all__ = ["COLUMNS", "IoLatRecipe", "columns_of", "knee_us", "log_of"]

_Array = npt.NDArray[Any]

_PAST = 4
_MOST = 0xFFFF
_TAG = "slow_us"
_RATIO = 3.0  # between slow and median: below that no disk is worth a prediction
_ROWS = 60_000  # to learn from
_FEW = 500

_LOG = "log2(ns)/16"
COLUMNS = (
    Column("depth", "1", "Requests in flight, including this one."),
    Column("sectors", "512 bytes", "Its size."),
    Column("write", "1", "1 for a write, 0 for a read."),
    Column("gap", _LOG, "Time since the previous request was issued."),
    *(
        Column(f"latency_{n}", _LOG, f"What the {word}last request that was done took.")
        for n, word in enumerate(("", "second ", "third ", "fourth "), 1)
    ),
    *(
        Column(f"depth_{n}", "1", f"Requests in the disk when the {word}last was issued.")
        for n, word in enumerate(("", "second ", "third ", "fourth "), 1)
    ),
)
"""The features, in whole numbers, in the agent's order."""


def columns_of(
    issue_ns: _Array, latency_ns: _Array, depth: _Array, sectors: _Array, write: _Array
) -> _Array:
    """``COLUMNS`` of requests in the order of their issue; arguments and rows of shape (n,).

    What is done at the very moment of an issue counts as done before it.
    """
    issue, latency = issue_ns.astype(np.int64), latency_ns.astype(np.int64)
    done = issue + latency
    order = np.argsort(done, kind="stable")
    before = np.searchsorted(done[order], issue, side="right")
    depths = np.minimum(depth, _MOST).astype(np.int64)
    # Four that never were, in front: zeros.
    padding = np.zeros(_PAST, np.int64)
    logs = np.concatenate([padding, log_of(latency)[order]])
    held = np.concatenate([padding, depths[order]])
    past = [before + _PAST - back for back in range(1, _PAST + 1)]
    gap = log_of(np.diff(issue, prepend=issue[:1]))
    found = [depths, np.minimum(sectors, _MOST), write, gap]
    found += [logs[at] for at in past] + [held[at] for at in past]
    return np.column_stack(found).astype(np.int64)


def knee_us(latency_ns: _Array) -> int:
    """Return the threshold of slow, in microseconds.

    Raises ValueError if latencies are too alike.
    """
    at = np.linspace(0.1, 0.995, 400)
    values = np.log(np.maximum(np.quantile(latency_ns, at), 1))
    if values[-1] > values[0]:
        under = (at - at[0]) / (at[-1] - at[0]) - (values - values[0]) / (values[-1] - values[0])
        knee = int(under.argmax())
        # The plateau's own upper end is still fast: halfway from there to what is slow.
        rest = latency_ns[latency_ns > np.exp(values[knee])]
        slow = float(np.median(rest)) if len(rest) else 0.0
        if slow >= _RATIO * float(np.median(latency_ns[latency_ns <= np.exp(values[knee])])):
            return max(round(float(np.sqrt(np.exp(values[knee]) * slow)) / 1e3), 1)
    raise ValueError(
        "requests take about as long as each other, and there is nothing to predict: record "
        f"other loads, or say what is slow with --tag {_TAG}=N"
    )


class IoLatRecipe(Recipe):
    """Fast or slow, of each request, by the agent's features."""

    models = ("tree", "boosted", "logistic")
    limits = (
        "It holds for the disk and the loads that were recorded.",
        "Load the module with slow_us and trained_slow as the notes say.",
    )

    def __init__(self) -> None:
        self._slow_us = 0

    def dataset(self, recordings: Sequence[Recorded]) -> Dataset:
        """Rows of requests; of many, evenly spaced ones."""
        streams = [_requests(each) for each in recordings]
        latencies = np.concatenate([stream["latency"] for stream in streams])
        if len(latencies) < _FEW:
            raise ValueError(f"{len(latencies)} requests are on record, and {_FEW} are needed")
        self._slow_us, by = _threshold(recordings, latencies)
        every = -(-len(latencies) // _ROWS)
        parts = []
        for number, stream in enumerate(streams):
            issue = stream["time_ns"]
            x = columns_of(
                issue, stream["latency"], stream["in_flight"], stream["sectors"], stream["write"]
            )
            slow = stream["latency"] > self._slow_us * 1000
            rows = [x, slow.astype(np.int64), np.full(len(x), number), issue / 1e9]
            parts.append([column[::every] for column in rows])
        x, y, group, time_s = (np.concatenate(column) for column in zip(*parts, strict=True))
        notes = {
            "slow_us": self._slow_us,
            "slow_us_by": by,
            "trained_slow": round(1000 * float((latencies > self._slow_us * 1000).mean())),
            "requests": len(latencies),
            "every": every,
        }
        return Dataset(COLUMNS, ("fast", "slow"), x, y, group, time_s, notes=notes)

    def rule(self, x: _Array, classes: Sequence[str]) -> _Array:
        """As the request that was done last."""
        return (x[:, 4] > log_of(np.array(self._slow_us * 1000))).astype(np.int64)


def _requests(data: Recorded) -> Mapping[str, _Array]:
    # Reads and writes in the order of their issue.
    kinds = [(data.records[kind], write) for kind, write in (("read", 0), ("write", 1))
             if kind in data.records]  # fmt: skip
    if not kinds:
        raise ValueError(f"{data.instance} has no requests: record with kmind record hooks@DISK")
    found = {
        name: np.concatenate([records[name] for records, _ in kinds]).astype(np.int64)
        for name in ("time_ns", "latency", "in_flight", "sectors")
    }
    found["write"] = np.concatenate(
        [np.full(len(records["latency"]), write) for records, write in kinds]
    )
    order = np.argsort(found["time_ns"], kind="stable")
    return {name: column[order] for name, column in found.items()}


def _threshold(recordings: Sequence[Recorded], latencies: _Array) -> tuple[int, str]:
    tags = {data.tags.get(_TAG) for data in recordings}
    if tags == {None}:
        return knee_us(latencies), "where the latencies leave their plateau"
    tag = tags.pop() or ""
    if tags or not tag.isdecimal() or not int(tag):
        raise ValueError(f"the tag {_TAG} has to be one whole number, the same in all recordings")
    return int(tag), f"tag {_TAG}"
