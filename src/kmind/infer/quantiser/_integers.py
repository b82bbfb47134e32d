# SPDX-License-Identifier: Apache-2.0
"""From a float network to integer ones of given widths; trees have a module of their own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kmind.errors import ModelError
from kmind.infer.floating import Activation, FloatMlp, activate
from kmind.infer.integer import IntMlp
from kmind.infer.integer_parts import Input, Layer, Norm, Step
from kmind.infer.quantiser._scores import PROBABILITY_ONE, make_output
from kmind.infer.quantiser.trees import integer_trees

__all__ = ["PROBABILITY_ONE", "Widths", "integer_mlp", "integer_trees"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_ONE = 1 << 30  # a feature divided by its vector's size has 30 fractional bits
_FACTOR_BITS = 15
_TABLE = 2048
_WIDEST = 1 << 60
# The logistic function differs from 0 and 1 by less than 2**-11 outside of this.
_SPAN: dict[Activation, float] = {"sigmoid": 8.0, "tanh": 4.0}


@dataclass(frozen=True)
class Widths:
    """Widths of a network's numbers, in bits, and the share of the calibration data kept.

    ``keep``: a feature is clamped to the range that holds this share of its values on either side,
    an activation to the range below which this share lies. ``plain``: features are only shifted to
    begin at zero, which is possible if each spans no more than an activation holds: smaller
    accumulators, but weights whose size follows the features' units.
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
    return IntMlp(stage, tuple(layers), make_output(model.target, unit))
