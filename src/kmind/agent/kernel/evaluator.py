# SPDX-License-Identifier: Apache-2.0
"""The kernel's evaluator by itself, for tests, benches and ``kmind model bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np

from kmind.agent.kernel.model_slots import ModelSlots
from kmind.bpf import BpfObject
from kmind.errors import ModelError
from kmind.infer.integer import IntModel
from kmind.infer.packing.cost import estimate_ns
from kmind.infer.packing.pack import model_image
from kmind.infer.reference import Decisions

__all__ = ["KernelEvaluator"]

_OBJECT = Path(__file__).with_name("evaluator.bpf.o")


class KernelEvaluator:
    """Decides in the running kernel by a model that one gives it; needs root.

        with KernelEvaluator() as kernel:
            kernel.load(model)
            decisions = kernel.evaluate(x)

    One thread at a time. Raises what loading a BPF object raises.
    """

    def __init__(self) -> None:
        self._object = BpfObject(_OBJECT)
        try:
            self._object.load()
            self._slots = ModelSlots(self._object.maps, self._object.programs)
        except BaseException:
            self._object.close()
            raise
        self._model: IntModel | None = None

    def load(self, model: IntModel) -> None:
        """Take a model; ModelError if the kernel cannot evaluate it."""
        if len(model.input) > self._slots.features:
            raise ModelError(
                f"{len(model.input)} features; this evaluator takes {self._slots.features}"
            )
        nothing = bytes(32)
        image = model_image(
            model,
            content=nothing,
            schema=nothing,
            quantisation=nothing,
            cost_ns=estimate_ns(model),
        )
        self._slots.write(0, image)
        self._model = model

    def evaluate(self, x: Any) -> Decisions:
        """Decide on ``x[n, F]``, integers; the same as ``kmind.infer.evaluate``."""
        return self._slots.evaluate(0, *self._checked(x))

    def time_ns(self, x: Any, count: int = 4096) -> float:
        """Nanoseconds a decision takes, over ``count`` of them on ``x``.

        At most 4,096 of them, on 1,024 vectors.
        """
        return self._slots.time_ns(0, self._checked(x)[0], count)

    def close(self) -> None:
        """Free it; safe to repeat."""
        self._object.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _checked(self, x: Any) -> tuple[np.ndarray[Any, np.dtype[np.int64]], int]:
        if self._model is None:
            raise ModelError("no model was loaded")
        x = np.asarray(x)
        if x.ndim != 2 or x.shape[1] != len(self._model.input) or x.dtype.kind not in "iu":
            raise ModelError(f"the model takes integers of shape (n, {len(self._model.input)})")
        if x.dtype == np.uint64:
            x = np.minimum(x, np.uint64((1 << 63) - 1))
        return x.astype(np.int64), self._model.outputs
