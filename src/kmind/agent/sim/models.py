# SPDX-License-Identifier: Apache-2.0
"""The model slots of an agent without a kernel: the reference decides."""

from __future__ import annotations

from typing import Any

import numpy as np

from kmind.agent.model_image import (
    REFUSED_COST,
    REFUSED_SCHEMA,
    SLOTS,
    facts,
    no_earlier,
    no_slots,
    prepare,
    refuse,
)
from kmind.agent.sim.spec import Lock
from kmind.agent.types import ModelUse
from kmind.infer.integer import IntModel
from kmind.infer.packing.pack import IMAGE
from kmind.infer.reference import Decisions, evaluate

__all__ = ["SimModels"]


class SimModels:
    """As `ModelSlots`, without programs; ``use`` is None where the agent has no slots.

    Each call takes ``lock``, the agent's.
    """

    def __init__(self, lock: Lock, use: ModelUse | None) -> None:
        self._lock = lock
        self._use = use
        self._held: list[tuple[IntModel, Any] | None] = [None] * SLOTS
        self._active: int | None = None

    def deploy(self, slot: bytes) -> int:
        """Have a model decide, as its plain slot; its version."""
        if self._use is None:
            raise no_slots()
        model, image = prepare(slot)
        head = np.frombuffer(image, IMAGE, 1)[0].copy()
        if head["schema"].tobytes() != self._use.schema:
            refuse(REFUSED_SCHEMA)
        if head["cost_ns"] > self._use.budget_ns:
            refuse(REFUSED_COST)
        with self._lock:
            versions = (int(held[1]["version"]) for held in self._held if held)
            head["version"] = 1 + max(versions, default=0)
            idle = 0 if self._active is None else 1 - self._active
            self._held[idle] = model, head
            self._active = idle
        return int(head["version"])

    def rollback(self) -> int:
        """Have the model of the other slot decide again; its version."""
        with self._lock:
            other = None if self._active is None else self._held[1 - self._active]
            if self._active is None or other is None:
                raise no_earlier()
            self._active = 1 - self._active
            return int(other[1]["version"])

    def slots(self) -> list[dict[str, Any]]:
        """Return the models in the slots."""
        with self._lock:
            return [
                facts(held[1], number, active=number == self._active)
                for number, held in enumerate(self._held)
                if held is not None
            ]

    def decide(self, x: Any) -> Decisions | None:
        """Return the active model's decision on ``x[n, F]``; None if there is no model."""
        with self._lock:
            held = None if self._active is None else self._held[self._active]
            return evaluate(held[0], x) if held is not None else None
