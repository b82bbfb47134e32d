# SPDX-License-Identifier: Apache-2.0
"""The arithmetic between an agent's integer and a tree's comparison, in the library's precision.

A library rounds on the way: XGBoost and scikit-learn's trees to single precision, a scaler after
each of its operations. Each step is monotone, so all of them together are, and each float
threshold has one exact integer: the largest that still goes left. ``integer_edges`` finds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kmind.errors import ModelError

__all__ = ["DOUBLE", "SINGLE", "Stage", "apply_stages", "integer_edges"]

_F64 = NDArray[np.float64]
_I64 = NDArray[np.int64]

_TOP = np.uint64(1 << 63)
_ALL = np.uint64((1 << 64) - 1)


@dataclass(frozen=True, eq=False)
class Stage:
    """One operation on the features: round, add, subtract, multiply, divide, or clip.

    ``value`` is a number a feature, or one for all; of a clip its two ends, ``[2]``. ``single``:
    operands and result are rounded to single precision, else to double.
    """

    op: Literal["round", "add", "sub", "mul", "div", "clip"]
    value: Any = None
    single: bool = False

    def __post_init__(self) -> None:
        if self.op in ("mul", "div") and not (np.asarray(self.value) > 0).all():
            raise ModelError("a scaler whose factor is not positive cannot be folded into trees")
        if self.value is not None and not np.isfinite(np.asarray(self.value, np.float64)).all():
            raise ModelError("a scaler has constants that are not finite")

    def __call__(self, x: Any, columns: Any = None) -> Any:
        """Return the result for ``x[n, F]``, or for ``x[n]`` whose features are ``columns[n]``."""
        kind: Any = np.float32 if self.single else np.float64
        x = np.asarray(x).astype(kind)
        if self.op == "round":
            return x
        value = np.asarray(self.value, np.float64).astype(kind)
        if self.op == "clip":
            return np.clip(x, value[0], value[1])
        if columns is not None and value.ndim:
            value = value[columns]
        if self.op == "add":
            return x + value
        if self.op == "sub":
            return x - value
        return x * value if self.op == "mul" else x / value


SINGLE = (Stage("round", single=True),)
"""Features are rounded to single precision, and nothing else."""
DOUBLE = (Stage("round"),)
"""Features are taken as doubles."""


def apply_stages(stages: Sequence[Stage], x: Any, columns: Any = None) -> Any:
    """Return the features as trees compare them; integers are rounded once, by the first stage."""
    with np.errstate(over="ignore"):
        for stage in stages:
            x = stage(x, columns)
    return x


def integer_edges(
    stages: Sequence[Stage], scale: Any, feature: Any, threshold: _F64
) -> tuple[_I64, NDArray[np.bool_], NDArray[np.bool_]]:
    """Return for each comparison the largest int64 of its feature that is not above the threshold.

    ``feature[n]`` and ``threshold[n]`` are the comparisons, ``scale[F]`` the worth of an integer.
    The two masks are of comparisons that hold for all int64, and for none.
    """
    # Bit by bit from the top, over unsigned numbers in the order of the signed ones.
    found = np.zeros(len(threshold), np.uint64)
    never = ~_is_left(stages, scale, feature, threshold, found)
    for bit in range(63, -1, -1):
        tried = found | np.uint64(1 << bit)
        found = np.where(_is_left(stages, scale, feature, threshold, tried), tried, found)
    return _signed(found), (found == _ALL) & ~never, never


def _signed(word: NDArray[np.uint64]) -> _I64:
    return (word ^ _TOP).view(np.int64)


def _is_left(
    stages: Sequence[Stage], scale: Any, feature: Any, threshold: _F64, word: NDArray[np.uint64]
) -> NDArray[np.bool_]:
    whole: Any = _signed(word)
    factor = np.asarray(scale, np.float64)[feature]
    if (factor != 1.0).any():
        with np.errstate(over="ignore"):
            whole = whole.astype(np.float64) * factor
    left: NDArray[np.bool_] = apply_stages(stages, whole, feature) <= threshold
    return left
