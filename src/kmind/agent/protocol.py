# SPDX-License-Identifier: Apache-2.0
"""What an owner has of its agent beyond what `Agent` promises."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from kmind.agent.types import Agent
from kmind.queue import Geometry

__all__ = ["OwnedAgent"]


class OwnedAgent(Agent, Protocol):
    """An agent with its arena in this process's memory."""

    @property
    def arena(self) -> npt.NDArray[np.uint8]:
        """All of it, as bytes."""

    @property
    def geometry(self) -> Geometry:
        """Where things lie in it."""
