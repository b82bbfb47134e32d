# SPDX-License-Identifier: Apache-2.0
"""ONNX graphs, as exporters of PyTorch, scikit-learn and others write them.

The graph is a chain: one input, operators one after the other, outputs that say the same thing
(a label, its probability). Operations before the first layer, or the trees, are folded in; what
comes after the scores and does not change the decision is dropped. Operators are those of
``ai.onnx`` and ``ai.onnx.ml`` (https://onnx.ai/onnx/operators).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kmind.errors import ModelError
from kmind.infer.floating import FloatModel, Library
from kmind.infer.importers import _onnx_ml as ml
from kmind.infer.importers._flow import Flow
from kmind.infer.importers.ask import ask_library
from kmind.infer.lazy import need
from kmind.util.foreign import foreign

__all__ = ["LARGEST_FILE", "SUPPORTED", "from_onnx"]

LARGEST_FILE = 256 << 20

_NOTHING = ("Identity", "Cast", "Dropout", "Flatten", "ZipMap")
# These are taken only where they cannot mix a vector's numbers with another's.
_SHAPES = ("Squeeze", "Unsqueeze", "Reshape")
# Exporters transpose weights in the graph.
_ON_WEIGHTS = ("Identity", "Cast", "Transpose")
# What x.view(x.size(0), -1) becomes: sizes, of which that of the batch is not known.
_ON_SIZES = ("Gather", "Unsqueeze", "Concat")
_SIZES = 8
_FLOATS = (1, 10, 11, 16)  # TensorProto: FLOAT, FLOAT16, DOUBLE, BFLOAT16
_DOUBLE = 11
_ACTIVATIONS = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh"}
_ML = {
    "Scaler": ml.scaler,
    "Normalizer": ml.normalizer,
    "LinearClassifier": ml.linear_classifier,
    "LinearRegressor": ml.linear_regressor,
    "TreeEnsembleClassifier": ml.tree_classifier,
    "TreeEnsembleRegressor": ml.tree_regressor,
}
SUPPORTED = (
    "Gemm",
    "MatMul",
    "Add",
    "Sub",
    "Mul",
    "Div",
    "BatchNormalization",
    "Constant",
    *_ACTIVATIONS,
    "Softmax",
    "LogSoftmax",
    "ArgMax",
    *_ML,
    *_NOTHING,
    *_SHAPES,
    "Shape",
    "Transpose",
)


def from_onnx(source: str | Path | bytes, classes: Sequence[str] = ()) -> FloatModel:
    """Return the float model of an ONNX file, or of its bytes.

    ``classes`` name the labels. They also say that a network whose graph ends with its scores, as
    PyTorch's do, is a classifier; without them, and without Softmax, ArgMax or Sigmoid at its
    end, the scores are values. Raises ModelError, which names the operator that is not supported.
    """
    onnx = need("onnx")
    name = "the ONNX graph" if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else _read(Path(source))
        try:
            graph = onnx.load_model_from_string(data).graph
        except Exception:
            # The parser's own class of error moved from release to release of protobuf.
            raise ModelError("not an ONNX model, or a damaged one") from None
        with foreign(lambda why: ModelError(f"a damaged graph: {why}")):
            flow = _walk(onnx, graph)
            model = replace(flow.finish(tuple(classes)), source=f"ONNX {flow.kind}")
        if model.target.classes and flow.names and not isinstance(source, bytes):
            return replace(model, library=_library(source, flow.names))
        return model
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from None


def _library(path: str | Path, names: tuple[str, ...]) -> Library:
    # The graph's first output is a label of these names.
    place = {name: number for number, name in enumerate(names)}

    def labels(x: Any) -> Any:
        said = ask_library("onnxruntime", path, x)
        return np.array([place.get(str(label), -1) for label in said.tolist()], np.int64)

    return Library("onnxruntime", labels)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise ModelError(error.strerror or str(error)) from None
    if len(data) > LARGEST_FILE:
        raise ModelError(f"larger than {LARGEST_FILE >> 20} MiB")
    return data


def _walk(onnx: Any, graph: Any) -> Flow:
    constants = {tensor.name: _array(onnx, tensor) for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise ModelError(f"the graph has {len(inputs)} inputs; one tensor of features is wanted")
    double = inputs[0].type.tensor_type.elem_type == onnx.TensorProto.DOUBLE
    flows: dict[str, Flow] = {inputs[0].name: Flow(_width(inputs[0]), single=not double)}
    for node in graph.node:
        arguments = {
            attribute.name: onnx.helper.get_attribute_value(attribute)
            for attribute in node.attribute
        }
        for name in [name for name in arguments if name.endswith("_as_tensor")]:
            # Numbers in double precision, since version 3 of the operators.
            arguments[name.removesuffix("_as_tensor")] = _array(onnx, arguments.pop(name))
        if node.op_type == "Constant":
            if "value" not in arguments:
                raise ModelError("a Constant without a tensor is not supported")
            constants[node.output[0]] = _array(onnx, arguments["value"])
            continue
        operands: list[Any] = []
        for name in node.input:
            if name and name not in flows and name not in constants:
                raise ModelError(f"{node.op_type} reads {name!r}, which no operator computes")
            operands.append(flows.get(name, constants.get(name)))
        depends = any(isinstance(each, Flow) for each in operands)
        if node.op_type in _ON_WEIGHTS and not depends:
            constants[node.output[0]] = _rearranged(node.op_type, operands, arguments)
            continue
        try:
            if node.op_type == "Shape" or (node.op_type in _ON_SIZES and not depends):
                constants[node.output[0]] = _sizes(node.op_type, operands, arguments)
                continue
            after = _apply(node.op_type, operands, arguments)
        except (LookupError, TypeError, ValueError, ArithmeticError):
            raise ModelError(f"{node.op_type} lacks an input") from None
        flows.update(dict.fromkeys(node.output, after))
    ends = {
        id(flows[value.name].root): flows[value.name]
        for value in graph.output
        if value.name in flows
    }
    if len(ends) != 1:
        raise ModelError("the outputs of the graph are not those of one model")
    return next(iter(ends.values()))


def _rearranged(name: str, operands: list[Any], arguments: dict[str, Any]) -> Any:
    if len(operands) != 1:
        raise ModelError(f"{name} over {len(operands)} constants")
    if name == "Cast" and arguments.get("to") not in _FLOATS:
        raise ModelError("Cast of weights to integers is not supported")
    order = arguments.get("perm")
    if name != "Transpose":
        return operands[0]
    if order is not None and sorted(order) != list(range(np.ndim(operands[0]))):
        raise ModelError("Transpose of weights by a wrong order")
    return np.transpose(operands[0], order)


def _sizes(name: str, operands: list[Any], arguments: dict[str, Any]) -> Any:
    if name == "Shape":
        if not isinstance(operands[0], Flow) or arguments.keys() & {"start", "end"}:
            raise ModelError("Shape of anything but features is not supported")
        # Rows by numbers; 0 where the graph does not say how many.
        return np.array([-1, operands[0].width or -1], np.int64)
    if any(np.ndim(each) > 1 or np.size(each) > _SIZES for each in operands):
        raise ModelError(f"{name} of anything but sizes is not supported")
    if name == "Gather":
        return np.take(operands[0], operands[1])
    return np.concatenate(
        [np.atleast_1d(each) for each in operands[: 1 if name == "Unsqueeze" else None]]
    )


def _width(value: Any) -> int:
    """Return how many features the input has; 0 where the graph does not say."""
    dimensions = value.type.tensor_type.shape.dim
    return int(dimensions[-1].dim_value) if len(dimensions) else 0


def _array(onnx: Any, tensor: Any) -> Any:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise ModelError(
            "weights in a file of their own are not supported",
            hint="torch.onnx.export(..., external_data=False) keeps them in the model's",
        )
    try:
        return np.asarray(onnx.numpy_helper.to_array(tensor))
    except Exception:
        raise ModelError(f"the tensor {tensor.name!r} is damaged") from None


def _apply(name: str, operands: list[Any], arguments: dict[str, Any]) -> Flow:
    streams = [operand for operand in operands if isinstance(operand, Flow)]
    if name not in SUPPORTED:
        raise ModelError(
            f"the operator {name} is not supported", hint=f"these are: {', '.join(SUPPORTED)}"
        )
    if len(streams) != 1:
        raise ModelError(f"{name} over {len(streams)} tensors that depend on the input")
    flow = streams[0]
    if name in _NOTHING:
        kind = arguments.get("to")
        if name == "Cast" and not flow.is_over:
            if kind not in _FLOATS and flow.layers:
                raise ModelError("Cast to integers within a network is not supported")
            if kind in _FLOATS and not flow.layers:
                return flow.cast(single=kind != _DOUBLE)
        return flow
    if name == "Transpose":
        raise ModelError("Transpose of anything but weights is not supported")
    if name in _SHAPES:
        return _shaped(name, flow, operands)
    if name in _ACTIVATIONS:
        return flow.activated(_ACTIVATIONS[name])
    if name in ("Softmax", "LogSoftmax"):
        return flow.ended("Softmax")
    if name == "ArgMax":
        return flow.ended("ArgMax")
    if name in _ML:
        return _ML[name](flow, arguments)
    if name == "Gemm":
        return _gemm(flow, operands, arguments)
    if name == "BatchNormalization":
        return _batch_norm(flow, operands, arguments)
    flow_first = isinstance(operands[0], Flow)
    constant = np.asarray(operands[1] if flow_first else operands[0], np.float64)
    if name == "MatMul":
        if not flow_first or constant.ndim != 2:
            raise ModelError("MatMul of anything but features by a matrix is not supported")
        return flow.dense(constant.T, np.zeros(constant.shape[1]))
    if name == "Add":
        return flow.affine(np.ones(()), constant, ("add", constant))
    if name == "Mul":
        return flow.affine(constant, np.zeros(()), ("mul", constant))
    if name == "Sub":
        return (
            flow.affine(np.ones(()), -constant, ("sub", constant))
            if flow_first
            else flow.affine(-np.ones(()), constant, ("sub_from", constant))
        )
    if not flow_first or not constant.all():
        raise ModelError("Div by the input, or by zero, is not supported")
    return flow.affine(1.0 / constant, np.zeros(()), ("div", constant))


def _shaped(name: str, flow: Flow, operands: list[Any]) -> Flow:
    shape = np.ravel(operands[1]).tolist() if len(operands) > 1 else []
    rows = name == "Reshape" and len(shape) == 2 and shape[1] in (flow.width, -1)
    if not (rows or flow.is_over or flow.width == 1):
        raise ModelError(f"{name} before the model's scores is not supported")
    return flow


def _batch_norm(flow: Flow, operands: list[Any], arguments: dict[str, Any]) -> Flow:
    if not isinstance(operands[0], Flow) or arguments.get("training_mode"):
        raise ModelError("BatchNormalization in training is not supported")
    columns = [np.asarray(each, np.float64) for each in operands[1:5]]
    if {each.shape for each in columns} != {(columns[0].size,)}:
        raise ModelError("BatchNormalization's constants do not fit each other")
    scale, shift, mean, variance = columns
    if not (variance >= 0).all():
        raise ModelError("BatchNormalization with a variance below 0")
    factor = scale / np.sqrt(variance + arguments.get("epsilon", 1e-5))
    rest = shift - mean * factor
    return flow.affine(factor, rest, ("mul", factor), ("add", rest))


def _gemm(flow: Flow, operands: list[Any], arguments: dict[str, Any]) -> Flow:
    if not isinstance(operands[0], Flow) or arguments.get("transA"):
        raise ModelError("Gemm of anything but features by a matrix is not supported")
    weight = np.asarray(operands[1], np.float64)
    if weight.ndim != 2:
        raise ModelError("Gemm by anything but a matrix is not supported")
    weight = weight if arguments.get("transB") else weight.T
    bias = np.zeros(len(weight))
    if len(operands) > 2 and operands[2] is not None:
        bias = np.asarray(operands[2], np.float64) * arguments.get("beta", 1.0)
    return flow.dense(weight * arguments.get("alpha", 1.0), bias)
