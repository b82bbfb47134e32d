# SPDX-License-Identifier: Apache-2.0
"""Networks as ``agent/infer_network.h`` wants them: several neurons in a word."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmind.infer.cost import lanes
from kmind.infer.integer import IntMlp, Layer, Step
from kmind.infer.slot import STEP, Writer

__all__ = ["LAYER", "put_network"]

SCORE, RELU, STEP_KIND = 0, 1, 2
_BITS = {4: 16, 3: 21, 2: 32, 1: 64}
_BLOCK = 4  # words that go through the inputs together; inputs, too, come in fours

LAYER = np.dtype([
    ("inputs", "<u4"), ("blocks", "<u4"), ("singles", "<u4"),
    ("lanes", "<u4"), ("bits", "<u4"), ("kind", "<u4"),
    ("half", "<u8"), ("mask", "<u8"), ("sign", "<u8"),
    ("weight", "<u4"), ("bias", "<u4"), ("shift", "<u4"), ("zero", "<u4"), ("step", STEP),
])  # fmt: skip
"""``struct km_layer``."""


def _lanes_for(bound: int) -> tuple[int, int]:
    # How many sums of that size fit into a word, and the bits of each.
    count = lanes(bound)
    return count, _BITS[count]


def put_network(writer: Writer, model: IntMlp) -> int:
    """Append the layers; the offset of ``LAYER[layers]``."""
    records = np.zeros(len(model.layers), LAYER)
    for record, layer, bound in zip(records, model.layers, model.bound, strict=True):
        _put_layer(writer, record, layer, bound)
    return writer.put(records)


def _as_shift(step: Step) -> tuple[int, int] | None:
    # (summand, shift) of a step that multiplies by a power of two, and clamps from 0. Both
    # divisions round down, so the summand may be rounded first.
    power = step.mul.bit_length() - 1
    if step.mul != 1 << power or step.lo or step.table is not None or step.shift < power:
        return None
    return step.add >> power, step.shift - power


def _put_layer(writer: Writer, record: Any, layer: Layer, bound: int) -> None:
    outputs, inputs = layer.weight.shape
    bias = layer.bias.copy()
    kind, shift = SCORE, 0
    many, bits = _lanes_for(bound)
    if layer.step is not None:
        kind = STEP_KIND
        plain = _as_shift(layer.step)
        # What is added before the shift goes into the bias, if there is room for it.
        if plain is not None and bound + abs(plain[0]) < 1 << 62:
            many, bits = _lanes_for(bound + abs(plain[0]))
            if plain[1] < bits - 1:
                kind, shift = RELU, plain[1]
                bias += plain[0]
            else:
                many, bits = _lanes_for(bound)
        record["step"] = writer.step(layer.step)
    words = -(-outputs // many)
    blocks, singles = divmod(words, _BLOCK)
    if singles == _BLOCK - 1:
        blocks, singles = blocks + 1, 0
    words = blocks * _BLOCK + singles
    wide = -(-inputs // _BLOCK) * _BLOCK
    weight = np.zeros((words * many, wide), np.int64)
    weight[:outputs, :inputs] = layer.weight
    start = np.zeros(words * many, np.int64)
    start[:outputs] = bias
    half = np.uint64(1 << (bits - 1))
    packed = _in_lanes(weight.reshape(words, many, wide), bits)
    starts = _in_lanes((start.view(np.uint64) + half).reshape(words, many, 1), bits)[:, 0]
    in_blocks = packed[: blocks * _BLOCK].reshape(blocks, _BLOCK, wide).transpose(0, 2, 1)
    record["weight"] = writer.put(
        np.concatenate([in_blocks.ravel(), packed[blocks * _BLOCK :].ravel()])
    )
    record["bias"] = writer.put(starts)
    record["inputs"], record["blocks"], record["singles"] = wide, blocks, singles
    record["lanes"], record["bits"], record["kind"], record["shift"] = many, bits, kind, shift
    record["half"] = half
    record["sign"] = sum(1 << (bits * (lane + 1) - 1) for lane in range(many))
    record["mask"] = (1 << (bits - 1 - shift if kind == RELU else bits)) - 1


def _in_lanes(values: NDArray[Any], bits: int) -> NDArray[np.uint64]:
    # [words, many, n] to [words, n]: sums of shifted numbers, modulo 2**64.
    total = np.zeros((values.shape[0], values.shape[2]), np.uint64)
    for lane in range(values.shape[1]):
        total += np.ascontiguousarray(values[:, lane]).view(np.uint64) << np.uint64(bits * lane)
    return total
