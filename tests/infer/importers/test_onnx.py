# SPDX-License-Identifier: Apache-2.0
"""ONNX graphs as exporters write them, held against ONNX's own reference evaluator."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from model_data import features, labels
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from kmind.errors import ModelError
from kmind.infer import from_onnx, quantise

X = features(600)
MORE = features(6000, seed=1)
RNG = np.random.default_rng(0)
ML = "ai.onnx.ml"
ML_KINDS = ("Scaler", "Normalizer", "LinearClassifier", "LinearRegressor")


def graph(nodes: Sequence[Any], constants: dict[str, Any], *outputs: str) -> Any:
    made = helper.make_graph(
        nodes,
        "main_graph",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", X.shape[1]])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [
            numpy_helper.from_array(
                np.asarray(value, np.int64 if name == "shape" else np.float32), name
            )
            for name, value in constants.items()
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ML, 3)]
    return helper.make_model(made, opset_imports=opsets)


def run(model: Any) -> list[Any]:
    return ReferenceEvaluator(model).run(None, {"input": X.astype(np.float32)})


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    domain = ML if kind in ML_KINDS or kind.startswith("Tree") else ""
    return helper.make_node(kind, inputs.split(), outputs.split(), domain=domain, **attributes)


def weights(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape) / np.sqrt(shape[-1])


# As torch.onnx.export writes nn.Sequential(Linear, ReLU, Linear, Tanh, Linear).
LINEARS = {
    "0.weight": weights(16, 4), "0.bias": weights(16), "2.weight": weights(8, 16),
    "2.bias": weights(8), "4.weight": weights(3, 8), "4.bias": weights(3),
    "mean": X.mean(axis=0), "std": X.std(axis=0),
}  # fmt: skip
SCALED = [node("Sub", "input mean", "a"), node("Div", "a std", "b")]
TORCH = [
    *SCALED,
    node("Gemm", "b 0.weight 0.bias", "c", alpha=1.0, beta=1.0, transB=1),
    node("Relu", "c", "d"),
    node("Gemm", "d 2.weight 2.bias", "e", alpha=1.0, beta=1.0, transB=1),
    node("Tanh", "e", "f"),
    node("Gemm", "f 4.weight 4.bias", "g", alpha=1.0, beta=1.0, transB=1),
]


@pytest.mark.parametrize("end", ["", "Softmax", "LogSoftmax", "ArgMax", "Sigmoid"])
def test_a_network_of_torch(end: str) -> None:
    nodes = [*TORCH, node(end, "g", "h")] if end else TORCH
    proto = graph(nodes, LINEARS, "h" if end else "g")
    classes = ("a", "b", "c")
    model = from_onnx(proto.SerializeToString(), classes)
    assert model.target.classes == classes
    theirs = run(graph(TORCH, LINEARS, "g"))[0]
    assert np.array_equal(model.target.labels(model.scores(X)), theirs.argmax(axis=1))
    assert np.allclose(model.scores(X), theirs, atol=1e-4)
    assert quantise(model, MORE).quantisation["lost_points"] <= 0.5
    kind = from_onnx(proto.SerializeToString()).target.kind
    assert kind == ("argmax" if end else "value")


def test_one_output_with_a_sigmoid_is_a_threshold() -> None:
    constants = {**LINEARS, "one": weights(1, 16), "zero": np.zeros(1)}
    nodes = [
        *SCALED,
        node("Gemm", "b 0.weight 0.bias", "c", transB=1),
        node("Sigmoid", "c", "d"),
        node("Gemm", "d one zero", "e", transB=1),
        node("Sigmoid", "e", "f"),
        node("Squeeze", "f", "g"),
    ]
    proto = graph(nodes, constants, "g")
    model = from_onnx(proto.SerializeToString())
    assert (model.target.kind, model.target.link) == ("threshold", "logistic")
    theirs = run(proto)[0] > 0.5
    assert np.array_equal(model.target.labels(model.scores(X)), theirs)


def test_matmul_add_and_arithmetic_after_a_layer() -> None:
    constants = {
        "w": weights(4, 6) / X.std(axis=0)[:, None],
        "b": weights(6),
        "k": weights(6),
        "v": weights(6, 2),
        "two": 2.0,
        "shape": [-1, 6],
    }
    nodes = [
        node("Cast", "input", "i", to=1),
        node("MatMul", "i w", "a"),
        node("Add", "b a", "c"),
        node("Mul", "c k", "d"),
        node("Relu", "d", "e"),
        node("Mul", "two e", "f"),
        node("Reshape", "f shape", "g"),
        node("Sub", "two g", "h"),
        node("MatMul", "h v", "o"),
    ]
    proto = graph(nodes, constants, "o")
    model = from_onnx(proto.SerializeToString())
    assert np.allclose(model.scores(X), run(proto)[0], atol=1e-3)


def test_weights_that_are_transposed_in_the_graph() -> None:
    constants = {"w": weights(3, 4) / X.std(axis=0), "b": weights(3)}
    nodes = [
        node("Transpose", "w", "v", perm=[1, 0]),
        node("Identity", "v", "u"),
        node("MatMul", "input u", "a"),
        node("Add", "a b", "o"),
    ]
    proto = graph(nodes, constants, "o")
    model = from_onnx(proto.SerializeToString())
    assert np.allclose(model.scores(X), run(proto)[0], atol=1e-3)


def ensemble(forest: Any, kind: str) -> dict[str, Any]:
    """A forest as skl2onnx writes it."""
    votes = "class" if kind == "classifier" else "target"
    rows: dict[str, list[Any]] = {
        f"nodes_{name}": []
        for name in (
            "treeids",
            "nodeids",
            "featureids",
            "modes",
            "values",
            "truenodeids",
            "falsenodeids",
        )
    } | {f"{votes}_{name}": [] for name in ("treeids", "nodeids", "ids", "weights")}
    for number, member in enumerate(forest.estimators_):
        tree = member.tree_
        for place in range(tree.node_count):
            leaf = tree.children_left[place] < 0
            row = (
                number, place, 0 if leaf else int(tree.feature[place]),
                "LEAF" if leaf else "BRANCH_LEQ",
                0.0 if leaf else float(np.float32(tree.threshold[place])),
                0 if leaf else int(tree.children_left[place]),
                0 if leaf else int(tree.children_right[place]),
            )  # fmt: skip
            for name, value in zip(list(rows)[:7], row, strict=True):
                rows[name].append(value)
            for output, share in enumerate(tree.value[place, 0] if leaf else ()):
                for name, value in zip(
                    list(rows)[7:],
                    (number, place, output, float(share) / len(forest.estimators_)),
                    strict=True,
                ):
                    rows[name].append(value)
    return rows


def test_a_forest_of_classes_behind_a_scaler() -> None:
    offset, scale = X.mean(axis=0), 1 / X.std(axis=0)
    forest = RandomForestClassifier(4, max_depth=4, random_state=0)
    forest.fit((X - offset) * scale, labels(X, 3))
    nodes = [
        node("Scaler", "input", "s", offset=offset.tolist(), scale=scale.tolist()),
        node("TreeEnsembleClassifier", "s", "label p", classlabels_int64s=[10, 20, 30],
             post_transform="NONE", **ensemble(forest, "classifier")),
    ]  # fmt: skip
    proto = graph(nodes, {}, "label", "p")
    model = from_onnx(proto.SerializeToString())
    assert model.target.classes == ("10", "20", "30")
    label, shares = run(proto)
    ours = model.scores(X)
    # In single precision a scaled feature may fall on the other side of a threshold.
    assert (model.target.labels(ours) * 10 + 10 == label).mean() > 0.99
    assert (np.abs(ours - shares).max(axis=1) < 1e-5).mean() > 0.99
    assert quantise(model, MORE).quantisation["lost_points"] <= 0.5


def test_two_classes_of_one_score_and_every_kind_of_comparison() -> None:
    for mode in ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT"):
        edge = float(X[0, 2])
        tree = {
            "nodes_treeids": [0] * 3, "nodes_nodeids": [0, 1, 2], "nodes_featureids": [2, 0, 0],
            "nodes_modes": [mode, "LEAF", "LEAF"], "nodes_values": [edge, 0.0, 0.0],
            "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0],
            "class_treeids": [0, 0], "class_nodeids": [1, 2], "class_ids": [1, 1],
            "class_weights": [0.8, 0.1],
        }  # fmt: skip
        proto = graph(
            [node("TreeEnsembleClassifier", "input", "label p", classlabels_strings=["no", "yes"],
                  post_transform="NONE", **tree)],
            {}, "label", "p",
        )  # fmt: skip
        model = from_onnx(proto.SerializeToString())
        above = {
            "BRANCH_LEQ": X[:, 2] <= edge, "BRANCH_LT": X[:, 2] < edge,
            "BRANCH_GTE": X[:, 2] >= edge, "BRANCH_GT": X[:, 2] > edge,
        }[mode]  # fmt: skip
        assert np.array_equal(model.target.labels(model.scores(X)), above)
        assert model.target.classes == ("no", "yes")


def test_a_forest_of_values() -> None:
    forest = RandomForestRegressor(4, max_depth=4, random_state=0).fit(X, X[:, 0] + X[:, 2])
    rows = ensemble(forest, "regressor")
    proto = graph([node("TreeEnsembleRegressor", "input", "o", n_targets=1, **rows)], {}, "o")
    model = from_onnx(proto.SerializeToString())
    assert np.allclose(model.scores(X), run(proto)[0], atol=1e-3)


def test_linear_models_and_what_follows_them() -> None:
    coefficients = (weights(3, 4) / X.std(axis=0)).reshape(-1).tolist()
    nodes = [
        node("LinearClassifier", "input", "label p", coefficients=coefficients,
             intercepts=[0.1, 0.2, 0.3], classlabels_ints=[0, 1, 2], post_transform="SOFTMAX"),
        node("Normalizer", "p", "q", norm="L1"),
    ]  # fmt: skip
    proto = graph(nodes, {}, "label", "q")
    model = from_onnx(proto.SerializeToString())
    assert np.array_equal(model.target.labels(model.scores(X)), run(proto)[0])
    two = [
        node(
            "LinearClassifier",
            "input",
            "label p",
            coefficients=coefficients[:8],
            intercepts=[0.1, 0.2],
            classlabels_ints=[0, 1],
            post_transform="LOGISTIC",
        )
    ]
    proto = graph(two, {}, "label", "p")
    model = from_onnx(proto.SerializeToString())
    assert model.target.kind == "threshold"
    assert np.array_equal(model.target.labels(model.scores(X)), run(proto)[0])
    proto = graph(
        [node("Normalizer", "input", "n", norm="L2"),
         node("LinearRegressor", "n", "o", coefficients=[1.0, 2.0, 3.0, 4.0], intercepts=[0.5])],
        {}, "o",
    )  # fmt: skip
    model = from_onnx(proto.SerializeToString())
    assert np.allclose(model.scores(X), run(proto)[0], atol=1e-4)
    assert quantise(model, MORE).quantisation["lost_points"] <= 0.5


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([node("Conv", "input w", "o")], "operator Conv is not supported"),
        ([node("Add", "input input", "o")], "Add over 2 tensors"),
        ([node("MatMul", "w input", "o")], "MatMul of anything but"),
        ([node("Gemm", "input w", "a", transB=1), node("Relu", "a", "o")], "the last operator"),
        ([node("Relu", "input", "o")], "before the first layer"),
        ([node("Identity", "input", "o")], "holds no model"),
        ([node("Identity", "nowhere", "o")], "which no operator computes"),
        ([node("Gemm", "input k", "o", transB=1)], "gets 4"),
        ([node("Softmax", "input", "o")], "without a model"),
        ([node("Gemm", "input w", "a", transB=1), node("Cast", "a", "o", to=7)], "to integers"),
        ([node("MatMul", "input", "o")], "MatMul lacks an input"),
        ([node("Transpose", "input", "o")], "Transpose"),
        ([node("Transpose", "w", "v", perm=[1, 1]), node("MatMul", "input v", "o")], "wrong order"),
        ([node("Gemm", "input wide", "o", transB=1)], "wider than 1024"),
        ([node("Gemm", "input w", "a", transB=1), node("Softmax", "a", "b"),
          node("Gemm", "b w", "o", transB=1)], "after the model's scores"),
        ([node("Gemm", "input w", "a", transB=1), node("Unsqueeze", "a", "o")], "Unsqueeze"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_named(nodes: list[Any], why: str) -> None:
    proto = graph(nodes, {"w": weights(4, 4), "k": weights(2, 3), "wide": weights(1025, 4)}, "o")
    with pytest.raises(ModelError, match=why) as caught:
        from_onnx(proto.SerializeToString())
    assert "\n" not in str(caught.value)


def test_weights_elsewhere_and_damaged_files_are_refused() -> None:
    proto = graph(TORCH, LINEARS, "g")
    good = proto.SerializeToString()
    proto.graph.initializer[0].data_location = TensorProto.EXTERNAL
    entry = proto.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    with pytest.raises(ModelError, match="file of their own"):
        from_onnx(proto.SerializeToString())
    rng = np.random.default_rng(1)
    for _ in range(300):
        damaged = bytearray(good)
        for place in rng.integers(0, len(good), rng.integers(1, 5)):
            damaged[place] = rng.integers(256)
        try:
            from_onnx(bytes(damaged[: rng.integers(1, len(good) + 1)]))
        except ModelError as error:
            message = str(error)
            assert "\n" not in message
