# SPDX-License-Identifier: Apache-2.0
"""The bench of decisions: its numbers are there, and prices are fitted as they should be."""

import json
from dataclasses import astuple, fields

import numpy as np
import pytest

from kmind.bench import infer
from kmind.bench._infer_prices import fit_prices, grid
from kmind.errors import ModelError
from kmind.infer.packing.cost import PRICES, Operations, Prices, count, price_ns
from kmind.infer.packing.pack import model_image
from kmind.testing.models import random_trees

SOME = [
    Operations(*map(int, row))
    for row in np.random.default_rng(0).integers(1, 100, (60, len(fields(Operations))))
]  # fmt: skip


def test_prices_are_found_again() -> None:
    paid = Prices(*np.random.default_rng(1).uniform(0.1, 20, len(fields(Prices))).tolist())
    found, worst = fit_prices(SOME, np.array([price_ns(each, paid) for each in SOME]))
    assert np.allclose(astuple(found), astuple(paid), rtol=1e-6)
    assert worst == pytest.approx(1)


def test_no_price_is_below_nothing_and_the_worst_is_told() -> None:
    measured = np.random.default_rng(2).uniform(10, 1000, len(SOME))
    found, worst = fit_prices(SOME, measured)
    assert min(astuple(found)) >= 0
    ratios = [ns / price_ns(each, found) for each, ns in zip(SOME, measured, strict=True)]
    assert worst == pytest.approx(max(ratios))
    assert worst > 1
    for wrong in (np.zeros(len(SOME)), np.array([]), np.full(len(SOME), np.nan)):
        with pytest.raises(ModelError, match="not positive"):
            fit_prices(SOME, wrong)


def test_the_grid_has_all_that_is_priced_and_fits_in_a_slot() -> None:
    done = np.zeros(len(fields(Operations)))
    names = []
    for name, model in grid(infer._trees):
        nothing = bytes(32)
        model_image(model, content=nothing, schema=nothing, quantisation=nothing, cost_ns=0)
        done += astuple(count(model))
        names.append(name)
    assert done.all()
    assert len(set(names)) == len(names) > 4 * len(done)


@pytest.mark.kernel("syscall")
def test_a_quick_run_gives_every_number_with_its_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: infer.MODELS[name] for name in ("mlp-5-25-15-4", "tree-10")}
    rng = np.random.default_rng(0)
    models = [(f"{n} trees", random_trees(rng, n, 3, 4, 1, complete=True)) for n in (1, 20, 40)]
    monkeypatch.setattr(infer, "MODELS", few)
    monkeypatch.setattr(infer, "grid", lambda _: iter(models))
    result = infer.run_infer_bench(quick=True)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["schema"] == "kmind.bench.infer/1"
    assert [each["name"] for each in result["models"]] == list(few)
    for each in result["models"]:
        assert each["bit_exact"] is True
        assert min(each["ns"], each["c_ns"], each["estimate_ns"]) > 0
        assert min(each["ns_spread"], each["c_ns_spread"]) >= 0
    assert [each["name"] for each in result["prices"]] == [name for name, _ in models]
    for each in result["prices"]:
        assert min(each["ns"], each["estimate_ns"]) > 0
    ratios = [each["ns"] / each["estimate_ns"] for each in result["prices"]]
    assert result["over_estimate"] == pytest.approx(max(ratios), rel=0.02)
    assert set(result["fitted_prices"]) == {each.name for each in fields(PRICES)}
