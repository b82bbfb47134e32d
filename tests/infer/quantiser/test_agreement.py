# SPDX-License-Identifier: Apache-2.0
"""Integer models decide as the library that trained them, label for label."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from infer.agreed import CASES, imported, whole
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from kmind.agent.kernel.evaluator import KernelEvaluator
from kmind.bench._agreement import FAMILIES, random_case
from kmind.errors import ModelError
from kmind.infer import (
    ModelFile,
    evaluate,
    from_onnx,
    from_sklearn,
    from_xgboost,
    quantise,
)
from kmind.infer.floating import FloatTrees
from kmind.infer.quantiser._integers import integer_trees
from kmind.infer.table import read_table


@pytest.mark.parametrize("family", FAMILIES)
def test_random_models_of_every_family(family: str) -> None:
    close = 0
    for seed in range(12):
        case = random_case(family, seed, 1500)
        assert case.differ == 0, f"{case.differ} rows, seed {seed}"
        assert np.array_equal(case.model.labels(case.rows), case.theirs)
        close += case.close
    assert close or family not in ("forest", "onnx")


@pytest.mark.kernel("libbpf", "btf")
@pytest.mark.parametrize("family", FAMILIES)
def test_random_models_of_every_family_in_the_kernel(family: str) -> None:
    with KernelEvaluator() as kernel:
        for seed in range(100, 106):
            case = random_case(family, seed, 600)
            kernel.load(case.integer)
            assert np.array_equal(kernel.evaluate(case.rows).label, case.theirs)


def test_rounded_leaves_alone_would_differ() -> None:
    """The comparison finds differences if close calls are not decided by the library's sums."""
    differ = 0
    for seed in (2, 14, 23):
        case = random_case("onnx", seed, 1500)
        rounded = integer_trees(case.model, np.ones(case.model.features), exact=False)
        differ += int((evaluate(rounded, case.rows).label != case.theirs).sum())
    assert differ


def test_tree_with_a_leaf_of_one_against_one() -> None:
    x, y = np.array([[1], [1], [5], [5]]), np.array([0, 1, 1, 1])
    tree = DecisionTreeClassifier().fit(x, y)
    ask = np.array([[0], [1], [2], [5]])
    assert whole(tree, ask) == tree.predict(ask).tolist() == [0, 0, 0, 1]
    file = quantise(from_sklearn(tree), np.repeat(x, 9, axis=0), limit=0)
    assert file.quantisation["library_differ"] == 0


def test_tie_among_three_classes_goes_to_the_first() -> None:
    x = np.array([[1]] * 3 + [[5]] * 2)
    y = np.array([2, 1, 0, 2, 1])
    tree = DecisionTreeClassifier().fit(x, y)
    ask = np.array([[0], [1], [3], [9]])
    assert whole(tree, ask) == tree.predict(ask).tolist() == [0, 0, 0, 1]
    forest = RandomForestClassifier(9, max_depth=1, random_state=0)
    forest.fit(np.repeat(x, 2, axis=0), np.repeat(y, 2), sample_weight=np.tile([0.1, 0.3], 5))
    assert whole(forest, ask) == forest.predict(ask).tolist()


def labels_of(file: ModelFile, rows: Path) -> tuple[np.ndarray, list[int], list[int]]:
    table = read_table(rows)
    *_, last = table.columns
    x = table.features([feature.name for feature in file.features]).astype(np.int64)
    said = [int(file.classes[label]) for label in evaluate(file.model, x).label]
    return x, said, table.columns[last].astype(int).tolist()


WITH_ROWS = [
    ("onnx-forest-10", "forest.onnx", "rows.csv", from_onnx, "slow"),
    ("xgb-early-stop-binary", "model.json", "expected.csv", from_xgboost, "slow"),
    ("xgb-large-integers", "model.json", "expected.csv", from_xgboost, "hot"),
]


@pytest.mark.parametrize(("case", "name", "rows", "read", "label"), WITH_ROWS)
def test_labels_of_recorded_cases(
    case: str, name: str, rows: str, read: Callable[[Path], FloatTrees], label: str
) -> None:
    file = imported(case, name, read, label)
    x, said, wanted = labels_of(file, CASES / case / rows)
    assert said == wanted
    assert read(CASES / case / name).labels(x).tolist() == wanted
    assert file.quantisation["library_differ"] == 0
    assert file.quantisation["library_edges_differ"] == 0


@pytest.mark.kernel("libbpf", "btf")
@pytest.mark.parametrize(("case", "name", "rows", "read", "label"), WITH_ROWS)
def test_labels_of_recorded_cases_in_the_kernel(
    case: str, name: str, rows: str, read: Callable[[Path], FloatTrees], label: str
) -> None:
    file = imported(case, name, read, label)
    x, _, wanted = labels_of(file, CASES / case / rows)
    with KernelEvaluator() as kernel:
        kernel.load(file.model)
        assert kernel.evaluate(x).label.tolist() == wanted


def test_rounds_after_the_best_are_left_out_and_said() -> None:
    path = CASES / "xgb-early-stop-binary" / "model.json"
    model = from_xgboost(path)
    assert len(model.root) == 5
    assert model.notes == (
        "12 rounds after the best one (best_iteration 4) are left out, 5 of 17 are taken",
    )
    file = imported("xgb-early-stop-binary", "model.json", from_xgboost, "slow")
    assert file.quantisation["notes"] == list(model.notes)
    assert len(from_xgboost(path, all_rounds=True).root) == 17
    assert from_xgboost(path, all_rounds=True).notes == ()


def test_a_library_that_disagrees_is_said_and_refused_above_the_limit() -> None:
    x = np.arange(200)[:, None]
    tree = DecisionTreeClassifier(max_depth=1).fit(x, (x[:, 0] > 120).astype(int))
    model = from_sklearn(tree)
    tree.tree_.threshold[0] = 117.5  # what was imported is not what the library has now
    with pytest.raises(ModelError, match=r"3 of 200 rows get another label than scikit-learn"):
        quantise(model, x)
    facts = quantise(model, x, limit=2).quantisation
    assert (facts["library_rows"], facts["library_differ"]) == (200, 3)
    assert facts["library_edges"] > facts["library_edges_differ"] > 0
    assert facts["library"].startswith("scikit-learn 1.")


def test_a_model_that_does_not_fit_with_close_calls_is_taken_without() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 5000, (4000, 12))
    y = (x[:, 0] + x[:, 1] + rng.integers(0, 3000, 4000) > 6000).astype(int)
    forest = RandomForestClassifier(60, max_depth=8, min_samples_leaf=3, random_state=0).fit(x, y)
    facts = quantise(from_sklearn(forest), x).quantisation
    assert facts["close_calls"] == "rounded"
    small = RandomForestClassifier(10, max_depth=5, random_state=0).fit(x, y)
    assert quantise(from_sklearn(small), x).quantisation["close_calls"] == "exact"
    facts = quantise(from_sklearn(small), x, budget_ns=100).quantisation
    assert facts["close_calls"] == "rounded"
