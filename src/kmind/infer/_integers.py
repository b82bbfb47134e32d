# SPDX-License-Identifier: Apache-2.0
"""From float numbers to integer ones: inputs, layers, trees and outputs of given widths."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmind.errors import ModelError
from kmind.infer.floating import Activation, FloatMlp, FloatTrees, Target, activate
from kmind.infer.integer import Input, IntMlp, IntTrees, Layer, Norm, Output, Step

__all__ = ["PROBABILITY_ONE", "Widths", "integer_mlp", "integer_trees"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_ONE = 1 << 30  # a feature divided by its vector's size has 30 fractional bits
_FACTOR_BITS = 15
_TABLE = 2048
_LIMIT = 1 << 62
_WIDEST = 1 << 60
# The logistic function differs from 0 and 1 by less than 2**-11 outside of this.
_SPAN: dict[Activation, float] = {"sigmoid": 8.0, "tanh": 4.0}
PROBABILITY_ONE = 32767
# All leaves together fit in 32 bits, and each in the 23 that the kernel packs it into.
_LEAVES = 1 << 30
_LEAF = (1 << 22) - 1


@dataclass(frozen=True)
class Widths:
    """How wide a network's numbers are, in bits; and which share of the calibration is kept.

    ``keep``: a feature is clamped to the range that holds this share of its values on either
    side, an activation to the range below which this share lies. ``plain``: features stay as they
    are, but for where they begin, as they can where each spans no more than an activation holds:
    smaller accumulators, but weights whose size follows the features' units.
    """

    weight: int
    activation: int
    keep: float = 1.0
    plain: bool = False


def _clamps(raw: I64, keep: float) -> tuple[I64, I64]:
    if keep >= 1.0:
        return raw.min(axis=0), raw.max(axis=0)
    low = np.quantile(raw, 1.0 - keep, axis=0, method="lower")
    high = np.quantile(raw, keep, axis=0, method="higher")
    return low.astype(np.int64), high.astype(np.int64)


def _input(raw: I64, norm: Norm, most: int, widths: Widths) -> tuple[Input, F64]:
    """Return the stage that brings features to 0 .. most, and the worth of a unit of each."""
    low, high = _clamps(raw, widths.keep)
    if norm != "none":
        low, high = np.maximum(low, -_ONE), np.minimum(high, _ONE)
    mul, shift, worth = [], [], []
    for bottom, top in zip(low.tolist(), high.tolist(), strict=True):
        span = top - bottom
        if span >= _WIDEST:
            raise ModelError("a feature spans more than 60 bits in the calibration data")
        if span == 0 or (widths.plain and span <= most):
            mul.append(int(span > 0))
            shift.append(0)
            worth.append(float(span > 0))
            continue
        bits = min(_FACTOR_BITS, 62 - span.bit_length())
        places = 0
        while places < 61 and (most << (places + 1)) // span < 1 << bits:
            places += 1
        factor = (most << places) // span
        mul.append(factor)
        shift.append(places)
        worth.append(2.0**places / factor)
    places_array = np.array(shift, np.int32)
    half = np.where(places_array > 0, np.int64(1) << np.maximum(places_array - 1, 0), 0)
    stage = Input(
        low, high, low, half.astype(np.int64), np.array(mul, np.int32), places_array, norm
    )
    return stage, np.array(worth)


def _step(
    name: Activation, unit: float, largest: float, most: int
) -> tuple[Step, float, float, float]:
    """Return a layer's step, its activations' worth and zero, and the unit it needs.

    ``unit`` is the least worth of one unit of accumulator; the one returned is at most twice as
    large, so that bringing an accumulator to an activation is a shift and no multiplication.
    """
    if name == "relu":
        # One unit of activation is 2**shift units of accumulator; what is left of the ratio
        # costs either weights or activations up to half a bit.
        ratio = max(math.log2(max(largest, 1e-300) / most / unit), 0.0)
        shift = math.floor(ratio)
        if ratio - shift < 0.5:
            unit *= 2.0 ** (ratio - shift)
        else:
            shift += 1
        half = (1 << shift) >> 1
        return Step(1, half, shift, 0, most), unit * 2.0**shift, 0.0, unit
    span = _SPAN[name]
    wanted = 2.0 * span / _TABLE
    shift = max(math.floor(math.log2(wanted / unit)), 0)
    unit = max(wanted / 2.0**shift, unit)
    width = unit * 2.0**shift
    z: F64 = (np.arange(_TABLE, dtype=np.float64) - _TABLE // 2 + 0.5) * width
    y = activate(name, z)
    share = y if name == "sigmoid" else (y + 1.0) / 2.0
    table = np.rint(share * most).astype(np.int16)
    step = Step(1, (_TABLE // 2) << shift, shift, 0, _TABLE - 1, table)
    worth, zero = (1.0 / most, 0.0) if name == "sigmoid" else (2.0 / most, -1.0)
    return step, worth, zero, unit


def integer_mlp(
    model: FloatMlp, scale: F64, raw: I64, shares: I64 | None, widths: Widths
) -> IntMlp:
    """Return the network in integers of these widths.

    ``raw[n, F]`` are the agent's integers to calibrate with, ``scale[F]`` their worth;
    ``shares`` the same after the division by each vector's size, if the model has one.
    """
    most = (1 << widths.activation) - 1
    top = (1 << (widths.weight - 1)) - 1
    stage, worth = _input(raw if shares is None else shares, model.norm, most, widths)
    factor = scale if shares is None else np.full(len(scale), 1.0 / _ONE)
    zero = stage.lo * factor
    worth = worth * factor
    x = np.clip(raw if shares is None else shares, stage.lo, stage.hi) * factor
    layers = []
    for number, layer in enumerate(model.layers):
        weight, bias = layer.weight * worth, layer.bias + layer.weight @ zero
        unit = float(np.abs(weight).max()) / top or 1.0
        step = None
        if number < len(model.layers) - 1:
            z = x @ layer.weight.T + layer.bias
            largest = float(np.quantile(np.maximum(z, 0.0), widths.keep))
            step, next_worth, next_zero, unit = _step(layer.activation, unit, largest, most)
            x = activate(layer.activation, z)
            worth = np.full(len(bias), next_worth)
            zero = np.full(len(bias), next_zero)
        whole = np.rint(bias / unit)
        if (np.abs(whole) >= 1 << 46).any():
            raise ModelError("a bias of the network is out of proportion to its weights")
        layers.append(Layer(np.rint(weight / unit).astype(np.int16), whole.astype(np.int64), step))
    return IntMlp(stage, tuple(layers), _output(model.target, unit, 1 << 46))


def _output(target: Target, unit: float, largest: int) -> Output:
    threshold = math.floor(target.threshold / unit)
    probability = None
    if target.kind == "threshold" and target.link != "none":
        low, high = (-8.0, 8.0) if target.link == "logistic" else (0.0, 1.0)
        size = 1024
        wanted = (high - low) / size / unit
        shift = max(math.ceil(math.log2(wanted)) - 1, 0) if wanted > 1 else 0
        # One entry is 2**shift units: finer than wanted, over a table twice as long.
        width = unit * 2.0**shift
        size *= 2
        centre = round((low + high) / 2 / width)
        z: F64 = (np.arange(size, dtype=np.float64) - size // 2 + centre + 0.5) * width
        p = activate("sigmoid", z) if target.link == "logistic" else np.clip(z, 0.0, 1.0)
        table = np.rint(p * PROBABILITY_ONE).astype(np.int16)
        probability = Step(1, (size // 2 - centre) << shift, shift, 0, size - 1, table)
    return Output(target.kind, threshold, unit, probability)


def integer_trees(model: FloatTrees, scale: F64) -> IntTrees:
    """Return the trees in integers.

    On integer features each comparison is exact, unless a feature's thresholds lie further
    apart than 32 bits reach. ``scale[F]`` is the worth of the agent's integers.
    """
    features = model.features
    inner = model.feature >= 0
    where = np.maximum(model.feature, 0)
    if model.norm != "none":
        scale = np.full(features, 1.0 / _ONE)
    # right: x > threshold, so as integers: raw > floor(threshold / scale)
    edge = np.floor(np.clip(model.threshold / scale[where], -float(_LIMIT), float(_LIMIT)))
    threshold = np.where(inner, edge, 0.0).astype(np.int64)
    lo, hi = np.zeros(features, np.int64), np.zeros(features, np.int64)
    offset, shift = np.zeros(features, np.int64), np.zeros(features, np.int32)
    for number in range(features):
        mine = threshold[inner & (model.feature == number)]
        if not len(mine):
            continue
        lo[number], hi[number] = mine.min(), mine.max() + 1
        low, high = int(lo[number]), int(hi[number])
        if low < -(1 << 31) or high >= 1 << 31:
            offset[number] = low
            shift[number] = max((high - low).bit_length() - 30, 0)
            # Whatever lies above the last threshold must still do so when it is shifted.
            hi[number] = high + (1 << int(shift[number]))
    threshold = np.where(inner, (threshold - offset[where]) >> shift[where], 0)
    stage = Input(
        lo, hi, offset, np.zeros(features, np.int64), np.ones(features, np.int32), shift, model.norm
    )
    leaf, base, unit = _leaves(model)
    return IntTrees(
        input=stage,
        root=model.root,
        output_of=model.output_of,
        feature=model.feature,
        threshold=threshold.astype(np.int32),
        left=model.left,
        right=model.right,
        leaf=leaf,
        base=base,
        output=_output(model.target, unit, _LEAVES),
    )


def _leaves(model: FloatTrees) -> tuple[NDArray[np.int32], I64, float]:
    """Return leaves and bases as integers whose sums fit in 32 bits, and the worth of a unit."""
    ends: Any = np.append(model.root[1:], len(model.feature))
    total = np.abs(model.base)
    for root, end, output in zip(model.root, ends, model.output_of, strict=True):
        rows = model.left[root:end][model.feature[root:end] < 0]
        most = np.abs(model.leaf[rows]).max(axis=0)
        if model.leaf.shape[1] == 1:
            total[output] += most[0]
        else:
            total = total + most
    unit = max(float(total.max()) / _LEAVES, float(np.abs(model.leaf).max()) / _LEAF) or 1.0
    leaf = np.rint(model.leaf / unit).astype(np.int32)
    return leaf, np.rint(model.base / unit).astype(np.int64), unit
