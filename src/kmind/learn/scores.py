# SPDX-License-Identifier: Apache-2.0
"""Splits that respect time, and scores with intervals that do.

Neighbouring windows resemble each other, so a split by chance would test a model on what
it has all but seen. Here what is tested lies later than what was trained on, with a gap
that serves for nothing between them; and intervals come from resampling whole blocks of
time (H. Kuensch, "The jackknife and the bootstrap for general stationary observations", 1989),
not rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Split", "balanced_accuracy", "blocks_of", "folds", "score", "split"]

_Array = npt.NDArray[Any]

_RESAMPLES = 400


@dataclass(frozen=True)
class Split:
    """Masks over rows: to train on, later rows of the same groups, rows of other groups."""

    train: _Array
    later: _Array
    unseen: _Array


def split(
    group: _Array, time_s: _Array, held_out: _Array, test_share: float, purge_s: float
) -> Split:
    """Cut each group that is not held out in two, by time; ``held_out`` is a mask over rows."""
    train, later = np.zeros(len(group), bool), np.zeros(len(group), bool)
    for number in np.unique(group[~held_out]):
        rows = group == number
        begin, end = time_s[rows].min(), time_s[rows].max()
        cut = end - test_share * (end - begin)
        train |= rows & (time_s < cut - purge_s)
        later |= rows & (time_s >= cut)
    return Split(train, later, held_out.copy())


def folds(
    group: _Array, time_s: _Array, count: int, purge_s: float
) -> Iterator[tuple[_Array, _Array]]:
    """Masks to fit on and to validate on: each a stretch of every group, purged on both sides."""
    place = np.zeros(len(group))
    for number in np.unique(group):
        rows = group == number
        begin, end = time_s[rows].min(), time_s[rows].max()
        place[rows] = (time_s[rows] - begin) / max(end - begin, 1e-9) * count
    for fold in range(count):
        check = (place >= fold) & (place < fold + 1 + (fold == count - 1))
        fit = ~check
        for number in np.unique(group):
            rows = group == number
            if not (rows & check).any():
                continue
            begin, end = time_s[rows & check].min(), time_s[rows & check].max()
            fit &= ~(rows & (time_s > begin - purge_s) & (time_s < end + purge_s))
        if fit.any() and check.any():
            yield fit, check


def balanced_accuracy(truth: _Array, predicted: _Array) -> float:
    """Mean of the recalls of the classes that occur in ``truth``."""
    return float(
        np.mean([np.mean(predicted[truth == label] == label) for label in np.unique(truth)])
    )


def blocks_of(group: _Array, time_s: _Array, block_s: float) -> list[_Array]:
    """Indices of rows, a list for each block of time of a group."""
    number = np.floor((time_s - time_s.min()) / block_s).astype(np.int64)
    keys = group.astype(np.int64) * (int(number.max()) + 1) + number
    order = np.argsort(keys, kind="stable")
    cuts = np.flatnonzero(np.diff(keys[order])) + 1
    return list(np.split(order, cuts))


def score(
    truth: _Array, predicted: _Array, payoff: _Array | None, blocks: list[_Array], seed: int
) -> Mapping[str, Any]:
    """Balanced accuracy, accuracy, and mean payoff, each with a 95% interval over blocks.

    Below four blocks there is no interval: None.
    """
    worth = None if payoff is None else payoff[np.arange(len(predicted)), predicted]

    def measure(rows: _Array) -> list[float]:
        resampled = [
            balanced_accuracy(truth[rows], predicted[rows]),
            float(np.mean(truth[rows] == predicted[rows])),
        ]
        return resampled if worth is None else [*resampled, float(np.mean(worth[rows]))]

    names = ["balanced_accuracy", "accuracy", "payoff"]
    whole = measure(np.arange(len(truth)))
    spread: list[Any] = [None] * len(whole)
    if len(blocks) >= 4:
        rng = np.random.default_rng(seed)
        drawn = [
            measure(np.concatenate([blocks[n] for n in rng.integers(0, len(blocks), len(blocks))]))
            for _ in range(_RESAMPLES)
        ]
        spread = np.percentile(np.array(drawn), [2.5, 97.5], axis=0).T.tolist()
    return {
        name: {"value": value, "interval": interval}
        for name, value, interval in zip(names, whole, spread, strict=False)
    } | {"rows": len(truth), "blocks": len(blocks)}
