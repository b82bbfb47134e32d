# SPDX-License-Identifier: Apache-2.0
"""The integer model: what a decision in the kernel computes, bit for bit.

Everything is an integer of fixed width; ``kmind.infer.reference`` is the definition by
example. ``>>`` shifts arithmetically (rounds towards minus infinity), ``clamp(v, lo, hi)`` is
``min(max(v, lo), hi)``. No sum or product leaves 64 signed bits: a model for which that cannot
be shown is refused when it is made, so no evaluator needs to check for overflow.

**Input.** A decision takes one vector ``x`` of int64, one number a feature. If ``norm`` is not
``none``, each vector is first divided by its own size, with 30 fractional bits::

    u[f] = clamp(x[f], -(2**31 - 1), 2**31 - 1)
    size = sum |u[f]| (l1), max |u[f]| (max), or floor(sqrt(sum u[f]**2)) (l2; sum as uint64)
    x[f] = sign(u[f]) * ((|u[f]| << 30) // size), or 0 where size is 0

Then each feature is brought to the model's own scale::

    q[f] = ((clamp(x[f], lo[f], hi[f]) - offset[f]) * mul[f] + round[f]) >> shift[f]

A feature of trees whose thresholds lie further apart than 32 bits reach has a list of them,
``edges[f]``, instead: ``q[f]`` is how many of them lie below ``x[f]``.

**Trees** (``IntTrees``). From a tree's root, go right where ``q[feature] > threshold``, else
left, down to a leaf. A leaf's values are added to the scores (``base`` at first): with
``width == 1`` to score ``output_of[tree]``, else value ``k`` to score ``k``. All scores, and all
partial sums of them, fit in int32.

**Close calls** (``Exact``). Leaves are rounded, and libraries round sums, so where scores lie
closer than ``close`` the label is found again as the library finds it: floats are added in the
order of the trees, each sum rounded to single or double precision (to nearest, ties to even), from
``base`` on, ``last`` in the end; divided by ``divide``, rounded. Of one sum the label is 1 where it
is above ``threshold``; of several it is the first that lies no more than ``tie`` below the largest.
Scores and probabilities stay those of the rounded leaves. Closer than ``close``: of one score, the
distance to the threshold is at most that; of several, that of the two largest.

**Network** (``IntMlp``). Activations are never negative: 0 to 32767 (zero points are folded
into the biases). For each layer, with ``a`` the layer before (``q`` at first)::

    acc[j] = bias[j] + sum weight[j, i] * a[i]
    a[j]   = clamp((acc[j] * mul + add) >> shift, lo, hi); with a table: table[that]

The last layer has no such step: its ``acc`` are the scores. A linear model is one layer.

**Output.** ``argmax``: the label is the first index of the largest score. ``threshold``: one
score; the label is 1 where it is above ``threshold``, else 0. ``value``: the label is 0, and
the scores are the answer. With ``probability`` (of label 1, 0 to 32767 for 0 to 1), a table is
looked up by the score as above. ``score * scale`` is the float model's number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from kmind.errors import ModelError
from kmind.infer import _bounds as bounds

__all__ = [
    "LIMITS",
    "NORMS",
    "OUTPUTS",
    "Exact",
    "Input",
    "IntMlp",
    "IntModel",
    "IntTrees",
    "Layer",
    "Limits",
    "Norm",
    "Output",
    "OutputKind",
    "Step",
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


@dataclass(frozen=True)
class Limits:
    """How large an integer model may be: what a slot of an agent can hold, with room to spare."""

    features: int = 256
    outputs: int = 64
    layers: int = 8
    width: int = 1024
    table: int = 4096
    trees: int = 4096
    nodes: int = 1 << 18
    depth: int = 64


LIMITS = Limits()


def _hold(record: object, **dtypes: tuple[Any, int]) -> None:
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
    """How a vector of int64 becomes the model's ``q``: see the module. All arrays are ``[F]``.

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
        _hold(
            self,
            lo=(np.int64, 1),
            hi=(np.int64, 1),
            offset=(np.int64, 1),
            round=(np.int64, 1),
            mul=(np.int32, 1),
            shift=(np.int32, 1),
        )
        bounds.check_input(self)

    def __len__(self) -> int:
        return len(self.lo)


@dataclass(frozen=True, eq=False)
class Step:
    """What brings an accumulator to an activation: multiply, add, shift, clamp, look up.

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
            _hold(self, table=(np.int16, 1))
        bounds.check_step(self, LIMITS.table)


@dataclass(frozen=True, eq=False)
class Layer:
    """``weight[out, in]``, ``bias[out]``; ``step`` is None in the last layer, and only there."""

    weight: _I16
    bias: _I64
    step: Step | None = None

    def __post_init__(self) -> None:
        _hold(self, weight=(np.int16, 2), bias=(np.int64, 1))


@dataclass(frozen=True, eq=False)
class Output:
    """What becomes of the scores: see the module. ``scale`` is the worth of one unit of score."""

    kind: OutputKind
    threshold: int = 0
    scale: float = 1.0
    probability: Step | None = None


@dataclass(frozen=True, eq=False)
class Exact:
    """How close calls of trees are decided, in the library's own floats: see the module.

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
        _hold(self, leaf=(np.float64, 2), base=(np.float64, 1), last=(np.float64, 1))
        bounds.check_exact(self, LIMITS)


@dataclass(frozen=True, eq=False)
class IntMlp:
    """A network of integers, or a linear model: see the module.

    ``bound`` is learnt: for each layer, the largest size that an accumulator can reach.
    """

    input: Input
    layers: tuple[Layer, ...]
    output: Output
    bound: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bound", bounds.check_mlp(self, LIMITS))

    @property
    def outputs(self) -> int:
        """How many scores there are."""
        return len(self.layers[-1].bias)

    @property
    def shape(self) -> tuple[int, ...]:
        """Features, then the width of each layer: ``(31, 256, 2)``."""
        return (len(self.input), *(len(layer.bias) for layer in self.layers))


@dataclass(frozen=True, eq=False)
class IntTrees:
    """Decision trees over integers, whose leaves are added up: see the module.

    Nodes of all trees stand in one list, each behind its parent, each tree in one piece.

    ``root[T]`` int32: a tree's first node. ``output_of[T]`` int32: the score it adds to (0 where
    ``width`` is above 1). ``feature[N]`` int32: -1 in a leaf. ``threshold[N]`` int32 (0 in a
    leaf). ``left[N]``, ``right[N]`` int32: nodes; in a leaf, ``left`` is its row in ``leaf`` and
    ``right`` is 0. ``leaf[L, width]`` int32. ``base[K]`` int64: scores to begin with.

    ``exact`` decides close calls; None where the rounded leaves decide as the library does, or
    where nobody can say how it does. ``depth`` is learnt: the most turns from a root to a leaf.
    """

    input: Input
    root: _I32
    output_of: _I32
    feature: _I32
    threshold: _I32
    left: _I32
    right: _I32
    leaf: _I32
    base: _I64
    output: Output
    exact: Exact | None = None
    depth: int = field(init=False)

    def __post_init__(self) -> None:
        flat = dict.fromkeys(
            ("root", "output_of", "feature", "threshold", "left", "right"), (np.int32, 1)
        )
        _hold(self, **flat, leaf=(np.int32, 2), base=(np.int64, 1))
        object.__setattr__(self, "depth", bounds.check_trees(self, LIMITS))

    @property
    def outputs(self) -> int:
        """How many scores there are."""
        return len(self.base)

    @property
    def width(self) -> int:
        """Values in a leaf: 1, or as many as there are scores."""
        return int(self.leaf.shape[1])


IntModel = IntMlp | IntTrees
