# SPDX-License-Identifier: Apache-2.0
"""Cost of a decision, and the gate that is built on it."""

from dataclasses import astuple, replace

import numpy as np
import pytest

from kmind.errors import ModelError
from kmind.infer.integer import IntMlp
from kmind.infer.packing import _network as _pack_network
from kmind.infer.packing import _trees as _pack_trees
from kmind.infer.packing import pack
from kmind.infer.packing.cost import MARGIN, PRICES, check_budget, count, estimate_ns, price_ns
from kmind.testing.models import random_mlp, random_model, random_trees


def test_more_work_costs_more() -> None:
    rng = np.random.default_rng(0)
    shapes = [(5, 8, 2), (5, 25, 15, 4), (31, 256, 2), (31, 512, 2)]
    nets = [estimate_ns(random_mlp(rng, shape, norms=False)) for shape in shapes]
    assert nets == sorted(nets)
    forests = [
        estimate_ns(random_trees(rng, trees, 6, 16, 1, complete=True, norms=False))
        for trees in (1, 10, 100, 400)
    ]
    assert forests == sorted(forests)
    assert forests[-1] > 20 * forests[0] > 0
    plain = random_trees(rng, 3, 4, 5, 1, norms=False)
    norms = [
        estimate_ns(replace(plain, input=replace(plain.input, norm=norm))) for norm in ("l1", "l2")
    ]
    assert estimate_ns(plain) < norms[0] < norms[1]


@pytest.mark.parametrize("seed", range(40))
def test_what_is_counted_is_what_the_image_has_the_kernel_do(seed: int) -> None:
    model = random_model(np.random.default_rng(seed))
    if not isinstance(model, IntMlp) and seed % 2:  # leaves that complete trees have room for
        model = replace(model, leaf=model.leaf % (1 << 20))
    image = pack.model_image(
        model, content=bytes(32), schema=bytes(32), quantisation=bytes(32), cost_ns=0
    )
    head = np.frombuffer(image, pack.IMAGE, 1)[0]
    counted, body = count(model), int(head["body"])
    assert counted.decisions == 1
    assert (counted.norms, counted.roots) == (
        len(model.input) if head["norm"] else 0,
        int(head["norm"] == 2),
    )
    assert (counted.inputs == 0, counted.plain > 0) == (bool(head["raw"]),) * 2
    if isinstance(model, IntMlp):
        layers = np.frombuffer(image, _pack_network.LAYER, int(head["layers"]), body)
        wide = layers["inputs"].astype(int)
        words = 4 * layers["blocks"] + layers["singles"]
        general = layers["kind"] == _pack_network.STEP_KIND
        tables = layers["step"]["table"] > 0
        assert counted.layers == len(layers)
        assert counted.words == (4 * layers["blocks"] * wide).sum()
        assert counted.singles == (layers["singles"] * wide).sum()
        assert (counted.sums, counted.steps) == (4 * words.sum(), 4 * words[general].sum())
        assert counted.lookups == 4 * words[tables].sum() + int(head["probability"])
        return
    trees = np.frombuffer(image, _pack_trees.TREES, 1, body)[0]
    groups = np.frombuffer(image, _pack_trees.GROUP, int(trees["groups"]), int(trees["group"]))
    at_once = np.select([groups["kind"] == kind for kind in (0, 1, 2)], [6, 1, 4])
    turned = [(at_once * groups["depth"])[groups["kind"] == kind].sum() for kind in (0, 1, 2)]
    assert counted.groups == len(groups)
    assert [counted.levels, counted.alone, counted.turns] == turned
    assert counted.leaves == (at_once * np.where(groups["kind"] == 2, trees["width"], 1)).sum()


def test_an_estimate_is_the_price_and_its_margin() -> None:
    model = random_trees(np.random.default_rng(0), 10, 6, 16, 1, complete=True)
    assert estimate_ns(model) == MARGIN * price_ns(count(model))
    assert MARGIN > 1
    assert all(price >= 0 for price in astuple(PRICES))


def test_a_model_over_the_budget_is_refused() -> None:
    model = random_trees(np.random.default_rng(0), 100, 6, 16, 1, complete=True, norms=False)
    estimate = estimate_ns(model)
    assert check_budget(model, estimate) == estimate
    with pytest.raises(ModelError, match="budget is 10 ns"):
        check_budget(model, 10)
    with pytest.raises(ModelError):
        check_budget(model, float("nan"))
