# SPDX-License-Identifier: Apache-2.0
"""The integer model in numpy: all other evaluators must give exactly these numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmind.errors import ModelError
from kmind.infer._walk import add_leaves
from kmind.infer.integer import IntMlp, IntModel, IntTrees
from kmind.infer.integer_parts import Exact, Input, Output, Step

__all__ = ["Decisions", "evaluate", "is_close", "normalise_input", "quantise_input"]

_I64 = NDArray[np.int64]

_NORM_LIMIT = (1 << 31) - 1
_NORM_SHIFT = 30


@dataclass(frozen=True, eq=False)
class Decisions:
    """Decisions of a model for ``n`` vectors.

    ``label[n]``: the class (0 if the output is a value). ``score[n, K]``: the scores.
    ``probability[n]``: of label 1, 0 to 32767; -1 where the model has no such table.
    """

    label: _I64
    score: _I64
    probability: _I64


def evaluate(model: IntModel, x: Any) -> Decisions:
    """Return the decisions on ``x[n, F]``, integers that fit in int64."""
    q = quantise_input(model.input, x)
    scores = _network(model, q) if isinstance(model, IntMlp) else _trees(model, q)
    output = model.output
    label = np.zeros(len(q), np.int64)
    probability = np.full(len(q), -1, np.int64)
    if output.kind == "argmax":
        label = scores.argmax(axis=1).astype(np.int64)
    elif output.kind == "threshold":
        label = (scores[:, 0] > output.threshold).astype(np.int64)
    if output.probability is not None:
        probability = _step(output.probability, scores[:, 0])
    if isinstance(model, IntTrees) and model.exact is not None:
        close = is_close(output, model.exact, scores)
        label[close] = _exact_labels(model, model.exact, q[close])
    return Decisions(label, scores, probability)


def is_close(output: Output, exact: Exact, scores: _I64) -> NDArray[np.bool_]:
    """Return which decisions ``[n]`` the rounded leaves leave to the exact ones."""
    if output.kind == "threshold":
        return np.asarray(np.abs(scores[:, 0] - output.threshold) <= exact.close)
    top = np.partition(scores, -2, axis=1)[:, -2:]
    return np.asarray(top[:, 1] - top[:, 0] <= exact.close)


def _exact_labels(model: IntTrees, exact: Exact, q: _I64) -> _I64:
    kind: Any = np.float32 if exact.single else np.float64
    sums = np.repeat(exact.base.astype(kind)[None, :], len(q), axis=0)
    add_leaves(model, q, sums, exact.leaf)
    sums = (sums + exact.last.astype(kind)) / kind(exact.divide)
    if sums.shape[1] == 1:
        return np.asarray(sums[:, 0] > exact.threshold, np.int64)
    below = sums.max(axis=1, keepdims=True) - sums
    return np.asarray((below <= exact.tie).argmax(axis=1), np.int64)


def quantise_input(stage: Input, x: Any) -> _I64:
    """Return ``q[n, F]`` for ``x[n, F]``: the first step of every model."""
    x = np.asarray(x)
    if x.ndim != 2 or x.shape[1] != len(stage) or x.dtype.kind not in "iu":
        raise ModelError(
            f"the model takes integers of shape (n, {len(stage)}), not {x.dtype} of shape {x.shape}"
        )
    if x.dtype == np.uint64:
        x = np.minimum(x, np.uint64((1 << 63) - 1))
    x = x.astype(np.int64)
    if stage.norm != "none":
        x = normalise_input(stage.norm, x)
    inside = np.clip(x, stage.lo, stage.hi) - stage.offset
    q: _I64 = (inside * stage.mul + stage.round) >> stage.shift
    for feature, edges in enumerate(stage.edges):
        if len(edges):
            q[:, feature] = np.searchsorted(edges, x[:, feature], side="left")
    return q


def normalise_input(norm: str, x: _I64) -> _I64:
    """Return ``x[n, F]`` divided by each row's size, with 30 fractional bits."""
    u = np.clip(x, -_NORM_LIMIT, _NORM_LIMIT)
    size = np.abs(u)
    if norm == "l1":
        total = size.sum(axis=1)
    elif norm == "max":
        total = size.max(axis=1)
    else:
        # At most 256 squares below 2**62: below 2**70, so the sum wraps only where vectors are
        # absurd, and it wraps alike everywhere.
        total = _isqrt((size.astype(np.uint64) ** np.uint64(2)).sum(axis=1, dtype=np.uint64))
    there = np.where(total == 0, 1, total)[:, None]
    shares = np.sign(u) * ((size << _NORM_SHIFT) // there)
    result: _I64 = np.asarray(np.where(total[:, None] == 0, 0, shares), np.int64)
    return result


def _isqrt(value: NDArray[np.uint64]) -> _I64:
    root = np.sqrt(value.astype(np.float64)).astype(np.int64)
    # A float has 53 bits: the guess is off by one at most.
    root = np.minimum(root, (1 << 32) - 1)
    root -= (root.astype(np.uint64) ** np.uint64(2) > value).astype(np.int64)
    after = (root + 1).astype(np.uint64)
    root += ((after <= (1 << 32) - 1) & (after * after <= value)).astype(np.int64)
    return root


def _step(step: Step, value: _I64) -> _I64:
    inside: _I64 = np.clip((value * step.mul + step.add) >> step.shift, step.lo, step.hi)
    return inside if step.table is None else step.table[inside].astype(np.int64)


def _network(model: IntMlp, q: _I64) -> _I64:
    for layer in model.layers:
        q = q @ layer.weight.T.astype(np.int64) + layer.bias
        if layer.step is not None:
            q = _step(layer.step, q)
    return q


def _trees(model: IntTrees, q: _I64) -> _I64:
    scores = np.repeat(model.base[None, :], len(q), axis=0)
    add_leaves(model, q, scores)
    return scores
