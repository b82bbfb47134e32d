# SPDX-License-Identifier: Apache-2.0
"""Inputs of an instance's extension, and the outlets for its output."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from kmind.extension._parameter import Value
from kmind.extension.knob_info import KnobInfo
from kmind.queue import Table

__all__ = ["Given", "Outlets", "Port"]


class Port(Protocol):
    """Destination of recommendations: ``kmind.queue.CompletionQueue``, or a recorder."""

    def submit(
        self,
        knob: int,
        target: int,
        value: int,
        *,
        type: int,
        expires_ns: int,
        hold_ms: int,
        model: int,
        note: bytes,
    ) -> int | None:
        """Queue one recommendation; its id, or None when the queue is full."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """One instance, as its extension is given it; a `Context` shows each under the same name.

    ``findings`` and ``reports`` are the kinds that the manifest declares.
    """

    module: str
    target: str
    params: Mapping[str, Value]
    features: Mapping[str, int]
    knobs: Mapping[str, KnobInfo]
    mode: str = "observe"
    model: int = 0
    memory: Any = None
    tables: Mapping[str, Table] = field(default_factory=dict)
    findings: Collection[str] = ()
    reports: Collection[str] = ()


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True, kw_only=True)
class Outlets:
    """Outlets for an extension's output, and its clock (seconds of CLOCK_MONOTONIC).

    ``keep`` takes the extension's memory, as JSON; ``hand_over`` takes messages for the owner:
    ``experiment``, ``finding``, ``cleared`` or ``report``, and JSON.
    """

    port: Port
    now: Callable[[], float] = time.monotonic
    write_log: Callable[[str], None] = _to_stderr
    keep: Callable[[bytes], None] = lambda text: None
    hand_over: Callable[[str, bytes], None] = lambda kind, text: None
