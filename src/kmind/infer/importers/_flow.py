# SPDX-License-Identifier: Apache-2.0
"""State of an ONNX graph's import: the operations done to its input so far."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmind.errors import ModelError
from kmind.infer.floating import Dense, FloatMlp, FloatModel, FloatTrees, Target
from kmind.infer.integer_parts import LIMITS, Norm
from kmind.infer.stages import Stage

__all__ = ["Flow"]

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Affine:
    """``x * factor + shift``, and the operations by which the graph computes it."""

    factor: F64
    shift: F64
    steps: tuple[tuple[Any, F64], ...] = ()


@dataclass(frozen=True, eq=False)
class Flow:
    """The input, scaled and divided by its size; then layers or trees; then what ends it.

    ``width`` is the number of numbers that flow here (0: not known yet). ``root`` tells flows
    apart that come from different scores. ``names`` are the labels of a graph whose first output
    is one of them. ``single``: the input has single precision, and so has
    what is computed from it.
    """

    width: int
    single: bool = True
    before: tuple[Affine, ...] = ()
    norm: Norm = "none"
    after: tuple[Affine, ...] = ()
    layers: tuple[Dense, ...] = ()
    trees: FloatTrees | None = None
    target: Target | None = None
    names: tuple[str, ...] = ()
    end: str = ""
    root: object = field(default_factory=object)

    @property
    def kind(self) -> str:
        """Kind of the model, for its card."""
        return "trees" if self.trees is not None else "network"

    @property
    def is_over(self) -> bool:
        """True once the model's scores are computed: later operations only shape them."""
        return self.trees is not None or bool(self.end) or self.target is not None

    def _goes_on(self, what: str) -> None:
        if self.is_over:
            raise ModelError(f"{what} after the model's scores is not supported")

    def affine(self, factor: Any, shift: Any, *steps: tuple[Any, Any]) -> Flow:
        """Multiply and add a constant to each number; ``steps`` are the graph's operations."""
        self._goes_on("arithmetic")
        factor, shift = np.squeeze(np.asarray(factor)), np.squeeze(np.asarray(shift))
        if factor.ndim > 1 or shift.ndim > 1:
            raise ModelError("arithmetic with a matrix of constants is not supported")
        width = max(self.width, factor.size, shift.size)
        if {factor.size, shift.size} - {1, width} or (self.width and width != self.width):
            raise ModelError("a constant does not fit the numbers that it is applied to")
        if width > LIMITS.width:
            raise ModelError(f"a layer is wider than {LIMITS.width}")
        pair = (np.asarray(factor, np.float64), np.asarray(shift, np.float64))
        if not self.layers:
            pieces = tuple((op, np.squeeze(np.asarray(value, np.float64))) for op, value in steps)
            done = Affine(*pair, pieces)
            if self.norm == "none":
                return replace(self, width=width, before=(*self.before, done), root=object())
            return replace(self, width=width, after=(*self.after, done), root=object())
        weight = np.diag(np.broadcast_to(pair[0], width))
        return self.dense(weight, np.broadcast_to(pair[1], width))

    def cast(self, *, single: bool) -> Flow:
        """Round to single precision, or go on in double."""
        if single == self.single:
            return self
        done = Affine(np.ones(()), np.zeros(()), (("round", np.zeros(())),))
        part = {"before": (*self.before, done)} if self.norm == "none" else {}
        return replace(self, single=single, root=object(), **part)  # type: ignore[arg-type]

    def normalised(self, norm: Norm) -> Flow:
        """Divide each vector by its size."""
        self._goes_on("Normalizer")
        if self.layers or self.norm != "none":
            raise ModelError("Normalizer is supported once, and before the model")
        return replace(self, norm=norm, root=object())

    def dense(self, weight: F64, bias: Any) -> Flow:
        """Multiply by ``weight[out, in]`` and add ``bias``."""
        self._goes_on("a layer")
        bias = np.asarray(bias, np.float64).reshape(-1)
        if max(weight.shape) > LIMITS.width:
            raise ModelError(f"a layer is wider than {LIMITS.width}")
        if bias.size not in (1, len(weight)):
            raise ModelError("a layer's bias does not fit its weights")
        if self.width and weight.shape[1] != self.width:
            raise ModelError(f"a layer over {weight.shape[1]} numbers gets {self.width}")
        layer = Dense(np.asarray(weight, np.float64), np.broadcast_to(bias, len(weight)).copy())
        width = self.width or weight.shape[1]
        flow = self if self.layers else replace(self, width=width)
        return replace(flow, width=len(weight), layers=(*self.layers, layer), root=object())

    def activated(self, name: Any) -> Flow:
        """Apply an activation to each number."""
        self._goes_on(f"the activation {name}")
        if not self.layers:
            raise ModelError(f"the activation {name} before the first layer is not supported")
        last = self.layers[-1]
        if last.activation != "identity":
            size = len(last.bias)
            layers = (*self.layers, Dense(np.eye(size), np.zeros(size), name))
        else:
            layers = (*self.layers[:-1], replace(last, activation=name))
        return replace(self, layers=layers, root=object())

    def ended(self, how: str) -> Flow:
        """End with Softmax or ArgMax, which do not change which score is the largest."""
        if self.trees is not None or self.target is not None:
            return self
        if not self.layers:
            raise ModelError(f"{how} without a model before it")
        return replace(self, end=how)

    def finish(self, classes: tuple[str, ...]) -> FloatModel:
        """Return the model, whose labels have these names, or the graph's, or numbers."""
        model: FloatModel
        if self.trees is not None:
            model = self.trees
        elif self.layers:
            model = self._network(classes)
        else:
            raise ModelError("the graph holds no model")
        if classes and len(classes) != len(model.target.classes):
            raise ModelError(
                f"{len(classes)} classes are named, the model has {len(model.target.classes)}"
            )
        if classes:
            model = replace(model, target=replace(model.target, classes=classes))
        for each in reversed(self.after):
            model = self._behind(model, each)
        if self.norm != "none":
            model = replace(model, norm=self.norm)
        for each in reversed(self.before):
            model = self._behind(model, each)
        return model

    def _behind(self, model: FloatModel, done: Affine) -> FloatModel:
        if isinstance(model, FloatTrees):
            if any(op == "sub_from" for op, _ in done.steps):
                raise ModelError("constants less features cannot be folded into trees")
            first = Stage("round", single=self.single)
            return model.staged(first, *(Stage(op, value, self.single) for op, value in done.steps))
        wide = model.features
        return model.scaled(np.broadcast_to(done.factor, wide), np.broadcast_to(done.shift, wide))

    def _network(self, classes: tuple[str, ...]) -> FloatMlp:
        layers, last = self.layers, self.layers[-1]
        target = self.target
        outputs = len(last.bias)
        if target is None:
            ends = bool(self.end or classes)
            if last.activation == "sigmoid":
                # It rises with its score: the decision is the same without it.
                last, ends = replace(last, activation="identity"), True
            names = tuple(str(number) for number in range(max(outputs, 2)))
            if not ends:
                target = Target("value")
            elif outputs == 1:
                target = Target("threshold", names, 0.0, "logistic")
            else:
                target = Target("argmax", names)
        if last.activation != "identity":
            raise ModelError(f"the activation {last.activation} as the last operator")
        return FloatMlp((*layers[:-1], last), target)
