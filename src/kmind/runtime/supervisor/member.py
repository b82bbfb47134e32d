# SPDX-License-Identifier: Apache-2.0
"""One instance among those of a supervisor."""

from __future__ import annotations

from dataclasses import dataclass, field

from kmind.agent.kernel.agent import BpfAgent
from kmind.runtime.instance.instance import Instance
from kmind.runtime.instance.models import DeployedModels

__all__ = ["Member"]


@dataclass
class Member:
    """An instance, and what the supervisor knows of it beside.

    ``module`` is what ``find_module`` takes, ``failed`` whether its failure was dealt with,
    ``process`` the extension's process and user that the core object knows of, ``models`` what it
    was given to decide by.
    """

    instance: Instance
    agent: BpfAgent
    slot: int
    module: str
    failed: bool = False
    process: tuple[int, int] = (0, 0)
    models: DeployedModels = field(default_factory=DeployedModels)
