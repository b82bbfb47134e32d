# SPDX-License-Identifier: Apache-2.0
"""Integer models decide as the library that trained them, label for label."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from kmind.agent.kernel.evaluator import KernelEvaluator
from kmind.bench._agreement import FAMILIES, random_case
from kmind.errors import ModelError
from kmind.infer import (
    Feature,
    ModelFile,
    evaluate,
    from_lightgbm,
    from_onnx,
    from_sklearn,
    from_xgboost,
    quantise,
)
from kmind.infer._integers import integer_trees
from kmind.infer.agreement import edge_rows
from kmind.infer.floating import FloatTrees
from kmind.infer.integer import IntTrees
from kmind.infer.stages import DOUBLE, SINGLE, integer_edges
from kmind.infer.table import read_table

CASES = Path(__file__).with_name("cases")
ONE = np.ones(1)


def whole(model: Any, ask: Any) -> list[int]:
    return evaluate(integer_trees(from_sklearn(model), np.ones(ask.shape[1])), ask).label.tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_random_models_of_every_family(family: str) -> None:
    close = 0
    for seed in range(12):
        case = random_case(family, seed, 1500)
        assert case.differ == 0, f"{case.differ} rows, seed {seed}"
        assert np.array_equal(case.model.labels(case.rows), case.theirs)
        close += case.close
    assert close or family not in ("forest", "onnx")


@pytest.mark.kernel("libbpf", "btf", "arena")
@pytest.mark.parametrize("family", FAMILIES)
def test_random_models_of_every_family_in_the_kernel(family: str) -> None:
    with KernelEvaluator() as kernel:
        for seed in range(100, 106):
            case = random_case(family, seed, 600)
            kernel.load(case.integer)
            assert np.array_equal(kernel.evaluate(case.rows).label, case.theirs)


def test_rounded_leaves_alone_would_differ() -> None:
    """What the comparison finds where close calls are not decided by the library's sums."""
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


def test_tree_that_asks_first_whether_a_number_is_missing() -> None:
    rng = np.random.default_rng(0)
    latency = rng.integers(100, 1000, 60).astype(float)
    missing = rng.random(60) < 0.4
    x = np.where(missing, np.nan, latency)[:, None]
    y = np.where(missing, 1, (latency > 500) & (latency < 700)).astype(int)
    tree = DecisionTreeClassifier(random_state=0).fit(x, y)
    assert np.isinf(tree.tree_.threshold).any()
    ask = np.arange(100, 1000, 50)[:, None]
    assert whole(tree, ask) == tree.predict(ask).tolist()
    assert sum(whole(tree, ask)) == 4


@pytest.mark.parametrize("scaler", [MinMaxScaler(), MinMaxScaler(clip=True), StandardScaler()])
def test_middle_between_two_values_behind_a_scaler(scaler: Any) -> None:
    differ = 0
    for size in (16, 24, 48, 100, 512, 4096):
        x, y = np.array([[8], [size], [2 * size], [9000]] * 3), np.array([0, 0, 1, 1] * 3)
        model = make_pipeline(scaler, DecisionTreeClassifier()).fit(x, y)
        ask = np.arange(8, 3 * size)[:, None]
        differ += int((np.array(whole(model, ask)) != model.predict(ask)).sum())
    assert not differ


def labels_of(file: ModelFile, rows: Path) -> tuple[np.ndarray, list[int], list[int]]:
    table = read_table(rows)
    *_, last = table.columns
    x = table.features([feature.name for feature in file.features]).astype(np.int64)
    said = [int(file.classes[label]) for label in evaluate(file.model, x).label]
    return x, said, table.columns[last].astype(int).tolist()


def imported(case: str, name: str, read: Callable[[Path], FloatTrees], label: str) -> ModelFile:
    model, table = read(CASES / case / name), read_table(CASES / case / "io.csv")
    columns = table.match(model.names, {}) if model.names else tuple(table.columns)[:-1]
    rows, truth = table.features(columns), table.columns[label]
    first = len(rows) * 2 // 3
    features = [Feature(column) for column in columns]
    return quantise(model, rows[:first], (rows[first:], truth[first:]), features=features)


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


@pytest.mark.kernel("libbpf", "btf", "arena")
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


def test_names_that_lightgbm_changed_are_found_in_the_table() -> None:
    file = imported("lgbm-name-with-blank", "model.txt", from_lightgbm, "slow")
    assert [feature.name for feature in file.features] == ["queue depth", "latency"]
    file = imported("csv-byte-order-mark", "model.txt", from_lightgbm, "slow")
    assert file.features[0].name == "depth"


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


@pytest.mark.parametrize(("stages", "kind"), [(SINGLE, np.float32), (DOUBLE, np.float64)])
def test_edges_are_the_last_integers_that_the_library_sends_left(stages: Any, kind: Any) -> None:
    rng = np.random.default_rng(0)
    sizes = rng.choice([1.0, 1e6, 1e9, 8.64e13, 1e17, 1e18], 300)
    threshold = (rng.normal(0, 1, 300) * sizes).astype(kind).astype(np.float64)
    feature = np.zeros(300, np.int64)
    edge, always, never = integer_edges(stages, ONE, feature, threshold)
    here = ~(always | never)
    assert here.all()
    assert (edge.astype(kind) <= threshold).all()
    assert ((edge + 1).astype(kind) > threshold).all()
    ends = np.array([np.inf, -np.inf, 1e30, -1e30, 2.0**63])
    _, always, never = integer_edges(stages, ONE, np.zeros(5, np.int64), ends)
    assert always.tolist() == [True, False, True, False, True]
    assert never.tolist() == [False, True, False, True, False]


def test_rows_at_thresholds_are_on_both_sides_of_each() -> None:
    x = np.array([[0], [10], [20], [30]])
    model = from_sklearn(DecisionTreeClassifier().fit(x, [0, 1, 0, 1]))
    assert isinstance(model, FloatTrees)
    rows = edge_rows(model, ONE, x, 100)[:, 0].tolist()
    assert {4, 5, 6, 14, 15, 16, 24, 25, 26} <= set(rows)


def test_thresholds_over_more_than_32_bits_are_searched_for() -> None:
    x = np.array([[-(1 << 60)], [-5], [7], [1 << 40], [1 << 61]])
    tree = DecisionTreeClassifier().fit(x, [0, 1, 0, 1, 0])
    model = integer_trees(from_sklearn(tree), ONE)
    assert isinstance(model, IntTrees)
    assert len(model.input.edges[0]) == 4
    assert evaluate(model, x).label.tolist() == [0, 1, 0, 1, 0]


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


def write(path: Path, rows: list[list[str]], separator: str, encoding: str) -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=separator).writerows(rows)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_tables_as_spreadsheets_save_them(tmp_path: Path, separator: str, encoding: str) -> None:
    rows = [["queue depth", "Größe [B]", "a:b"], ["1", "2,5" if separator == ";" else "2.5", "x"]]
    table = read_table(write(tmp_path / "t.csv", rows, separator, encoding))
    assert list(table.columns) == rows[0]
    assert table.features(["queue depth", "Größe [B]"]).tolist() == [[1.0, 2.5]]
    with pytest.raises(ModelError, match="its columns are: queue depth"):
        table.features(["depth"])


def test_columns_are_matched_only_where_there_is_no_doubt(tmp_path: Path) -> None:
    rows = [["queue depth", "a:b", "a b", "größe", "x"], ["1", "2", "3", "4", "5"]]
    table = read_table(write(tmp_path / "t.csv", rows, ",", "utf-8"))
    assert table.match(["queue_depth", "größe"], {}) == ("queue depth", "größe")
    assert table.match(["a_b"], {}) == ("a b",)
    assert table.match(["q", "x"], {"q": "a:b"}) == ("a:b", "x")
    with pytest.raises(ModelError, match=r"lacks the column 'depth'.*--names 'depth=COLUMN'"):
        table.match(["depth"], {})
    twice = [["a:b", "a;b"], ["1", "2"]]
    table = read_table(write(tmp_path / "u.csv", twice, ",", "utf-8"))
    with pytest.raises(ModelError, match="may be any of these: a:b, a;b"):
        table.match(["a_b"], {})
