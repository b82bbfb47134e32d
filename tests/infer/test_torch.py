# SPDX-License-Identifier: Apache-2.0
"""Files of PyTorch's two exporters (tools/torch_models.py), compared with PyTorch's own results."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, load, numpy_helper

from kmind.errors import ModelError
from kmind.infer import evaluate, from_onnx, quantise
from kmind.infer.importers.onnx import SUPPORTED

FOLDER = Path(__file__).with_name("torch")
KINDS = {
    "plain": "value",
    "normalised": "argmax",
    "late": "threshold",
    "value": "value",
    "label": "argmax",
    "by-hand": "threshold",
    "views": "argmax",
}
EXPORTERS = ("script", "dynamo")


@pytest.fixture(scope="module")
def said() -> Any:
    with np.load(FOLDER / "outputs.npz") as outputs:
        return dict(outputs)


def labels_of(kind: str, output: np.ndarray) -> np.ndarray:
    """Return the labels of PyTorch's output: classes, probabilities, or scores of each class."""
    if kind == "threshold":
        return (output.ravel() > 0.5).astype(int)
    return output.argmax(axis=1) if output.ndim == 2 else output


def test_all_that_was_written_is_read(said: Any) -> None:
    files = {path.stem for path in FOLDER.glob("*.onnx")}
    assert files == {f"{name}-{exporter}" for name in KINDS for exporter in EXPORTERS}
    assert set(said) == {"x", *KINDS}


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", KINDS)
def test_an_exported_model_says_what_torch_said(name: str, exporter: str, said: Any) -> None:
    x, theirs = said["x"].astype(np.float64), said[name]
    model = from_onnx(FOLDER / f"{name}-{exporter}.onnx")
    kind = KINDS[name]
    assert (model.target.kind, model.features) == (kind, x.shape[1])
    scores = model.scores(x)
    file = quantise(model, x)
    integers = evaluate(file.model, x.astype(np.int64))
    assert file.quantisation["lost_points"] <= 0.5
    if kind == "value":
        assert np.allclose(scores, theirs, atol=1e-4)
        ours = integers.score * file.model.output.scale
        assert np.abs(ours - theirs).mean() < 0.02 * np.ptp(theirs)
        return
    wanted = labels_of(kind, theirs)
    assert np.array_equal(model.target.labels(scores), wanted)
    assert (integers.label == wanted).mean() > 0.98
    if kind == "threshold":
        assert np.allclose(model.target.probability(scores), theirs.ravel(), atol=1e-4)


def test_a_network_that_is_named_a_classifier(said: Any) -> None:
    model = from_onnx(FOLDER / "plain-dynamo.onnx", ("low", "middle", "high"))
    labels = model.target.labels(model.scores(said["x"].astype(np.float64)))
    assert np.array_equal(labels, said["plain"].argmax(axis=1))


def changed(name: str, operator: str, change: Any) -> bytes:
    proto = load(FOLDER / f"{name}-script.onnx")
    change(next(node for node in proto.graph.node if node.op_type == operator), proto.graph)
    return bytes(proto.SerializeToString())


def with_training(node: Any, _: Any) -> None:
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("training_mode", 1))


def with_negative_variance(node: Any, graph: Any) -> None:
    graph.initializer.append(numpy_helper.from_array(np.full(8, -1.0, np.float32), "variance"))
    node.input[4] = "variance"


def with_wrong_width(node: Any, graph: Any) -> None:
    graph.initializer.append(numpy_helper.from_array(np.ones(7, np.float32), "wrong"))
    node.input[1] = "wrong"


def with_outside(_: Any, graph: Any) -> None:
    graph.initializer[0].data_location = TensorProto.EXTERNAL


def with_other_rows(node: Any, graph: Any) -> None:
    graph.initializer.append(numpy_helper.from_array(np.array([3, 2, 1], np.int64), "many"))
    node.input[1] = "many"


@pytest.mark.parametrize(
    ("name", "operator", "change", "why"),
    [
        ("late", "BatchNormalization", with_training, "in training"),
        ("late", "BatchNormalization", with_negative_variance, "variance below 0"),
        ("late", "BatchNormalization", with_wrong_width, "do not fit"),
        ("plain", "Gemm", with_outside, "external_data=False"),
        ("views", "Reshape", with_other_rows, "before the model's scores"),
    ],
)
def test_what_cannot_be_taken_is_named(name: str, operator: str, change: Any, why: str) -> None:
    with pytest.raises(ModelError, match=why) as caught:
        from_onnx(changed(name, operator, change))
    assert "\n" not in str(caught.value)


FILES = sorted(FOLDER.glob("*-script.onnx"))
OPERATORS = (*SUPPORTED, "Gather", "Concat", "Clip")


def read_or_refuse(data: bytes) -> None:
    message = ""
    try:
        from_onnx(data)
        return
    except ModelError as error:
        message = str(error)
    assert message
    assert "\n" not in message


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_graph_of_other_operators_is_read_or_refused(data: st.DataObject) -> None:
    proto = load(data.draw(st.sampled_from(FILES)))
    nodes = proto.graph.node
    names = [tensor.name for tensor in proto.graph.initializer]
    names += [name for node in nodes for name in (*node.input, *node.output)]
    for _ in range(data.draw(st.integers(1, 4))):
        node = nodes[data.draw(st.integers(0, len(nodes) - 1))]
        what = data.draw(st.integers(0, 4))
        if what == 0:
            node.op_type = data.draw(st.sampled_from(OPERATORS))
        elif what == 1 and node.input:
            place = data.draw(st.integers(0, len(node.input) - 1))
            node.input[place] = data.draw(st.sampled_from(names))
        elif what == 2 and node.input:
            del node.input[-1]
        elif what == 3:
            tensor = data.draw(st.sampled_from(list(proto.graph.initializer)))
            for place in range(len(tensor.dims)):
                tensor.dims[place] = data.draw(st.sampled_from([0, 1, 2, 6, 12, -1, 1 << 40]))
        elif node.attribute:
            del node.attribute[:]
    read_or_refuse(proto.SerializeToString())


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_changed_bytes_of_a_graph_are_read_or_refused(data: st.DataObject) -> None:
    changed = bytearray(data.draw(st.sampled_from(FILES)).read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(changed) - 1))
        changed[place] = data.draw(st.integers(0, 255))
    read_or_refuse(bytes(changed[: data.draw(st.integers(0, len(changed)))]))
