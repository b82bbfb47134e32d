# SPDX-License-Identifier: Apache-2.0
"""The labels of an integer model beside those that the model's own library gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmind.errors import NotSupportedError
from kmind.infer.features import Feature, to_raw
from kmind.infer.floating import FloatModel, FloatTrees, Library
from kmind.infer.integer import IntModel, IntTrees
from kmind.infer.quantiser.trees import has_close_calls
from kmind.infer.reference import evaluate
from kmind.infer.stages import integer_edges

__all__ = ["Agreement", "close_calls", "compare", "edge_rows", "facts_of", "worth"]

_I64 = NDArray[np.int64]

# Rows beside the calibration's own, at thresholds; and of the calibration, at most.
_EDGES = 20_000
_ROWS = 50_000


@dataclass(frozen=True)
class Agreement:
    """Counts of ``rows`` calibration rows and ``edges`` rows at thresholds that ``differ``."""

    name: str
    rows: int
    differ: int
    edges: int
    edges_differ: int

    @property
    def lost(self) -> float:
        """Calibration rows of 100 that get another label."""
        return 100.0 * self.differ / max(self.rows, 1)


def compare(
    model: FloatModel,
    integer: IntModel,
    features: Sequence[Feature],
    table: NDArray[np.float64],
) -> Agreement | None:
    """Ask the library about the calibration rows, and rows at thresholds; None if it is not there.

    Labels of a network's integers are allowed to differ from its floats by what its widths lose:
    for it the library is held against the float model, which must not lose anything.
    """
    library = model.library
    if library is None or model.target.kind == "value":
        return None
    raw = to_raw(features, table)
    raw = raw[np.linspace(0, len(raw) - 1, min(len(raw), _ROWS)).astype(int)]
    scale = np.array([feature.scale for feature in features])
    extra = edge_rows(model, scale, raw, _EDGES) if isinstance(model, FloatTrees) else raw[:0]
    rows = np.concatenate([raw, extra])
    try:
        theirs = library.labels(worth(rows, scale))
    except NotSupportedError:
        return None
    if isinstance(integer, IntTrees):
        ours = evaluate(integer, rows).label
    else:
        ours = model.labels(worth(rows, scale))
    wrong = ours != theirs
    return Agreement(
        library.name,
        len(raw),
        int(wrong[: len(raw)].sum()),
        len(extra),
        int(wrong[len(raw) :].sum()),
    )


def worth(rows: _I64, scale: Any) -> Any:
    """Return the numbers that a library is given for an agent's integers."""
    return rows if (np.asarray(scale) == 1.0).all() else rows * np.asarray(scale, np.float64)


def edge_rows(model: FloatTrees, scale: Any, raw: _I64, most: int) -> _I64:
    """Return rows at most ``most``, each of ``raw`` with one feature put at a threshold.

    Each threshold in turn, as integers have it: itself, both neighbours, and the middle between it
    and the next.
    """
    if model.norm != "none" or not len(raw):
        return raw[:0]
    inner = model.feature >= 0
    pairs = np.unique(
        np.stack([model.feature[inner].astype(np.float64), model.threshold[inner]]), axis=1
    )
    feature = pairs[0].astype(np.int64)
    edge, always, never = integer_edges(model.stages, scale, feature, pairs[1])
    inside = ~(always | never) & (np.abs(edge) < 1 << 62)
    feature, edge = feature[inside], edge[inside]
    if not len(edge):
        return raw[:0]
    nearby = (edge + np.roll(edge, -1)) // 2
    values = np.concatenate([edge, edge + 1, edge - 1, nearby])
    places = np.tile(feature, 4)
    chosen = np.linspace(0, len(values) - 1, min(len(values), most)).astype(int)
    rows = raw[np.arange(len(chosen)) * 7919 % len(raw)].copy()
    rows[np.arange(len(chosen)), places[chosen]] = values[chosen]
    return rows


def facts_of(agreement: Agreement | None, model: FloatModel) -> dict[str, Any]:
    """Return what a model file says of it."""
    if agreement is None:
        library: Library | None = model.library
        return {"library": None, "library_missing": library.name if library else None}
    return {
        "library": agreement.name,
        "library_rows": agreement.rows,
        "library_differ": agreement.differ,
        "library_edges": agreement.edges,
        "library_edges_differ": agreement.edges_differ,
    }


def close_calls(model: FloatModel, integer: IntModel) -> str | None:
    """Return how close calls are decided: ``exact``, ``rounded``, or None where there are none."""
    if not isinstance(model, FloatTrees) or not isinstance(integer, IntTrees):
        return None
    if integer.exact is not None:
        return "exact"
    return "rounded" if has_close_calls(model) else None
