# SPDX-License-Identifier: Apache-2.0
"""Interface between `kmind train` and a module's recipe.

A recipe turns windows and records into rows of whole numbers with a class each. It needs numpy and
no more: models are fitted, compared and written by kmind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Column", "Dataset", "ModelName", "Recipe", "Recorded", "log_of"]

_Array = npt.NDArray[Any]

ModelName = Literal["tree", "forest", "boosted", "logistic", "mlp"]
"""Families that a recipe may want tried; which one is taken, a validation inside of the
training data decides."""


@dataclass(frozen=True)
class Recorded:
    """One recording. ``windows`` are ``layout.WINDOW``, shape (n,), in order of time.

    ``features`` is feature name to column of ``value``. ``knobs`` is knob to the encoded value
    that stood all through each window, shape (n,), and ``known`` to whether one did. ``records``
    is kind to its fields, each of shape (records,). ``sweep`` is knob to the values that were set
    by turns. ``outcome``, shape (n, 3), is what the load itself counted, where that is on record:
    begin and end of a span in seconds, and the rate between. ``phases`` says which of several
    loads ran when: begin and end in seconds, and its name.
    """

    instance: str
    windows: _Array
    features: Mapping[str, int]
    knobs: Mapping[str, npt.NDArray[np.int64]]
    known: Mapping[str, npt.NDArray[np.bool_]]
    records: Mapping[str, Mapping[str, _Array]]
    tags: Mapping[str, str]
    sweep: Mapping[str, tuple[int | str, ...]]
    outcome: _Array | None = None
    phases: tuple[tuple[float, float, str], ...] = ()

    def rate(self, feature: str) -> npt.NDArray[np.float64]:
        """A counter in each window, a second."""
        spans = (self.windows["end_ns"] - self.windows["start_ns"]).astype(np.float64) / 1e9
        column = self.windows["value"][:, self.features[feature]].astype(np.float64)
        return np.asarray(column / np.maximum(spans, 1e-3))

    def gauge(self, feature: str) -> npt.NDArray[np.float64]:
        """A gauge, or a counter's sum, in each window."""
        return np.asarray(self.windows["value"][:, self.features[feature]].astype(np.float64))


@dataclass(frozen=True)
class Column:
    """One column of ``Dataset.x``."""

    name: str
    unit: str
    help: str


@dataclass(frozen=True)
class Dataset:
    """Rows to learn from.

    ``x`` has shape (n, columns) and holds whole numbers, for that is what a decision in the
    kernel gets. ``y``, shape (n,), indexes ``classes``. ``group`` (n,) is the recording that a
    row is from, ``time_s`` (n,) when. ``payoff`` (n, classes), if it is known, is what each
    class would have been worth to a row, 1 being the best. ``notes`` go into the card.
    """

    columns: tuple[Column, ...]
    classes: tuple[str, ...]
    x: _Array
    y: _Array
    group: _Array
    time_s: _Array
    payoff: _Array | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


class Recipe:
    """Recipe by which a module learns. Subclass it, and name it in ``[train]`` of the manifest.

    ``models`` are tried. ``held_out`` is a tag and those of its values that no model may be trained
    on: they test the models on unseen loads. Of each other recording the last ``test_share`` is
    held out too, after ``purge_s`` seconds that are not used. ``block_s`` is the time after which
    the load is taken as independent: confidence intervals are computed over blocks of that length.
    ``limits`` are sentences for the card.
    """

    models: tuple[ModelName, ...] = ("tree", "forest", "logistic")
    held_out: tuple[str, tuple[str, ...]] | None = None
    test_share: float = 0.3
    purge_s: float = 1.0
    block_s: float = 5.0
    limits: tuple[str, ...] = ()

    def dataset(self, recordings: Sequence[Recorded]) -> Dataset:
        """Rows from recordings; ``group`` indexes these. ValueError says what is missing."""
        raise NotImplementedError

    def rule(self, x: _Array, classes: Sequence[str]) -> _Array:
        """Return the classes that a simple rule, without learning, chooses: shape (n,)."""
        raise NotImplementedError


def log_of(values: _Array) -> _Array:
    """``km_log2`` of an agent: base 2 in sixteenths, straight between powers; shape as given."""
    whole = np.maximum(np.asarray(values, np.int64), 0)
    power = np.maximum(np.frexp(whole.astype(np.float64))[1].astype(np.int64) - 1, 0)
    # Above 2^53 a float may have been rounded up to the next power.
    power -= (whole >> power) == 0
    up, down = np.maximum(4 - power, 0), np.maximum(power - 4, 0)
    return np.where(whole < 2, 0, power << 4 | ((whole << up) >> down & 15))
