# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of agreement and its neighbours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kmind.infer import (
    Feature,
    ModelFile,
    evaluate,
    from_sklearn,
    quantise,
)
from kmind.infer.floating import FloatTrees
from kmind.infer.quantiser._integers import integer_trees
from kmind.infer.table import read_table

CASES = Path(__file__).with_name("cases")


def imported(case: str, name: str, read: Callable[[Path], FloatTrees], label: str) -> ModelFile:
    model, table = read(CASES / case / name), read_table(CASES / case / "io.csv")
    columns = table.match(model.names, {}) if model.names else tuple(table.columns)[:-1]
    rows, truth = table.features(columns), table.columns[label]
    first = len(rows) * 2 // 3
    features = [Feature(column) for column in columns]
    return quantise(model, rows[:first], (rows[first:], truth[first:]), features=features)


def whole(model: Any, ask: Any) -> list[int]:
    return evaluate(integer_trees(from_sklearn(model), np.ones(ask.shape[1])), ask).label.tolist()
