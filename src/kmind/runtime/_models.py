# SPDX-License-Identifier: Apache-2.0
"""Giving an instance's agent another model to decide by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from kmind.infer.model_file import ModelFile
from kmind.infer.selftest import check_selftest

__all__ = ["ModelAgent", "deploy", "roll_back", "show"]


class ModelAgent(Protocol):
    """What an agent with model slots can do; one without raises ModelError."""

    def deploy(self, slot: bytes) -> int:
        """Put a model, as its plain slot, into the idle slot, try it there, and have it decide.

        Returns its version.
        """

    def rollback(self) -> int:
        """Have the model of the other slot decide again; its version."""

    def models(self) -> list[Mapping[str, Any]]:
        """What lies in the slots, the one that decides marked ``active``."""


def show(agent: ModelAgent) -> list[dict[str, Any]]:
    """What lies in the slots."""
    return [dict(each) for each in agent.models()]


def deploy(agent: ModelAgent, data: bytes) -> dict[str, Any]:
    """Have the model of a model file decide. Raises ModelError; then nothing is changed."""
    file = ModelFile.from_bytes(data)
    check_selftest(file)
    before = _active(agent)
    version = agent.deploy(file.slot())
    return {"version": version, "hash": file.hash, "before": before}


def roll_back(agent: ModelAgent) -> dict[str, Any]:
    """Have the earlier model decide again."""
    before = _active(agent)
    version = agent.rollback()
    return {"version": version, "hash": _active(agent), "before": before}


def _active(agent: ModelAgent) -> str | None:
    # The hash of the model that decides now.
    return next((str(each["hash"]) for each in agent.models() if each["active"]), None)
