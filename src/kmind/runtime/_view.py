# SPDX-License-Identifier: Apache-2.0
"""Looking at what agent and extension show of themselves in the arena."""

from __future__ import annotations

from dataclasses import dataclass, field

from kmind.extension import Manifest
from kmind.extension import Value as Parameter
from kmind.knobs import Value
from kmind.queue import peek_windows, read_status, window_head
from kmind.runtime._owned import OwnedAgent
from kmind.runtime._text import parse_status
from kmind.runtime.changes import Emit

__all__ = ["View", "Watcher"]

_WINDOWS_AT_ONCE = 64


@dataclass
class View:
    """What a live display shows, beside the events: cheap to take."""

    features: dict[str, int] = field(default_factory=dict)
    status: dict[str, Parameter] = field(default_factory=dict)
    mode: str = ""
    knobs: dict[str, Value] = field(default_factory=dict)


class Watcher:
    """Tells of each window once, and keeps a ``View`` of the last one and of the status.

    ``seq`` is the number of the last window that was told, -1 before the first.
    """

    def __init__(
        self, who: str, manifest: Manifest, agent: OwnedAgent, view: View, emit: Emit
    ) -> None:
        self.seq = -1
        self._who = who
        self._columns = manifest.columns
        self._agent = agent
        self._view = view
        self._emit = emit
        self._status = b""
        self._head = -1

    def look(self) -> int:
        """Tell what is new; how many new windows there were."""
        arena, geometry = self._agent.arena, self._agent.geometry
        new = 0
        before, self._head = self._head, window_head(arena, geometry)
        waiting = (self._head - before) % (1 << 32) if before >= 0 else _WINDOWS_AT_ONCE
        for window in peek_windows(arena, geometry, min(waiting, _WINDOWS_AT_ONCE)):
            seq = int(window["seq"])
            if 0 <= (self.seq - seq) % (1 << 32) < 1 << 31 and self.seq >= 0:
                continue
            self.seq = seq
            new += 1
            values = window["value"].tolist()
            self._view.features = {name: values[c] for name, c in self._columns.items()}
            self._emit(
                "window",
                instance=self._who,
                seq=seq,
                end=int(window["end_ns"]) / 1e9,
                seconds=(int(window["end_ns"]) - int(window["start_ns"])) / 1e9,
                dropped=int(window["dropped"]),
                features=self._view.features,
            )
        status = read_status(arena, geometry)
        if status != self._status:
            self._status = status
            self._view.status = parse_status(status)
        return new
