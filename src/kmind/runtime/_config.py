# SPDX-License-Identifier: Apache-2.0
"""What the owner of an instance tells the extension's process, once, at its start."""

from __future__ import annotations

import msgspec

from kmind.extension import KnobInfo, Value

__all__ = ["ChildConfig"]


class ChildConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Sent as JSON through a pipe. ``uid`` None: privileges stay as they are.

    ``arena`` and ``doorbell`` are descriptors, ``address`` 0 means anywhere, and
    ``beat_s`` is the longest time between two heartbeats, in seconds.
    """

    package: str
    folder: str
    entry: str
    imports: tuple[str, ...]
    module: str
    target: str
    params: dict[str, Value]
    features: dict[str, int]
    knobs: dict[str, KnobInfo]
    arena: int
    address: int
    size: int
    doorbell: int
    beat_s: float
    uid: int | None
    parent: int
