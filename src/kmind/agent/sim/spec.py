# SPDX-License-Identifier: Apache-2.0
"""Specification of a simulated agent and its parts."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypedDict

from kmind.agent.types import ModelUse
from kmind.queue import TableShape

__all__ = ["Lock", "SimSettings", "SimSpec"]

Lock = AbstractContextManager[Any]
"""An agent's lock, which its parts share; the same thread may take it again."""


class SimSettings(TypedDict, total=False):
    """Settings of an agent, besides its place and its clock; see `SimAgent`."""

    gauges: Iterable[int]
    hooks: Iterable[str]
    tick_s: float
    window_s: float
    deadline_s: float
    model: ModelUse | None
    tables: Iterable[TableShape]


@dataclass(frozen=True)
class SimSpec:
    """`SimSettings` with their defaults, those of an agent in the kernel."""

    gauges: Iterable[int] = ()
    hooks: Iterable[str] = ()
    tick_s: float = 0.002
    window_s: float = 0.1
    deadline_s: float = 1.0
    model: ModelUse | None = None
    tables: Iterable[TableShape] = ()
