# SPDX-License-Identifier: Apache-2.0
"""The parts of integer models, each of which shows that nothing in it can overflow.

Plain Python integers where numbers are few, for they do not overflow; where there are many,
int64 with bounds that keep each sum far below its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from kmind.errors import ModelError

__all__ = [
    "ACTIVATION",
    "EXPONENTS",
    "INT32",
    "INT64",
    "LIMITS",
    "LONGEST_EDGES",
    "NORMS",
    "OUTPUTS",
    "Exact",
    "Input",
    "Layer",
    "Limits",
    "Norm",
    "Output",
    "OutputKind",
    "Step",
    "check_exact",
    "check_input",
    "check_output",
    "check_product",
    "check_step",
    "fits",
    "hold",
    "input_range",
    "refusal",
]

Norm = Literal["none", "l1", "l2", "max"]
OutputKind = Literal["value", "threshold", "argmax"]
NORMS: tuple[Norm, ...] = get_args(Norm)
"""By their numbers in a slot."""
OUTPUTS: tuple[OutputKind, ...] = get_args(OutputKind)
"""By their numbers in a slot."""

_I64 = NDArray[np.int64]
_I32 = NDArray[np.int32]
_I16 = NDArray[np.int16]
_F64 = NDArray[np.float64]

LONGEST_EDGES = (1 << 15) - 1
"""Of one feature: what a search of 15 steps looks through."""
INT64 = 1 << 63
"""The first number that an int64 does not hold."""
INT32 = 1 << 31
"""The first number that an int32 does not hold."""
ACTIVATION = 32767
"""The largest activation of a network."""
EXPONENTS = {True: 90, False: 900}
"""Exact leaves lie within these powers of two, in single precision and in double."""


@dataclass(frozen=True)
class Limits:
    """Upper bounds of an integer model: the capacity of an agent's slot, with room to spare."""

    features: int = 256
    outputs: int = 64
    layers: int = 8
    width: int = 1024
    table: int = 4096
    trees: int = 4096
    nodes: int = 1 << 18
    depth: int = 64


LIMITS = Limits()


def hold(record: object, **dtypes: tuple[Any, int]) -> None:
    """Make arrays of these dtypes and dimensions, contiguous and read-only; or refuse."""
    for name, (dtype, dimensions) in dtypes.items():
        array = np.asarray(getattr(record, name))
        if array.dtype != dtype or array.ndim != dimensions:
            raise ModelError(
                f"{type(record).__name__}.{name} is {array.dtype} of {array.ndim} dimensions, "
                f"not {np.dtype(dtype)} of {dimensions}"
            )
        array = np.array(array, order="C", copy=True)
        array.flags.writeable = False
        object.__setattr__(record, name, array)


@dataclass(frozen=True, eq=False)
class Input:
    """Map a vector of int64 to the model's ``q``: see the module. All arrays are ``[F]``.

    ``edges`` is empty, or has one sorted array a feature, which is empty for most.
    """

    lo: _I64
    hi: _I64
    offset: _I64
    round: _I64
    mul: _I32
    shift: _I32
    norm: Norm = "none"
    edges: tuple[_I64, ...] = ()

    def __post_init__(self) -> None:
        held = tuple(np.array(each, np.int64) for each in self.edges)
        for each in held:
            each.flags.writeable = False
        object.__setattr__(self, "edges", held)
        hold(
            self,
            lo=(np.int64, 1),
            hi=(np.int64, 1),
            offset=(np.int64, 1),
            round=(np.int64, 1),
            mul=(np.int32, 1),
            shift=(np.int32, 1),
        )
        check_input(self)

    def __len__(self) -> int:
        return len(self.lo)


@dataclass(frozen=True, eq=False)
class Step:
    """Turn an accumulator into an activation: multiply, add, shift, clamp, look up.

    ``table`` is int16, a power of two long, and indexed by the clamped value; or None.
    """

    mul: int
    add: int
    shift: int
    lo: int
    hi: int
    table: _I16 | None = None

    def __post_init__(self) -> None:
        if self.table is not None:
            hold(self, table=(np.int16, 1))
        check_step(self, LIMITS.table)


@dataclass(frozen=True, eq=False)
class Layer:
    """``weight[out, in]``, ``bias[out]``; ``step`` is None in the last layer, and only there."""

    weight: _I16
    bias: _I64
    step: Step | None = None

    def __post_init__(self) -> None:
        hold(self, weight=(np.int16, 2), bias=(np.int64, 1))


@dataclass(frozen=True, eq=False)
class Output:
    """Use of the scores: see the module. ``scale`` is the value of one unit of score."""

    kind: OutputKind
    threshold: int = 0
    scale: float = 1.0
    probability: Step | None = None


@dataclass(frozen=True, eq=False)
class Exact:
    """Data to decide close calls of trees in the library's own floats: see the module.

    ``leaf[L, W]``: as ``IntTrees.leaf``; ``base[K]``, ``last[K]``. K is the number of scores, or
    2 for a threshold that two sums decide about; W is 1 or K. Floats are doubles, and all of them
    have single precision where ``single`` says that sums are rounded so.
    """

    leaf: _F64
    base: _F64
    last: _F64
    close: int
    single: bool = False
    divide: int = 1
    tie: float = 0.0
    threshold: float = 0.0

    def __post_init__(self) -> None:
        hold(self, leaf=(np.float64, 2), base=(np.float64, 1), last=(np.float64, 1))
        check_exact(self, LIMITS)


def refusal(what: str) -> ModelError:
    """The error for a model that is not valid."""
    return ModelError(f"the integer model is not valid: {what}")


def fits(value: int, what: str) -> int:
    """Return the value; ModelError where it needs more than 64 bits."""
    if not -INT64 <= value < INT64:
        raise refusal(f"{what} needs more than 64 bits")
    return value


def input_range(stage: Input) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the smallest and the largest ``q`` of each feature."""
    ends = []
    for edge in (stage.lo, stage.hi):
        ends.append(
            [
                (fits((fits(x - offset, "x - offset")) * mul + add, "the input's product")) >> shift
                for x, offset, mul, add, shift in zip(
                    edge.tolist(),
                    stage.offset.tolist(),
                    stage.mul.tolist(),
                    stage.round.tolist(),
                    stage.shift.tolist(),
                    strict=True,
                )
            ]
        )
    low, high = np.array(ends[0], np.int64), np.array(ends[1], np.int64)
    for feature, edges in enumerate(stage.edges):
        if len(edges):  # how many of them lie below the value
            low[feature], high[feature] = 0, len(edges)
    return low, high


def check_input(stage: Input) -> None:
    """Refuse an input whose arithmetic could overflow; ``mul`` is never negative."""
    sizes = {len(getattr(stage, name)) for name in ("lo", "hi", "offset", "round", "mul", "shift")}
    if len(sizes) != 1 or not sizes.pop():
        raise refusal("the input's arrays differ in length, or are empty")
    if stage.norm not in ("none", "l1", "l2", "max"):
        raise refusal(f"norm {stage.norm!r}")
    if (stage.lo > stage.hi).any():
        raise refusal("an input's lower end lies above its upper one")
    if (stage.mul < 0).any() or (stage.shift < 0).any() or (stage.shift > 62).any():
        raise refusal("an input's factor is negative, or its shift not 0 to 62")
    if stage.edges and len(stage.edges) != len(stage):
        raise refusal("the input's lists of edges are not one a feature")
    for edges in stage.edges:
        if edges.ndim != 1 or len(edges) > LONGEST_EDGES or (edges[1:] <= edges[:-1]).any():
            raise refusal("an input's edges are too many, or not in order")
    low, high = input_range(stage)
    if (low < -INT32).any() or (high >= INT32).any():
        raise refusal("an input does not fit in 32 bits")


def check_exact(exact: Exact, limits: Limits) -> None:
    """Refuse floats that the kernel's arithmetic does not take: tiny, huge, or none."""
    sums = len(exact.base)
    if not 1 <= sums <= limits.outputs or exact.last.shape != (sums,):
        raise refusal("the exact sums to begin with")
    if exact.leaf.shape[1] not in (1, sums) or not 0 <= exact.close < 1 << 40:
        raise refusal("the exact leaves, or what is close")
    if not 1 <= exact.divide <= limits.trees or not 0 <= exact.tie < 1:
        raise refusal("the exact sums' divisor or tie")
    edges = np.array([exact.tie, exact.threshold])
    if not np.isfinite(edges).all():
        raise refusal("an exact threshold that is not finite")
    widest = EXPONENTS[exact.single]
    for part in (exact.leaf, exact.base, exact.last):
        size = np.abs(part)
        if not ((size == 0) | ((size >= 2.0**-widest) & (size <= 2.0**widest))).all():
            raise refusal("an exact leaf that is too small or too large")
        if exact.single and (part.astype(np.float32) != part).any():
            raise refusal("an exact leaf of more than single precision")


def check_step(step: Step, longest: int) -> None:
    """Refuse a step whose activations leave 0 to 32767, or its table."""
    if not (1 <= step.mul < INT32 and 0 <= step.shift <= 62 and -INT64 <= step.add < INT64):
        raise refusal("a step's factor, shift or summand is out of range")
    if not 0 <= step.lo <= step.hi <= ACTIVATION:
        raise refusal("a step's limits are not within 0 to 32767")
    if step.table is not None:
        size = len(step.table)
        if not 2 <= size <= longest or size & (size - 1) or step.hi >= size:
            raise refusal(f"a table of {size}, indexed up to {step.hi}")
        if (step.table < 0).any():
            raise refusal("a table holds a negative activation")


def check_output(output: Output, outputs: int, low: list[int], high: list[int]) -> None:
    """Refuse an output that does not fit the scores, which lie between ``low`` and ``high``."""
    if output.kind not in ("value", "threshold", "argmax"):
        raise refusal(f"output {output.kind!r}")
    if output.kind == "threshold" and outputs != 1:
        raise refusal(f"a threshold over {outputs} scores")
    if output.kind == "argmax" and outputs < 2:
        raise refusal("the largest of one score")
    if not -INT64 <= output.threshold < INT64:
        raise refusal("a threshold that needs more than 64 bits")
    if not (np.isfinite(output.scale) and output.scale > 0):
        raise refusal("the scores' scale is not a positive number")
    if output.probability is not None:
        if output.kind != "threshold":
            raise refusal("a probability without a threshold")
        check_product(output.probability, low[0], high[0])


def check_product(step: Step, low: int, high: int) -> None:
    """Refuse a step whose product could overflow between these ends."""
    for value in (low, high):
        fits(fits(value * step.mul, "a step's product") + step.add, "a step's sum")
