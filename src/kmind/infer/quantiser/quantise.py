# SPDX-License-Identifier: Apache-2.0
"""From a float model to a model file: widths chosen on calibration data, the loss on other data.

Trees are quantised in one way only. For a network the narrowest widths are taken with which it
still says what the float model says of the calibration data; the held-out data have no part in
that choice, and serve for the loss that is reported alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmind.errors import ModelError
from kmind.infer.features import Feature, to_array, to_raw
from kmind.infer.floating import FloatMlp, FloatModel, FloatTrees
from kmind.infer.integer import IntModel, IntTrees
from kmind.infer.model_file import ModelFile
from kmind.infer.packing.cost import estimate_ns
from kmind.infer.packing.pack import fits_slot
from kmind.infer.quantiser._integers import PROBABILITY_ONE, Widths, integer_mlp, integer_trees
from kmind.infer.quantiser._measure import balanced_accuracy, label_numbers, r_squared
from kmind.infer.quantiser.agreement import close_calls, compare, facts_of
from kmind.infer.reference import Decisions, evaluate, normalise_input
from kmind.infer.selftest import digest

__all__ = ["DEFAULT_LIMIT", "WIDTHS", "Loss", "measure", "quantise"]

DEFAULT_LIMIT = 0.5
# Weight and activation bits, cheapest first: products that fit four, three and two lanes of a
# 64-bit word (16, 21 and 32 bits), then whatever 16-bit numbers can hold.
WIDTHS = ((8, 4), (8, 7), (12, 11), (16, 15))
_KEEP = (1.0, 0.999, 0.99)
# Enough to choose widths by; more only takes longer.
_ROWS = 20_000
# A network whose probabilities differ by more on average is made of wider numbers, if there are.
_PROBABILITY_ERROR = 0.01

_I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Loss:
    """Cost of quantising: ``metric`` of the float and of the integer model on the same rows.

    ``metric``: ``balanced accuracy`` against the truth, ``agreement`` (balanced accuracy against
    the float model, where no truth was given), or ``R2``. ``lost`` is in points of 100.
    ``same`` is the share of rows that both label alike, ``probability`` the mean difference
    between their probabilities (0 where there is none).
    """

    metric: str
    floating: float
    integer: float
    rows: int
    same: float = 1.0
    probability: float = 0.0

    @property
    def lost(self) -> float:
        """Points lost; negative where the integer model happens to do better."""
        return 100.0 * (self.floating - self.integer)


def quantise(
    model: FloatModel,
    calibration: Any,
    held_out: tuple[Any, Any] | None = None,
    *,
    features: Sequence[Feature] | None = None,
    limit: float = DEFAULT_LIMIT,
    widths: tuple[int, int] | None = None,
    exact: bool = True,
    budget_ns: float = math.inf,
    card: Mapping[str, Any] | None = None,
) -> ModelFile:
    """Return the model file of a float model.

    ``calibration`` is a pandas frame or an array ``[n, F]`` of what the model is trained on;
    ``held_out`` are rows and their labels (or values) that it was not trained on. Without them
    the last third of the calibration rows is kept for the loss, and the float model is the truth.
    ``features`` name the columns; by default they come from the model or the frame, without unit.
    ``widths`` are (weight bits, activation bits) of a network instead of the narrowest that do.
    ``exact``: close calls of trees are decided in the library's own floats, where the model fits
    into a slot so, and into ``budget_ns``; else by rounded leaves. ``card`` is kept in the file.

    Where the model's library is installed, its labels of the calibration rows are compared with
    the integer model's, and for trees those of rows at each threshold, too. Raises ModelError
    where more than ``limit`` points are lost, or more of 100 calibration rows differ.
    """
    features = _features(model, calibration, features)
    table = to_array(features, calibration)
    if len(table) < 2:
        raise ModelError("calibration needs at least two rows")
    truth: Any = None
    if held_out is None:
        first = max(len(table) * 2 // 3, 1)
        table, other = table[:first], table[first:]
    else:
        other, truth = to_array(features, held_out[0]), held_out[1]
        if len(other) != len(truth):
            raise ModelError(f"{len(other)} held-out rows have {len(truth)} labels")
        if not len(other):
            raise ModelError("there are no held-out rows")
    sample = table[np.linspace(0, len(table) - 1, min(len(table), _ROWS)).astype(int)]
    if isinstance(model, FloatMlp):
        model = model.merged()
        integer, chosen = _narrowest(model, features, sample, limit, widths)
    else:
        integer, chosen = _trees(model, _scales(features), exact, budget_ns), None
    loss = measure(model, integer, features, other, truth)
    if not loss.lost <= limit:
        raise ModelError(
            f"integers cost {loss.lost:.2f} points of {loss.metric} "
            f"({loss.floating:.4f} to {loss.integer:.4f}); the limit is {limit:g}",
            hint="calibrate with data that spans what the model will see, or raise the limit",
        )
    agreement = compare(model, integer, features, np.concatenate([table, other]))
    if agreement is not None and agreement.lost > limit:
        raise ModelError(
            f"{agreement.differ} of {agreement.rows} rows get another label than {agreement.name} "
            f"gives them; the limit is {limit:g} of 100",
            hint="raise the limit, if this is good enough",
        )
    facts = {
        "source": model.source,
        **facts_of(agreement, model),
        "notes": list(model.notes),
        "close_calls": close_calls(model, integer),
        "metric": loss.metric,
        "float": loss.floating,
        "integer": loss.integer,
        "lost_points": loss.lost,
        "limit_points": limit,
        "rows": loss.rows,
        "same_label": loss.same,
        "probability_error": loss.probability,
        "calibration_rows": len(table),
        "weight_bits": chosen.weight if chosen else None,
        "activation_bits": chosen.activation if chosen else None,
        "kept": chosen.keep if chosen else None,
        "selftest": digest(integer),
    }
    return ModelFile(integer, tuple(features), model.target.classes, facts, dict(card or {}))


def _trees(model: FloatTrees, scale: NDArray[np.float64], exact: bool, budget: float) -> IntTrees:
    made = integer_trees(model, scale, exact=exact)
    if made.exact is None or (estimate_ns(made) <= budget and fits_slot(made)):
        return made
    return integer_trees(model, scale, exact=False)


def _features(
    model: FloatModel, table: Any, features: Sequence[Feature] | None
) -> tuple[Feature, ...]:
    if features is None:
        names: Sequence[Any] = model.names
        if not names:
            names = list(getattr(table, "columns", [f"f{i}" for i in range(model.features)]))
        features = [Feature(str(name)) for name in names]
    if len(features) != model.features:
        raise ModelError(f"{len(features)} features are named, the model takes {model.features}")
    return tuple(features)


def _scales(features: Sequence[Feature]) -> NDArray[np.float64]:
    return np.array([feature.scale for feature in features])


def _narrowest(
    model: FloatMlp,
    features: Sequence[Feature],
    sample: NDArray[np.float64],
    limit: float,
    widths: tuple[int, int] | None,
) -> tuple[IntModel, Widths]:
    raw, scale = to_raw(features, sample), _scales(features)
    shares = None if model.norm == "none" else normalise_input(model.norm, raw)
    best: tuple[float, IntModel, Widths] | None = None
    for weight, activation in WIDTHS if widths is None else (widths,):
        small = shares is None and bool((np.ptp(raw, axis=0) < 1 << activation).all())
        for keep, plain in itertools.product(_KEEP, (True, False) if small else (False,)):
            wide = Widths(weight, activation, keep, plain)
            integer = integer_mlp(model, scale, raw, shares, wide)
            loss = measure(model, integer, features, sample, None)
            # What is seen, and two standard errors of it: other data may lose that much more.
            share = max(loss.lost / 100.0, 1.0 / loss.rows)
            surely = loss.lost + 200.0 * math.sqrt(share / loss.rows)
            if surely <= limit and loss.probability <= _PROBABILITY_ERROR:
                return integer, wide
            if best is None or surely < best[0]:
                best = surely, integer, wide
    assert best is not None
    return best[1], best[2]


def measure(
    model: FloatModel,
    integer: IntModel,
    features: Sequence[Feature],
    table: NDArray[np.float64],
    truth: Any,
) -> Loss:
    """Return what integers cost on rows ``[n, F]`` whose truth is given, or None."""
    scores = model.scores(table)
    decisions = evaluate(integer, to_raw(features, table))
    if model.target.kind == "value":
        values = _values(integer, decisions)
        if truth is None:
            return Loss("R2", 1.0, r_squared(scores, values), len(table))
        known = np.asarray(truth, np.float64).reshape(len(table), -1)
        return Loss("R2", r_squared(known, scores), r_squared(known, values), len(table))
    labels = model.labels(table)
    extra: dict[str, Any] = {"rows": len(table), "same": float((labels == decisions.label).mean())}
    if integer.output.probability is not None:
        ours = decisions.probability / PROBABILITY_ONE
        extra["probability"] = float(np.abs(ours - model.target.probability(scores)).mean())
    if truth is None:
        return Loss("agreement", 1.0, balanced_accuracy(labels, decisions.label), **extra)
    known_labels = label_numbers(model.target.classes, truth)
    return Loss(
        "balanced accuracy",
        balanced_accuracy(known_labels, labels),
        balanced_accuracy(known_labels, decisions.label),
        **extra,
    )


def _values(integer: IntModel, decisions: Decisions) -> NDArray[np.float64]:
    return np.asarray(decisions.score * integer.output.scale, np.float64)
