# SPDX-License-Identifier: Apache-2.0
"""What a decision costs, known before the model is loaded: operations counted, then priced.

Operations are counted at their most: every tree down to its deepest leaf, no zero skipped. So an
estimate is a bound for a processor like the one that the prices come from, not a forecast.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from kmind.errors import ModelError
from kmind.infer.integer import IntMlp, IntModel

__all__ = ["PRICES", "Operations", "Prices", "check_budget", "count", "estimate_ns", "lanes"]

# The widest accumulator that one lane of a 64-bit word holds beside a sign: see `lanes`.
_LANES = ((15, 4), (20, 3), (31, 2))


@dataclass(frozen=True)
class Operations:
    """What one decision does at most.

    ``inputs``: features brought to the model's scale. ``norms``: features divided by their
    vector's size. ``words``: multiplications of an activation by a word of weights, which holds
    as many weights as there are lanes. ``sums``: accumulators begun, and ended by a step or a
    score. ``lookups``: of tables. ``levels``: turns from a root to a leaf, all trees together.
    ``trees``: leaves fetched and added (times the values in a leaf).
    """

    inputs: int = 0
    norms: int = 0
    words: int = 0
    sums: int = 0
    lookups: int = 0
    levels: int = 0
    trees: int = 0


@dataclass(frozen=True)
class Prices:
    """Nanoseconds an operation, by the names of ``Operations``; ``fixed`` is for the call."""

    fixed: float
    inputs: float
    norms: float
    words: float
    sums: float
    lookups: float
    levels: float
    trees: float


PRICES = Prices(
    fixed=40.0,
    inputs=4.0,
    norms=12.0,
    words=0.8,
    sums=2.0,
    lookups=4.0,
    levels=2.0,
    trees=4.0,
)
"""From ``kmind bench infer`` on the machine of docs/benchmarks.md, rounded up."""


_FIELDS = fields(Operations)


def lanes(bound: int) -> int:
    """Return how many accumulators of at most this size (either sign) share a 64-bit word."""
    return next((count for bits, count in _LANES if bound < 1 << bits), 1)


def count(model: IntModel) -> Operations:
    """Count the operations of one decision at their most."""
    features = len(model.input)
    norms = features if model.input.norm != "none" else 0
    looked = int(model.output.probability is not None)
    if not isinstance(model, IntMlp):
        trees = len(model.root)
        return Operations(features, norms, 0, 0, looked, _levels(model), trees * model.width)
    words = sums = 0
    for layer, bound in zip(model.layers, model.bound, strict=True):
        out, fan_in = layer.weight.shape
        words += -(-out // lanes(bound)) * fan_in
        sums += out
        if layer.step is not None and layer.step.table is not None:
            looked += out
    return Operations(features, norms, words, sums, looked)


def _levels(model: IntModel) -> int:
    assert not isinstance(model, IntMlp)
    # The deepest leaf of each tree; parents stand before their children.
    depth = [0] * len(model.feature)
    deepest: dict[int, int] = {}
    roots = set(model.root.tolist())
    tree = 0
    for node, (feature, left, right) in enumerate(
        zip(model.feature.tolist(), model.left.tolist(), model.right.tolist(), strict=True)
    ):
        tree = node if node in roots else tree
        if feature >= 0:
            depth[left] = depth[right] = depth[node] + 1
        else:
            deepest[tree] = max(deepest.get(tree, 0), depth[node])
    return sum(deepest.values())


def estimate_ns(model: IntModel, prices: Prices = PRICES) -> float:
    """Return the price of a decision, in nanoseconds."""
    operations = count(model)
    parts = (getattr(operations, each.name) * getattr(prices, each.name) for each in _FIELDS)
    return float(prices.fixed + sum(parts))


def check_budget(model: IntModel, budget_ns: float, prices: Prices = PRICES) -> float:
    """Return the estimate; raises ModelError where it is over the hook's budget."""
    estimate = estimate_ns(model, prices)
    if not estimate <= budget_ns:
        raise ModelError(
            f"a decision may take {estimate:,.0f} ns, and the hook's budget is {budget_ns:,.0f} ns",
            hint="train a smaller model, or raise the budget",
        )
    return estimate
