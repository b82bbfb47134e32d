# SPDX-License-Identifier: Apache-2.0
"""Agents that share a core, for tests: each may set knob 1 of target 1."""

import time
from pathlib import Path
from typing import Any

from agents import BareAgent, recommendation, write_slot

from kmind.abi import layout
from kmind.agent.core.core import Core
from kmind.agent.types import Grant, Mode

__all__ = ["member", "recommend"]

HOUR_NS = 3600 * 10**9


def recommend(agent: BareAgent, rec_id: int, value: int, **words: int) -> None:
    """Put a recommendation into the queue, and let a hook answer it; for knob 1 of target 1."""
    words = {
        "knob": 1,
        "target": 1,
        "hold_ms": 60_000,
        "expires_ns": time.monotonic_ns() + HOUR_NS,
        **words,
    }
    header = agent.arena[: layout.HEADER.itemsize].view(layout.HEADER)
    position = int(header["cq_head"][0])
    entry = recommendation(position, id=rec_id, type=1, value=value, **words)
    write_slot(agent.arena, agent.geometry, position, entry)
    agent.work(admits=1)


def member(core: Core, bare: Path, name: str, *, mode: Mode = Mode.AUTO, **words: Any) -> BareAgent:
    """An agent in the core that may set knob 1 of target 1 to anything up to 100."""
    slot = core.register(name, "bare", "tuner")
    agent = BareAgent(bare, core=core, slot=slot, sq_slots=64, deadline_s=3600)
    agent.admission.grant(1, 1, Grant(0, 100, 0, **words))
    agent.set_mode(mode)
    core.actions.poll(0)
    return agent
