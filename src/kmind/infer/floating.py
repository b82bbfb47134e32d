# SPDX-License-Identifier: Apache-2.0
"""Float models that every importer produces, and that the quantiser takes: one of two kinds.

Both take ``x[n, F]`` of real numbers (an agent's integers times the features' scales).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kmind.errors import ModelError
from kmind.infer._walk import add_leaves
from kmind.infer.integer_parts import Norm, OutputKind
from kmind.infer.stages import DOUBLE, SINGLE, Stage, apply_stages

__all__ = [
    "Activation",
    "Dense",
    "FloatMlp",
    "FloatModel",
    "FloatTrees",
    "Grower",
    "Library",
    "Link",
    "Sums",
    "Target",
    "activate",
    "normalise",
]

_F64 = NDArray[np.float64]
Activation = Literal["identity", "relu", "sigmoid", "tanh"]
Link = Literal["none", "logistic", "share"]


@dataclass(frozen=True)
class Target:
    """Meaning of the scores.

    ``kind``: as in the integer model; a label is 1 if the one score is above ``threshold``.
    ``classes``: meaning of each label; empty for a value. ``link``: how a threshold's score becomes
    a probability: by the logistic function of ``slope`` times the score, or unchanged (``share``).
    """

    kind: OutputKind
    classes: tuple[str, ...] = ()
    threshold: float = 0.0
    link: Link = "none"
    slope: float = 1.0

    def labels(self, scores: _F64) -> NDArray[np.int64]:
        """Return the labels ``[n]`` for scores ``[n, K]``; 0 for a value."""
        if self.kind == "argmax":
            return np.asarray(scores.argmax(axis=1), np.int64)
        if self.kind == "threshold":
            return (scores[:, 0] > self.threshold).astype(np.int64)
        return np.zeros(len(scores), np.int64)

    def probability(self, scores: _F64) -> _F64:
        """Return the probability ``[n]`` of label 1, as ``link`` makes it of the one score."""
        if self.link == "logistic":
            return activate("sigmoid", self.slope * scores[:, 0])
        return np.clip(scores[:, 0], 0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Library:
    """The library that a model comes from, to be asked for its own labels.

    ``name`` says which one and which version. ``labels(x)`` returns the numbers of the classes
    that it predicts for rows ``[n, F]`` (int64, or float64 where features have a scale); it may
    raise NotSupportedError, where the library is not installed.
    """

    name: str
    labels: Callable[[Any], NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class Dense:
    """One layer: ``activation(x @ weight.T + bias)``, ``weight[out, in]``, ``bias[out]``."""

    weight: _F64
    bias: _F64
    activation: Activation = "identity"

    def __call__(self, x: _F64) -> _F64:
        """Return the layer's activations ``[n, out]``."""
        return activate(self.activation, x @ self.weight.T + self.bias)


def activate(name: Activation, z: _F64) -> _F64:
    """Return the activation of ``z``."""
    if name == "relu":
        return np.maximum(z, 0.0)
    if name == "tanh":
        return np.tanh(z)
    if name == "sigmoid":
        # By tanh, for it does not overflow.
        return np.asarray(0.5 * (1.0 + np.tanh(0.5 * z)))
    return z


@dataclass(frozen=True, eq=False)
class FloatMlp:
    """Layers one after the other, behind ``x / size(x)`` where ``norm`` is not ``none``."""

    layers: tuple[Dense, ...]
    target: Target
    names: tuple[str, ...] = ()
    norm: Norm = "none"
    source: str = ""
    library: Library | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        width = self.layers[0].weight.shape[1]
        for layer in self.layers:
            if layer.weight.shape != (len(layer.bias), width):
                raise ModelError("the network's layers do not fit each other")
            if not (np.isfinite(layer.weight).all() and np.isfinite(layer.bias).all()):
                raise ModelError("the network has weights that are not finite")
            width = len(layer.bias)

    @property
    def features(self) -> int:
        """Number of features."""
        return int(self.layers[0].weight.shape[1])

    def scores(self, x: _F64) -> _F64:
        """Return the scores ``[n, K]`` for ``x[n, F]``."""
        x = normalise(self.norm, x)
        for layer in self.layers:
            x = layer(x)
        return x

    def labels(self, x: Any) -> NDArray[np.int64]:
        """Return the labels ``[n]`` for ``x[n, F]``; 0 for a value."""
        return self.target.labels(self.scores(np.asarray(x, np.float64)))

    def scaled(self, factor: _F64, shift: _F64) -> FloatMlp:
        """Return the model that takes ``x`` where this one takes ``x * factor + shift``."""
        if self.norm != "none":
            raise ModelError("a scaler before a normaliser cannot be folded into a model")
        first = self.layers[0]
        folded = Dense(first.weight * factor, first.bias + first.weight @ shift, first.activation)
        return replace(self, layers=(folded, *self.layers[1:]))

    def merged(self) -> FloatMlp:
        """Return the model without layers that activate nothing, but for the last."""
        layers: list[Dense] = []
        for layer in self.layers:
            if layers and layers[-1].activation == "identity":
                before = layers.pop()
                bias = layer.weight @ before.bias + layer.bias
                layer = Dense(layer.weight @ before.weight, bias, layer.activation)
            layers.append(layer)
        return replace(self, layers=tuple(layers))


@dataclass(frozen=True)
class Sums:
    """Arithmetic by which a library adds leaves and decides from the sums.

    Leaves are added in the order of the trees, each sum rounded to single or double precision; then
    ``divide`` divides. An argmax takes the first class that lies no more than ``tie`` below the
    largest: where probabilities are compared, scores that lie closer give the same one.
    """

    single: bool = False
    divide: int = 1
    tie: float = 0.0

    @property
    def kind(self) -> Any:
        """The sums' dtype."""
        return np.float32 if self.single else np.float64


@dataclass(frozen=True, eq=False)
class FloatTrees:
    """Trees whose leaves are added up: as ``IntTrees``, with float thresholds and leaves.

    From a node, ``x[feature] > threshold`` goes right, where ``stages`` have brought ``x`` to what
    the library compares. ``base`` is what sums begin with, ``last`` is added in the end. A target
    of two classes (``threshold``) may have two sums, one a class: label 1 needs the larger one.
    """

    root: NDArray[np.int32]
    output_of: NDArray[np.int32]
    feature: NDArray[np.int32]
    threshold: _F64
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    leaf: _F64
    base: _F64
    features: int
    target: Target
    names: tuple[str, ...] = ()
    source: str = ""
    norm: Norm = "none"
    stages: tuple[Stage, ...] = SINGLE
    sums: Sums = Sums()
    last: Any = 0.0
    library: Library | None = None
    notes: tuple[str, ...] = ()
    depth: int = field(init=False)

    def __post_init__(self) -> None:
        last = np.broadcast_to(np.asarray(self.last, np.float64), self.base.shape)
        object.__setattr__(self, "last", last)
        for part in (self.leaf, self.base, last):
            if not np.isfinite(part).all():
                raise ModelError("the trees have leaves that are not finite")
        if np.isnan(self.threshold).any():
            raise ModelError("the trees have thresholds that are no numbers")
        if (self.feature >= self.features).any():
            raise ModelError("the trees ask for a missing feature")
        level, depth = self.root, 0
        while len(level := level[self.feature[level] >= 0]):
            level = np.concatenate([self.left[level], self.right[level]])
            depth += 1
        object.__setattr__(self, "depth", depth)

    @property
    def is_paired(self) -> bool:
        """True if two sums decide between two classes."""
        return self.target.kind == "threshold" and len(self.base) == 2

    def raw(self, x: Any) -> NDArray[Any]:
        """Return the library's sums ``[n, K]`` for ``x[n, F]``, in its precision."""
        if self.norm != "none":
            x = normalise(self.norm, np.asarray(x, np.float64))
        x = apply_stages(self.stages, x)
        kind = self.sums.kind
        sums = np.repeat(self.base.astype(kind)[None, :], len(x), axis=0)
        add_leaves(self, x, sums)
        return np.asarray((sums + self.last.astype(kind)) / kind(self.sums.divide))

    def labels(self, x: Any) -> NDArray[np.int64]:
        """Return the labels ``[n]`` that the library gives ``x[n, F]``; 0 for a value."""
        return self._labels(self.raw(x))

    def labels_of(self, sums: _F64) -> NDArray[np.int64]:
        """Return the labels for sums ``[n, K]`` as trees have added them up, in double precision.

        They are rounded as the last sum is, and divided.
        """
        kind = self.sums.kind
        return self._labels((sums.astype(kind) + self.last.astype(kind)) / kind(self.sums.divide))

    def _labels(self, sums: NDArray[Any]) -> NDArray[np.int64]:
        if self.is_paired:
            return np.asarray(sums[:, 1] > sums[:, 0], np.int64)
        if self.target.kind == "argmax" and self.sums.tie:
            below = sums.max(axis=1, keepdims=True) - sums
            return np.asarray((below <= self.sums.tie).argmax(axis=1), np.int64)
        return self.target.labels(sums.astype(np.float64))

    def scores(self, x: Any) -> _F64:
        """Return the scores ``[n, K]`` for ``x[n, F]``, on the side that the label says."""
        sums = self.raw(x)
        label, scores = self._labels(sums), sums.astype(np.float64)
        if self.is_paired:
            edge = self.target.threshold
            above = np.maximum(scores[:, 1], np.nextafter(edge, np.inf))
            return np.where(label == 1, above, np.minimum(scores[:, 1], edge))[:, None]
        if self.target.kind == "argmax" and self.sums.tie:
            scores[np.arange(len(scores)), label] = scores.max(axis=1)
        return scores

    def staged(self, *stages: Stage) -> FloatTrees:
        """Return the model behind these stages, which come before its own."""
        if self.norm != "none":
            raise ModelError("a scaler before a normaliser cannot be folded into a model")
        return replace(self, stages=(*stages, *self.stages))


FloatModel = FloatMlp | FloatTrees


def normalise(norm: Norm, x: _F64) -> _F64:
    """Return ``x[n, F]`` divided by each row's size; a row of zeros stays one."""
    if norm == "none":
        return x
    if norm == "l1":
        size = np.abs(x).sum(axis=1)
    elif norm == "max":
        size = np.abs(x).max(axis=1)
    else:
        size = np.sqrt((x**2).sum(axis=1))
    return np.asarray(x / np.where(size == 0, 1.0, size)[:, None])


@dataclass
class Grower:
    """Gathers the nodes of trees, in any order, into the lists that a model wants.

    Each call of ``add`` is one tree: arrays by node, node 0 the root, ``feature < 0`` in a leaf,
    ``values[node, width]``. Nodes that nobody points to are left out.
    """

    columns: dict[str, list[Any]] = field(
        default_factory=lambda: {name: [] for name in ("feature", "threshold", "left", "right")}
    )
    root: list[int] = field(default_factory=list)
    output_of: list[int] = field(default_factory=list)
    leaf: list[Any] = field(default_factory=list)

    def add(
        self, feature: Any, threshold: Any, left: Any, right: Any, values: Any, output: int = 0
    ) -> None:
        """Add one tree, which adds its leaves to score ``output`` (or to all)."""
        self.root.append(len(self.columns["feature"]))
        self.output_of.append(output)
        values = np.asarray(values, np.float64)
        # Behind its parent, whatever the order was; a deep tree must not exhaust the stack.
        waiting: list[tuple[int, str, int]] = [(0, "", -1)]
        seen = 0
        while waiting:
            node, side, parent = waiting.pop()
            here = len(self.columns["feature"])
            seen += 1
            if seen > len(feature):
                raise ModelError("a tree's nodes run in a circle")
            if side:
                self.columns[side][parent] = here
            if feature[node] < 0:
                for name, value in zip(self.columns, (-1, 0.0, len(self.leaf), 0), strict=True):
                    self.columns[name].append(value)
                self.leaf.append(values[node])
                continue
            for name, value in zip(
                self.columns, (int(feature[node]), float(threshold[node]), 0, 0), strict=True
            ):
                self.columns[name].append(value)
            waiting.append((int(right[node]), "right", here))
            waiting.append((int(left[node]), "left", here))

    def trees(
        self, base: Any, features: int, target: Target, *, single: bool = True, **more: Any
    ) -> FloatTrees:
        """Return the model of all trees added so far; ``single``: of features in that precision."""
        leaf = np.array(self.leaf, np.float64)
        return FloatTrees(
            root=np.array(self.root, np.int32),
            output_of=np.array(self.output_of, np.int32),
            feature=np.array(self.columns["feature"], np.int32),
            threshold=np.array(self.columns["threshold"], np.float64),
            left=np.array(self.columns["left"], np.int32),
            right=np.array(self.columns["right"], np.int32),
            leaf=leaf.reshape(len(leaf), -1),
            base=np.atleast_1d(np.asarray(base, np.float64)),
            features=features,
            target=target,
            stages=SINGLE if single else DOUBLE,
            **more,
        )
