# SPDX-License-Identifier: Apache-2.0
"""Networks as ``kmind/infer_network.h`` wants them: several neurons in a word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmind.infer.integer import IntMlp
from kmind.infer.integer_parts import Layer, Step
from kmind.infer.packing.slot import STEP, Writer

__all__ = ["LAYER", "RELU", "SCORE", "STEP_KIND", "LayerPlan", "lanes", "plan_layer", "put_network"]

SCORE, RELU, STEP_KIND = 0, 1, 2
# The widest accumulator that one lane of a 64-bit word holds beside a sign: see `lanes`.
_LANES = ((15, 4), (20, 3), (31, 2))
_BITS = {4: 16, 3: 21, 2: 32, 1: 64}
_BLOCK = 4  # words that go through the inputs together; inputs, too, come in fours

LAYER = np.dtype([
    ("inputs", "<u4"), ("blocks", "<u4"), ("singles", "<u4"),
    ("lanes", "<u4"), ("bits", "<u4"), ("kind", "<u4"),
    ("half", "<u8"), ("mask", "<u8"), ("sign", "<u8"),
    ("weight", "<u4"), ("bias", "<u4"), ("shift", "<u4"), ("zero", "<u4"), ("step", STEP),
])  # fmt: skip
"""``struct km_layer``."""


def lanes(bound: int) -> int:
    """Return how many accumulators of at most this size (either sign) share a 64-bit word."""
    return next((count for bits, count in _LANES if bound < 1 << bits), 1)


@dataclass(frozen=True)
class LayerPlan:
    """Layout of a layer in words: ``lanes`` of ``bits`` in each, over ``inputs`` (padded).

    ``blocks`` of four words go through the inputs together, ``singles`` one by one. ``kind`` is the
    treatment of an accumulator: a score, shifted and clamped (after ``add``), or any step.
    """

    inputs: int
    lanes: int
    bits: int
    blocks: int
    singles: int
    kind: int
    add: int = 0
    shift: int = 0

    @property
    def words(self) -> int:
        """Words of weights for one input."""
        return self.blocks * _BLOCK + self.singles


def plan_layer(layer: Layer, bound: int) -> LayerPlan:
    """Return how a layer whose accumulators are at most ``bound`` in size is laid out."""
    outputs, inputs = layer.weight.shape
    kind, add, shift, many = SCORE, 0, 0, lanes(bound)
    if layer.step is not None:
        kind = STEP_KIND
        plain = _as_shift(layer.step)
        # The summand before the shift goes into the bias, if it fits.
        if plain is not None and bound + abs(plain[0]) < 1 << 62:
            beside = lanes(bound + abs(plain[0]))
            if plain[1] < _BITS[beside] - 1:
                kind, many, (add, shift) = RELU, beside, plain
    blocks, singles = divmod(-(-outputs // many), _BLOCK)
    if singles == _BLOCK - 1:
        blocks, singles = blocks + 1, 0
    wide = -(-inputs // _BLOCK) * _BLOCK
    return LayerPlan(wide, many, _BITS[many], blocks, singles, kind, add, shift)


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
    plan = plan_layer(layer, bound)
    words, many, bits, wide = plan.words, plan.lanes, plan.bits, plan.inputs
    if layer.step is not None:
        record["step"] = writer.step(layer.step)
    weight = np.zeros((words * many, wide), np.int64)
    weight[:outputs, :inputs] = layer.weight
    start = np.zeros(words * many, np.int64)
    start[:outputs] = layer.bias + plan.add
    half = np.uint64(1 << (bits - 1))
    packed = _in_lanes(weight.reshape(words, many, wide), bits)
    starts = _in_lanes((start.view(np.uint64) + half).reshape(words, many, 1), bits)[:, 0]
    blocks = packed[: plan.blocks * _BLOCK].reshape(plan.blocks, _BLOCK, wide).transpose(0, 2, 1)
    singles = packed[plan.blocks * _BLOCK :]
    record["weight"] = writer.put(np.concatenate([blocks.ravel(), singles.ravel()]))
    record["bias"] = writer.put(starts)
    for name in ("inputs", "blocks", "singles", "lanes", "bits", "kind", "shift"):
        record[name] = getattr(plan, name)
    record["half"] = half
    record["sign"] = sum(1 << (bits * (lane + 1) - 1) for lane in range(many))
    record["mask"] = (1 << (bits - 1 - plan.shift if plan.kind == RELU else bits)) - 1


def _in_lanes(values: NDArray[Any], bits: int) -> NDArray[np.uint64]:
    # [words, many, n] to [words, n]: sums of shifted numbers, modulo 2**64.
    total = np.zeros((values.shape[0], values.shape[2]), np.uint64)
    for lane in range(values.shape[1]):
        total += np.ascontiguousarray(values[:, lane]).view(np.uint64) << np.uint64(bits * lane)
    return total
