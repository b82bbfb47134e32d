# SPDX-License-Identifier: Apache-2.0
"""The bytes of a model slot: the integer model as an agent's map holds it.

Little endian; every section begins at a multiple of 8, and offsets count from the slot's first
byte. The header (``HEADER``, 192 bytes):

| at | type | name | what |
|---|---|---|---|
| 0 | u32 | magic | 0x4c444d4b, "KMDL" |
| 4 | u16 | version | 2 |
| 6 | u16 | kind | 1: trees, 2: network |
| 8 | u32 | size | of the whole slot, a multiple of 8 |
| 12 | u16 | features | |
| 14 | u16 | outputs | scores |
| 16 | u8[32] | content | SHA-256 of the slot (``content_hash``) |
| 48 | u8[32] | schema | SHA-256 of the features' names and units (``FeatureSchema.hash``) |
| 80 | u8[32] | quantisation | SHA-256 of the input's section, ``scale`` and ``threshold`` |
| 112 | u8 | norm | 0 none, 1 l1, 2 l2, 3 max |
| 113 | u8 | output | 0 value, 1 threshold, 2 argmax |
| 114 | u8 | probability | whether the step below counts |
| 115 | u8 | layers | of a network; 0 |
| 116 | u32 | input | offset of ``INPUT[features]`` |
| 120 | s64 | threshold | |
| 128 | f64 | scale | for user space only |
| 136 | STEP | step | of the probability |
| 160 | u32 | body | offset of ``TREES``, or of ``LAYER[layers]`` |
| 164 | u32[7] | | 0 |
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from kmind.errors import ModelError
from kmind.infer.integer import IntMlp, IntModel, IntTrees
from kmind.infer.integer_parts import (
    LIMITS,
    LONGEST_EDGES,
    NORMS,
    OUTPUTS,
    Exact,
    Input,
    Layer,
    Output,
    Step,
)

__all__ = [
    "EXACT",
    "HEADER",
    "INPUT",
    "KIND_NETWORK",
    "KIND_TREES",
    "LAYER",
    "MAGIC",
    "NODE",
    "SEARCH",
    "STEP",
    "TREES",
    "VERSION",
    "Writer",
    "content_hash",
    "quantisation_hash",
    "read_slot",
    "slot_bytes",
]

MAGIC = 0x4C444D4B
VERSION = 2
KIND_TREES = 1
KIND_NETWORK = 2

# An activation step; table: offset of int16[table_size], 0 where there is none.
STEP = np.dtype([
    ("add", "<i8"), ("mul", "<u4"), ("lo", "<u2"), ("hi", "<u2"),
    ("table", "<u4"), ("table_size", "<u2"), ("shift", "u1"), ("pad", "u1"),
])  # fmt: skip
# shift SEARCH: s64[round] edges stand at offset.
SEARCH = 63
INPUT = np.dtype([
    ("lo", "<i8"), ("hi", "<i8"), ("offset", "<i8"), ("round", "<i8"),
    ("mul", "<u4"), ("shift", "<u4"),
])  # fmt: skip
# One layer: weight is int16[out][in], bias int64[out]; bound as IntMlp.bound. The last layer's
# step is all zeros.
LAYER = np.dtype([
    ("inputs", "<u4"), ("outputs", "<u4"), ("weight", "<u4"), ("bias", "<u4"),
    ("bound", "<i8"), ("step", STEP),
])  # fmt: skip
# root u32[trees], output_of u32[trees], NODE[nodes], leaf s32[leaves][width], base s64[outputs].
TREES = np.dtype([
    ("trees", "<u4"), ("nodes", "<u4"), ("leaves", "<u4"), ("width", "<u4"),
    ("depth", "<u4"), ("root", "<u4"), ("output_of", "<u4"), ("node", "<u4"),
    ("leaf", "<u4"), ("base", "<u4"), ("exact", "<u4"), ("reserved", "<u4"),
])  # fmt: skip
# Where close calls are decided: leaf f64[leaves][width], base f64[sums], last f64[sums].
EXACT = np.dtype([
    ("close", "<i8"), ("tie", "<f8"), ("threshold", "<f8"), ("sums", "<u4"), ("width", "<u4"),
    ("single", "<u4"), ("divide", "<u4"), ("leaf", "<u4"), ("base", "<u4"), ("last", "<u4"),
    ("reserved", "<u4"),
])  # fmt: skip
# feature -1: a leaf, whose row is left.
NODE = np.dtype([("feature", "<i4"), ("threshold", "<i4"), ("left", "<u4"), ("right", "<u4")])
HEADER = np.dtype([
    ("magic", "<u4"), ("version", "<u2"), ("kind", "<u2"), ("size", "<u4"),
    ("features", "<u2"), ("outputs", "<u2"),
    ("content", "V32"), ("schema", "V32"), ("quantisation", "V32"),
    ("norm", "u1"), ("output", "u1"), ("probability", "u1"), ("layers", "u1"),
    ("input", "<u4"), ("threshold", "<i8"), ("scale", "<f8"), ("step", STEP),
    ("body", "<u4"), ("reserved", "<u4", (7,)),
])  # fmt: skip

_Record = Any  # a numpy record, which the type checker cannot see into


class Writer:
    """Bytes as they grow: room for a header, then sections aligned to ``align`` bytes."""

    def __init__(self, header: int, align: int = 8) -> None:
        self.data = bytearray(header)
        self._align = align

    def put(self, array: np.ndarray[Any, Any]) -> int:
        """Append an array; its offset."""
        at = self.end
        self.data += bytes(at - len(self.data)) + array.tobytes()
        self.data += bytes(-len(self.data) % self._align)
        return at

    @property
    def end(self) -> int:
        """Offset of the next section."""
        return len(self.data) + -len(self.data) % self._align

    def step(self, step: Step | None) -> _Record:
        """``STEP`` of a step, zeros for none; its table is appended."""
        record = np.zeros((), STEP)
        if step is not None:
            for name in ("add", "mul", "lo", "hi", "shift"):
                record[name] = getattr(step, name)
            if step.table is not None:
                record["table"] = self.put(step.table)
                record["table_size"] = len(step.table)
        return record

    def input(self, stage: Input, *, searched: bool = False) -> _Record:
        """``INPUT[features]`` of a model's input; its edges are appended.

        ``searched``: as the kernel searches them, one less than a power of two, whose half stands
        for their number.
        """
        array = np.zeros(len(stage), INPUT)
        for name in ("lo", "hi", "offset", "round", "mul", "shift"):
            array[name] = getattr(stage, name)
        for number, edges in enumerate(stage.edges):
            if not len(edges):
                continue
            count = len(edges)
            if searched:
                count = 1 << (count.bit_length() - 1)
                most = np.full(2 * count - 1 - len(edges), np.iinfo(np.int64).max)
                edges = np.concatenate([edges, most])
            array["offset"][number], array["round"][number] = self.put(edges), count
            array["shift"][number] = SEARCH
        return array


def quantisation_hash(model: IntModel) -> bytes:
    """SHA-256 (32 bytes) of how the model's input and scores are scaled."""
    digest = hashlib.sha256(model.input.norm.encode())
    writer = Writer(0)
    digest.update(writer.input(model.input).tobytes() + bytes(writer.data))
    digest.update(np.array(model.output.scale, "<f8").tobytes())
    digest.update(np.array(model.output.threshold, "<i8").tobytes())
    return digest.digest()


def content_hash(data: bytes) -> bytes:
    """SHA-256 (32 bytes) of a slot, the hash in its header counting as 0: the model's identity."""
    header = np.frombuffer(data, HEADER, 1)[0].copy()
    header["content"] = np.void(bytes(32))
    return hashlib.sha256(header.tobytes() + data[HEADER.itemsize :]).digest()


def slot_bytes(model: IntModel, schema: bytes) -> bytes:
    """Return the slot of a model whose features have this schema hash (32 bytes)."""
    if len(schema) != 32:
        raise ModelError(f"a schema hash of {len(schema)} bytes, not 32")
    writer = Writer(HEADER.itemsize)
    header = np.zeros((), HEADER)
    header["magic"], header["version"] = MAGIC, VERSION
    header["features"], header["outputs"] = len(model.input), model.outputs
    header["schema"] = np.void(schema)
    header["quantisation"] = np.void(quantisation_hash(model))
    header["norm"] = NORMS.index(model.input.norm)
    header["output"] = OUTPUTS.index(model.output.kind)
    header["threshold"], header["scale"] = model.output.threshold, model.output.scale
    header["probability"] = model.output.probability is not None
    header["step"] = writer.step(model.output.probability)
    header["input"] = writer.put(writer.input(model.input))
    if isinstance(model, IntMlp):
        header["kind"], header["layers"] = KIND_NETWORK, len(model.layers)
        header["body"] = _put_layers(writer, model)
    else:
        header["kind"] = KIND_TREES
        header["body"] = _put_trees(writer, model)
    header["size"] = len(writer.data)
    writer.data[: HEADER.itemsize] = header.tobytes()
    header["content"] = np.void(content_hash(bytes(writer.data)))
    writer.data[: HEADER.itemsize] = header.tobytes()
    return bytes(writer.data)


def _put_layers(writer: Writer, model: IntMlp) -> int:
    layers = np.zeros(len(model.layers), LAYER)
    for record, layer, bound in zip(layers, model.layers, model.bound, strict=True):
        record["outputs"], record["inputs"] = layer.weight.shape
        record["weight"] = writer.put(layer.weight)
        record["bias"] = writer.put(layer.bias)
        record["bound"] = bound
        record["step"] = writer.step(layer.step)
    return writer.put(layers)


def _put_trees(writer: Writer, model: IntTrees) -> int:
    nodes = np.zeros(len(model.feature), NODE)
    for name in NODE.names or ():
        nodes[name] = getattr(model, name)
    trees = np.zeros((), TREES)
    trees["trees"], trees["nodes"] = len(model.root), len(nodes)
    trees["leaves"], trees["width"] = model.leaf.shape
    trees["depth"] = model.depth
    trees["node"] = writer.put(nodes)
    for name in ("root", "output_of", "leaf", "base"):
        trees[name] = writer.put(getattr(model, name))
    if model.exact is not None:
        trees["exact"] = _put_exact(writer, model.exact)
    return writer.put(trees)


def _put_exact(writer: Writer, exact: Exact) -> int:
    record = np.zeros((), EXACT)
    for name in ("close", "tie", "threshold", "single", "divide"):
        record[name] = getattr(exact, name)
    record["sums"], record["width"] = len(exact.base), exact.leaf.shape[1]
    for name in ("leaf", "base", "last"):
        record[name] = writer.put(getattr(exact, name))
    return writer.put(record)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, dtype: Any, at: int, count: int) -> np.ndarray[Any, Any]:
        dtype = np.dtype(dtype)
        if at % 8 or at < HEADER.itemsize or at + count * dtype.itemsize > len(self.data):
            raise ModelError("a model slot is damaged: a section lies outside of it")
        return np.frombuffer(self.data, dtype, count, at)

    def step(self, record: _Record) -> Step:
        table = None
        if record["table"]:
            table = self.take("<i2", int(record["table"]), int(record["table_size"]))
        numbers = {name: int(record[name]) for name in ("mul", "add", "shift", "lo", "hi")}
        return Step(**numbers, table=table)


def read_slot(data: bytes) -> IntModel:
    """Return the model that a slot's plain sections hold; raises ModelError if it is damaged."""
    if len(data) < HEADER.itemsize:
        raise ModelError("a model slot is damaged: it is shorter than its header")
    header = np.frombuffer(data, HEADER, 1)[0]
    if header["magic"] != MAGIC or header["version"] != VERSION:
        raise ModelError("no model slot of this version")
    if not HEADER.itemsize <= header["size"] <= len(data):
        raise ModelError("a model slot is damaged: it is shorter than it says")
    data = data[: int(header["size"])]
    if header["reserved"].any():
        raise ModelError("a model slot is damaged: its header has an invalid field")
    if header["content"].tobytes() != content_hash(data):
        raise ModelError("a model slot is damaged: its content does not match its hash")
    if header["norm"] >= len(NORMS) or header["output"] >= len(OUTPUTS):
        raise ModelError("a model slot is damaged: an unknown norm or output")
    if header["layers"] > LIMITS.layers or header["features"] > LIMITS.features:
        raise ModelError("a model slot is damaged: it has more layers or features than may be")
    reader = _Reader(data)
    stage = reader.take(INPUT, int(header["input"]), int(header["features"]))
    searched = stage["shift"] == SEARCH
    read = Input(
        lo=stage["lo"],
        hi=stage["hi"],
        offset=np.where(searched, 0, stage["offset"]),
        round=np.where(searched, 0, stage["round"]),
        mul=stage["mul"].astype(np.int32),
        shift=np.where(searched, 0, stage["shift"]).astype(np.int32),
        norm=NORMS[int(header["norm"])],
        edges=_edges(reader, stage, searched),
    )
    output = Output(
        kind=OUTPUTS[int(header["output"])],
        threshold=int(header["threshold"]),
        scale=float(header["scale"]),
        probability=reader.step(header["step"]) if header["probability"] else None,
    )
    if header["kind"] == KIND_NETWORK:
        return IntMlp(read, _layers(reader, header), output)
    if header["kind"] != KIND_TREES:
        raise ModelError("a model slot is damaged: an unknown kind of model")
    return _trees(reader, header, read, output)


def _edges(reader: _Reader, stage: _Record, searched: Any) -> tuple[Any, ...]:
    if not searched.any():
        return ()
    count = np.where(searched, stage["round"], 0)
    if (count[searched] < 1).any() or (count > LONGEST_EDGES).any():
        raise ModelError("a model slot is damaged: an input has more edges than may be, or none")
    nothing = np.zeros(0, np.int64)
    return tuple(
        reader.take("<i8", int(at), int(many)) if many else nothing
        for at, many in zip(stage["offset"], count, strict=True)
    )


def _layers(reader: _Reader, header: _Record) -> tuple[Layer, ...]:
    layers = []
    count = int(header["layers"])
    for number, record in enumerate(reader.take(LAYER, int(header["body"]), count)):
        rows, columns = int(record["outputs"]), int(record["inputs"])
        if max(rows, columns) > LIMITS.width:
            raise ModelError("a model slot is damaged: a layer is wider than may be")
        weight = reader.take("<i2", int(record["weight"]), rows * columns)
        bias = reader.take("<i8", int(record["bias"]), rows)
        step = reader.step(record["step"]) if number < count - 1 else None
        layers.append(Layer(weight.reshape(rows, columns), bias, step))
    return tuple(layers)


def _trees(reader: _Reader, header: _Record, stage: Input, output: Output) -> IntTrees:
    trees = reader.take(TREES, int(header["body"]), 1)[0]
    nodes = reader.take(NODE, int(trees["node"]), int(trees["nodes"]))
    leaves, width = int(trees["leaves"]), int(trees["width"])
    if len(nodes) > LIMITS.nodes or leaves > LIMITS.nodes or width > LIMITS.outputs:
        raise ModelError("a model slot is damaged: it has more nodes or outputs than may be")
    return IntTrees(
        input=stage,
        root=reader.take("<i4", int(trees["root"]), int(trees["trees"])),
        output_of=reader.take("<i4", int(trees["output_of"]), int(trees["trees"])),
        feature=nodes["feature"],
        threshold=nodes["threshold"],
        left=nodes["left"].astype(np.int32),
        right=nodes["right"].astype(np.int32),
        leaf=reader.take("<i4", int(trees["leaf"]), leaves * width).reshape(leaves, width),
        base=reader.take("<i8", int(trees["base"]), int(header["outputs"])),
        output=output,
        exact=_exact(reader, int(trees["exact"]), leaves) if trees["exact"] else None,
    )


def _exact(reader: _Reader, at: int, leaves: int) -> Exact:
    record = reader.take(EXACT, at, 1)[0]
    sums, width = int(record["sums"]), int(record["width"])
    if not 1 <= sums <= LIMITS.outputs or not 1 <= width <= sums or record["single"] > 1:
        raise ModelError("a model slot is damaged: exact sums of more outputs than may be")
    return Exact(
        leaf=reader.take("<f8", int(record["leaf"]), leaves * width).reshape(leaves, width),
        base=reader.take("<f8", int(record["base"]), sums),
        last=reader.take("<f8", int(record["last"]), sums),
        close=int(record["close"]),
        single=bool(record["single"]),
        divide=int(record["divide"]),
        tie=float(record["tie"]),
        threshold=float(record["threshold"]),
    )
