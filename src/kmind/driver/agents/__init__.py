# SPDX-License-Identifier: Apache-2.0
"""Ready agents, one for each kind of driver: a driver's author writes no C.

``KIND.bpf.c`` is the agent, ``KIND.toml`` what would stand in a manifest for it: ``[[hook]]``,
``[[feature]]`` and ``[[table]]``. The loader gives an agent these constants, beside those of every
agent: ``connection``, the number of the driver's FUSE connection, and ``stall_ms``, for how long
its oldest request may wait for an answer (0: for ever).
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["ready_agent"]


def ready_agent(kind: str) -> tuple[Path, Path]:
    """The compiled object and the manifest's parts of that kind's agent."""
    folder = Path(__file__).parent
    return folder / f"{kind}.bpf.o", folder / f"{kind}.toml"
