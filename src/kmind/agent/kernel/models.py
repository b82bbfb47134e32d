# SPDX-License-Identifier: Apache-2.0
"""The models that an agent in the kernel decides by; most have none, and load no code for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kmind.agent.kernel import upgrade
from kmind.agent.kernel.generation import Generation

if TYPE_CHECKING:
    from kmind.agent.kernel.model_slots import ModelSlots

__all__ = ["KernelModels"]


class KernelModels:
    """The model slots of the agent's object, if it has any."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    def deploy(self, slot: bytes) -> int:
        """Have a model decide; its version."""
        return self._slots().deploy(slot)

    def rollback(self) -> int:
        """Have the model of the other slot decide again; its version."""
        return self._slots().rollback()

    def slots(self) -> list[dict[str, Any]]:
        """Return the models in the slots; none after an upgrade, until one is deployed."""
        return self._slots().slots() if "km_models" in self._generation.maps else []

    def _slots(self) -> ModelSlots:
        from kmind.agent.kernel.model_slots import ModelSlots
        from kmind.agent.model_image import no_slots

        generation = self._generation
        if "km_models" not in generation.maps:
            raise no_slots()
        return ModelSlots(generation.maps, generation.programs, upgrade.settle)
