# SPDX-License-Identifier: Apache-2.0
"""Estimate a decision's cost before the model is loaded: count operations, multiply by prices.

Operations are counted as the kernel's evaluator does them, with all padding: no zero is skipped,
and trees that walk together all walk as deep as the deepest. The prices are fitted to measurements
(``kmind bench infer``), and an estimate is ``MARGIN`` times their sum: a bound, for warm caches on
a processor like the measured one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from kmind.errors import ModelError
from kmind.infer.integer import IntMlp, IntModel, IntTrees
from kmind.infer.packing._network import STEP_KIND, plan_layer
from kmind.infer.packing._trees import FOUR, ONE, is_raw, tree_groups

__all__ = [
    "MARGIN",
    "PRICES",
    "Operations",
    "Prices",
    "check_budget",
    "count",
    "estimate_ns",
    "price_ns",
]


@dataclass(frozen=True)
class Operations:
    """Operations of one decision.

    ``decisions``: 1. ``inputs``: features brought to the model's scale; ``plain``: taken as they
    are. ``norms``: features divided by their vector's size; ``roots``: of sums of squares.

    Networks: ``layers``. ``words``: multiplications of an activation by a word of weights, which
    holds as many weights as there are lanes; ``singles``: those in words that go through the
    inputs alone. ``sums``: accumulators begun and ended; ``steps``: of them, those ended by more
    than a shift. ``lookups``: of tables.

    Trees: ``groups``. ``levels``: turns of trees that walk six at a time; ``alone``: of one that
    walks by itself; ``turns``: of trees with pointers. ``leaves``: values added.
    ``searches``: steps of a search among a feature's edges.

    A close call, which any decision by such trees may be: ``again``: turns of trees that walk once
    more; ``floats``: values added as floats; ``ends``: sums divided and compared.
    """

    decisions: int = 1
    inputs: int = 0
    plain: int = 0
    norms: int = 0
    roots: int = 0
    layers: int = 0
    words: int = 0
    singles: int = 0
    sums: int = 0
    steps: int = 0
    lookups: int = 0
    groups: int = 0
    levels: int = 0
    alone: int = 0
    turns: int = 0
    leaves: int = 0
    searches: int = 0
    again: int = 0
    floats: int = 0
    ends: int = 0


@dataclass(frozen=True)
class Prices:
    """Nanoseconds an operation, by the names of ``Operations``."""

    decisions: float
    inputs: float
    plain: float
    norms: float
    roots: float
    layers: float
    words: float
    singles: float
    sums: float
    steps: float
    lookups: float
    groups: float
    levels: float
    alone: float
    turns: float
    leaves: float
    searches: float
    again: float
    floats: float
    ends: float


PRICES = Prices(
    decisions=14.71,
    inputs=1.75,
    plain=0.529,
    norms=3.94,
    roots=48.65,
    layers=8.46,
    words=0.318,
    singles=0.544,
    sums=0.607,
    steps=0.541,
    lookups=0.045,
    groups=0.0,
    levels=0.777,
    alone=2.33,
    turns=1.76,
    leaves=0.968,
    searches=4.7,
    again=4.85,
    floats=19.0,
    ends=30.0,
)
"""As ``kmind bench infer`` fitted them on the machine of docs/benchmarks.md.

The last four were fitted later, and brought to that run by what the others took beside them.
"""

MARGIN = 1.5
"""An estimate is that many times the price: no shape that was measured took longer."""

_FIELDS = fields(Operations)


def count(model: IntModel) -> Operations:
    """Count the operations of one decision at their most."""
    features = len(model.input)
    first = {
        "norms": features if model.input.norm != "none" else 0,
        "roots": int(model.input.norm == "l2"),
        "lookups": int(model.output.probability is not None),
    }
    if isinstance(model, IntMlp):
        return Operations(inputs=features, **_network(model, first))
    # They are taken eight at a time.
    first |= {"plain": -(-features // 8) * 8} if is_raw(model) else {"inputs": features}
    return Operations(**_trees(model, first))


def _network(model: IntMlp, counted: dict[str, int]) -> dict[str, int]:
    words = singles = sums = steps = 0
    for layer, bound in zip(model.layers, model.bound, strict=True):
        plan = plan_layer(layer, bound)
        words += (plan.words - plan.singles) * plan.inputs
        singles += plan.singles * plan.inputs
        sums += plan.words * 4  # as many lanes as may be are written
        if plan.kind == STEP_KIND:
            steps += plan.words * 4
            if layer.step is not None and layer.step.table is not None:
                counted["lookups"] += plan.words * 4
    done = {"layers": len(model.layers), "words": words, "singles": singles}
    return counted | done | {"sums": sums, "steps": steps}


def _trees(model: IntTrees, counted: dict[str, int]) -> dict[str, int]:
    groups = tree_groups(model)
    done = dict.fromkeys(("levels", "alone", "turns", "leaves"), 0)
    for group in groups:
        if group.kind == FOUR:
            done["turns"] += 4 * group.depth
            done["leaves"] += 4 * model.width
        elif group.kind == ONE:
            done["alone"] += group.depth
            done["leaves"] += 1
        else:
            done["levels"] += 6 * group.depth
            done["leaves"] += 6
    done["searches"] = sum(len(edges).bit_length() for edges in model.input.edges)
    if model.exact is not None:
        # The place of each tree that walked costs as much as a turn.
        done["again"] = sum(len(group.trees) * (group.depth + 1) for group in groups)
        done["floats"] = len(model.root) * model.exact.leaf.shape[1]
        done["ends"] = len(model.exact.base)
    return counted | done | {"groups": len(groups)}


def price_ns(operations: Operations, prices: Prices = PRICES) -> float:
    """Return what these operations take, in nanoseconds, without any margin."""
    return float(
        sum(getattr(operations, each.name) * getattr(prices, each.name) for each in _FIELDS)
    )


def estimate_ns(model: IntModel, *, close: bool = True) -> float:
    """Return what a decision takes at most, in nanoseconds; without ``close``, if none is."""
    operations = count(model)
    if not close:
        operations = replace(operations, again=0, floats=0, ends=0)
    return MARGIN * price_ns(operations)


def check_budget(model: IntModel, budget_ns: float) -> float:
    """Return the estimate; raises ModelError where it is over the hook's budget."""
    estimate = estimate_ns(model)
    if not estimate <= budget_ns:
        raise ModelError(
            f"a decision may take {estimate:,.0f} ns, and the hook's budget is {budget_ns:,.0f} ns",
            hint="train a smaller model, or raise the budget",
        )
    return estimate
