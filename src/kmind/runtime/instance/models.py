# SPDX-License-Identifier: Apache-2.0
"""Giving an instance's agent another model to decide by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from kmind.agent.protocol import AgentModels
from kmind.errors import KmindError, ModelError
from kmind.util.versions import Format

__all__ = ["MODELS", "DeployedModels", "active", "deploy", "roll_back", "show"]

MODELS = Format("kmind.state.models")
"""Versions of the file of an instance's models."""

_SLOTS = 2


class DeployedModels(msgspec.Struct, kw_only=True):
    """The models that an instance was given last, as plain slots, by their hashes.

    An upgraded agent begins without a model, and what lies in the old one's slots is laid out for
    its own kind of walk; so the slots are kept here, as many as an agent has.
    """

    slots: dict[str, bytes] = {}
    schema: str = MODELS.schema

    def keep(self, hash: str, slot: bytes) -> None:
        """Remember one more, and forget the oldest."""
        self.slots.pop(hash, None)
        self.slots[hash] = slot
        while len(self.slots) > _SLOTS:
            del self.slots[next(iter(self.slots))]

    def again(self, models: AgentModels, hash: str | None) -> str:
        """Have an upgraded agent decide by that model again; why it does not, or ""."""
        if hash is None:
            return ""
        if hash not in self.slots:
            return f"model {hash[:16]} is not known any more: deploy it again"
        try:
            models.deploy(self.slots[hash])
        except KmindError as error:
            return f"model {hash[:16]} is not taken: {error}"
        return ""


def show(models: AgentModels) -> list[dict[str, Any]]:
    """Return the models in the slots."""
    return models.slots()


def deploy(
    models: AgentModels, known: DeployedModels, data: bytes, wanted: Mapping[str, Any]
) -> dict[str, Any]:
    """Have the model of a model file decide. Raises ModelError; then nothing is changed.

    ``wanted`` is what the instance has been given of what the model must have been trained with.
    """
    from kmind.infer.model_file import ModelFile
    from kmind.infer.selftest import check_selftest

    file = ModelFile.from_bytes(data)
    check_selftest(file)
    _check_notes(file.card, wanted)
    slot = file.slot()
    before = active(models)
    version = models.deploy(slot)
    known.keep(file.hash, slot)
    return {"version": version, "hash": file.hash, "before": before}


def _check_notes(card: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    notes = card.get("notes")
    notes = notes if isinstance(notes, Mapping) else {}
    for name, value in wanted.items():
        if name not in notes:
            raise ModelError(
                f"the model does not say with which {name} it was trained",
                hint="kmind train notes it; kmind model import takes it with --card: "
                f'{{"notes": {{"{name}": N}}}}',
            )
        if isinstance(notes[name], bool) != isinstance(value, bool) or notes[name] != value:
            # A stranger wrote it: it may be anything, and long.
            plain = isinstance(notes[name], int | float | str)
            noted = ascii(notes[name])[:40] if plain else "?"
            raise ModelError(
                f"the model was trained with {name}={noted}, and the instance has {name}={value}",
                hint=f"load the instance with {name}={noted}, or train a model for {value}",
            )


def roll_back(models: AgentModels) -> dict[str, Any]:
    """Have the earlier model decide again."""
    before = active(models)
    version = models.rollback()
    return {"version": version, "hash": active(models), "before": before}


def active(models: AgentModels) -> str | None:
    """The hash of the model that decides now, or None."""
    return next((str(model["hash"]) for model in models.slots() if model["active"]), None)
