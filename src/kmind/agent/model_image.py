# SPDX-License-Identifier: Apache-2.0
"""A model as a slot of an agent holds it, and why one is refused."""

from __future__ import annotations

from typing import Any

import numpy as np

from kmind.errors import ModelError
from kmind.infer.integer import IntModel
from kmind.infer.packing.cost import estimate_ns
from kmind.infer.packing.pack import model_image
from kmind.infer.packing.slot import HEADER, read_slot

__all__ = [
    "REFUSED_COST",
    "REFUSED_SCHEMA",
    "SLOTS",
    "facts",
    "no_earlier",
    "no_slots",
    "prepare",
    "refuse",
]

SLOTS = 2
_REFUSED_FEATURES = 3
REFUSED_SCHEMA = 4
REFUSED_COST = 5
_REFUSALS = {
    1: "the slot holds no model that this agent can read",
    2: "the slot's content differs from what was written there",
    _REFUSED_FEATURES: "it has another number of features",
    REFUSED_SCHEMA: "its features differ from the agent's",
    REFUSED_COST: "a decision may take longer than the hook's budget",
    6: "the instance was loaded without model decisions (see the module's parameters)",
}


def refuse(result: int) -> None:
    """Raise ModelError for a result of the control program, unless it is 0."""
    if result:
        raise ModelError(f"the agent refused the model: {_REFUSALS.get(result, result)}")


def no_slots() -> ModelError:
    """Return the error for an agent without model slots."""
    return ModelError("this module's agent uses no models")


def no_earlier() -> ModelError:
    """Return the error for a rollback without an earlier model."""
    return ModelError("there is no earlier model to go back to")


def prepare(slot: bytes) -> tuple[IntModel, bytes]:
    """Read a plain slot; the model, and its image as a slot of an agent holds it."""
    model = read_slot(slot)
    head = np.frombuffer(slot, HEADER, 1)[0]
    hashes = {name: head[name].tobytes() for name in ("content", "schema", "quantisation")}
    return model, model_image(model, **hashes, cost_ns=estimate_ns(model))


def facts(head: Any, slot: int, *, active: bool) -> dict[str, Any]:
    """Say what an image is: slot, active, version, estimate, and the hashes in hex."""
    return {
        "slot": slot,
        "active": active,
        "version": int(head["version"]),
        "estimate_ns": int(head["cost_ns"]),
        "hash": head["content"].tobytes().hex(),
        "schema": head["schema"].tobytes().hex(),
        "quantisation": head["quantisation"].tobytes().hex(),
    }
