# SPDX-License-Identifier: Apache-2.0
"""The protocol of agents: what an owner may ask of one, in the kernel or simulated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from kmind.agent.types import Action, Cause, Grant, Kind, Mode
from kmind.queue import Geometry

__all__ = ["Agent", "AgentAdmission", "AgentHooks", "AgentModels", "OwnedAgent"]


class AgentAdmission(Protocol):
    """Grants of the extension. The agent checks them, out of the extension's reach."""

    def grant(self, knob: int, target: int, grant: Grant) -> None:
        """Let the instance recommend values for a knob; replaces an earlier grant."""

    def revoke(self, knob: int, target: int) -> None:
        """Grant a knob no more, and free its places; nothing if it was not granted."""

    def set_current(self, knob: int, target: int, value: int) -> None:
        """Say what value a knob has now, where it is not what was approved last."""

    def set_model(self, identity: int) -> None:
        """Admit recommendations of one model only; 0 admits any."""


class AgentHooks(Protocol):
    """The programs that the agent has at hooks of the kernel."""

    def watch(self, program: str, wanted: bool) -> None:
        """Attach or detach one of the hooks that were deferred; nothing if it is so already."""

    def attached(self) -> Mapping[str, int]:
        """The hooks that are attached: name to program id (0 in ``sim``)."""

    def missing(self) -> Mapping[str, str]:
        """The optional hooks that could not be attached: name to cause."""

    def replaced(self) -> Mapping[str, str]:
        """The hooks whose work an alternative of the manifest does: name to that program's."""


class AgentModels(Protocol):
    """The models that the agent decides by. An agent without slots raises ModelError."""

    def deploy(self, slot: bytes) -> int:
        """Have a model decide, as its plain slot (`kmind.infer.packing.slot`); its version.

        Raises ModelError if the agent has no slots, or refuses it; then nothing has changed.
        """

    def rollback(self) -> int:
        """Have the model of the other slot decide again; its version."""

    def slots(self) -> list[dict[str, Any]]:
        """Return the models in the slots: slot, active, version, estimate_ns, and hashes in hex."""


class Agent(Protocol):
    """The kernel half of an instance, as its owner sees it.

    Ask for ``admission``, ``hooks`` and ``models`` each time: after an upgrade they are others.
    """

    backend: Literal["bpf", "sim"]
    arena_fd: int  # what the extension maps, at ``arena_address``
    arena_address: int  # 0: anywhere
    arena_size: int
    doorbell_fd: int  # readable when the agent rings
    action_fd: int  # readable when ``poll`` has something; for a selector

    def start(self) -> None:
        """Attach the hooks and arm the tick. The watchdog counts from here."""

    def close(self) -> None:
        """Detach and free everything. Safe to call twice."""

    @property
    def admission(self) -> AgentAdmission:
        """Grants of the extension."""

    @property
    def hooks(self) -> AgentHooks:
        """The programs at hooks of the kernel."""

    @property
    def models(self) -> AgentModels:
        """The models that it decides by."""

    @property
    def table_fds(self) -> Mapping[str, int]:
        """Its tables by name: descriptors to map by."""

    @property
    def mode(self) -> int:
        """The mode that it is in, by the kernel's own word; 0: none was set yet."""

    @property
    def cause(self) -> Cause:
        """The reason for its last change of mode."""

    def set_mode(self, mode: Mode) -> None:
        """Move to a mode. The way out of emergency is this call, and no other."""

    def notify(self, kind: Kind, rec_id: int, value: int) -> None:
        """Tell the extension what became of a recommendation, as a record."""

    def poll(self, timeout_s: float) -> list[Action]:
        """Wait for actions at most that long, and return them in order."""

    def feature(self, column: int) -> int:
        """A counter's total since the agent was loaded, from the agent's own memory."""

    def account(self) -> Mapping[str, int]:
        """Counters kept by the agent: pushed, dropped, verdicts by name, ticks..."""


class OwnedAgent(Agent, Protocol):
    """An agent with its arena in this process's memory."""

    @property
    def arena(self) -> npt.NDArray[np.uint8]:
        """All of it, as bytes."""

    @property
    def geometry(self) -> Geometry:
        """Layout of the arena."""
