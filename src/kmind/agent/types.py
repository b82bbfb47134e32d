# SPDX-License-Identifier: Apache-2.0
"""Records and enumerations that both backends of an agent use.

``kernel`` is the real thing: eBPF programs in the running kernel. ``sim`` does the
same in Python over anonymous memory, so that a module can be written and
tested without root. One agent serves one instance. Its owner (the daemon, or
``kmind run``) is trusted and single-threaded; the extension is neither.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from kmind.abi.enums import Cause, Kind, Mode, Verdict

__all__ = ["Action", "Cause", "Grant", "Kind", "Mode", "ModelUse", "Rule", "Shape", "Verdict"]


@dataclass(frozen=True)
class Rule:
    """A rule over two knobs of one target: ``value op other + offset``."""

    op: Literal["<", "<=", ">", ">="]
    knob: int
    offset: int = 0


@dataclass(frozen=True)
class Grant:
    """Permission of an instance to set one knob on one target.

    Values are as the knob encodes them: integers, or indices into its choices. ``step_percent``
    bounds the ratio of new to old either way (400: four times); ``interval_ns`` and ``burst`` are
    the rate limit; 0 means unbounded. ``priority`` (0 to 255) is that of the lease: a higher one
    takes it over from a lower. ``hold_ms`` is the longest hold that may be requested, and so the
    longest time a lease may last.
    """

    minimum: int
    maximum: int
    current: int
    type: Literal["int", "enum"] = "int"
    step: int = 0
    step_percent: int = 0
    grid: int = 0
    choices: int = 0
    interval_ns: int = 0
    burst: int = 1
    rules: tuple[Rule, ...] = field(default=())
    priority: int = 100
    hold_ms: int = 0


class Shape(StrEnum):
    """The kind of map that an agent in the kernel shares with its extension.

    A BPF arena, or an array map where the kernel has no arenas.
    """

    ARENA = "arena"
    ARRAY = "array"


@dataclass(frozen=True)
class ModelUse:
    """Use of models by an agent: the features they take, and their time limit.

    ``schema`` is the hash of the features (32 bytes, `kmind.infer.features.schema_hash`).
    """

    schema: bytes
    budget_ns: int


@dataclass(frozen=True)
class Action:
    """Message of the agent to its owner: a verdict on a recommendation, or a new mode.

    ``note`` holds the extension's own note on it (untrusted bytes, at most 1,024). ``cause`` is set
    for a mode, ``verdict`` for a recommendation. ``instance`` is the slot that it is about,
    ``holder`` the slot that holds the knob's lease now, ``previous`` the one that it was taken
    from, whose change may still be in place; 0 is none.
    """

    kind: Literal["verdict", "mode"]
    time_ns: int
    mode: Mode
    verdict: Verdict | None = None
    cause: Cause | None = None
    id: int = 0
    knob: int = 0
    target: int = 0
    value: int = 0
    current: int = 0
    hold_ms: int = 0
    model: int = 0
    note: bytes = b""
    instance: int = 0
    holder: int = 0
    previous: int = 0
