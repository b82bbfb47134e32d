# SPDX-License-Identifier: Apache-2.0
"""Output of ``kmind run``: JSON lines, plain lines, or a live table."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kmind import events
from kmind.cli.output import Lines, is_live, json_line, plain
from kmind.events import Event
from kmind.runtime.instance.instance import Instance

__all__ = ["SCHEMA", "Report"]

SCHEMA = "kmind.run/1"

_LATEST = 6
_REFRESH_S = 0.25
# They stay above the live table.
_LASTING = (events.Start, events.Stop, events.Mode, events.Restored)


class Report:
    """Takes the events of one run. ``broken`` is set when nobody reads them any more.

    ``refused`` is the last reason why a knob was not set, or "".
    """

    def __init__(self, *, json: bool) -> None:
        self.instance: Instance | None = None
        self.refused = ""
        self._json = json
        self._lines = Lines(sys.stdout)
        self._live: Live | None = None
        self._latest: deque[str] = deque(maxlen=_LATEST)
        self._said: dict[tuple[str, Any], Any] = {}
        self._shown_at = 0.0
        if not json and is_live(sys.stdout):
            self._live = Live(console=Console(), auto_refresh=False, transient=True)

    @property
    def broken(self) -> bool:
        """True once the reader has closed the pipe."""
        return self._lines.broken

    def __enter__(self) -> Report:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.update("", refresh=True)
            self._live.stop()

    def emit(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, events.Failed) and event.tried:
            self.refused = event.why
        if self._json:
            lost = {"lost": self._lines.lost} if self._lines.lost else {}
            record = {"event": event.name, "time": time.time(), **event.fields(), **lost}
            if self._lines.write(json_line(SCHEMA, record)) and lost:
                self._lines.lost = 0
            return
        line = plain(event.text())
        if not line or self._is_repeated(event):
            return
        if self._live and isinstance(event, _LASTING):
            self._live.console.print(Text(line))
        elif self._live:
            self._latest.append(line)
        else:
            self._lines.write(line)

    def refresh(self) -> None:
        """Bring the live table up to date, a few times a second at most."""
        if not self._live or not self.instance or time.monotonic() < self._shown_at + _REFRESH_S:
            return
        self._shown_at = time.monotonic()
        self._live.update(self._table(self.instance), refresh=True)

    def _is_repeated(self, event: Event) -> bool:
        # These come again and again; in text they are worth a line only when they are new.
        if not isinstance(event, events.Verdict | events.Advice):
            return False
        key = event.name, event.knob
        # Of a value that stands, the reason is news: first it is tried, then kept.
        news = event.reason if event.verdict == "renewed" else ""
        what = event.verdict, event.value, news
        repeated = self._said.get(key) == what
        self._said[key] = what
        return repeated

    def _table(self, instance: Instance) -> Group:
        view = instance.view
        # Side by side, so that all of it fits on a screen of 24 lines.
        half = -(-len(view.features) // 2)
        features = list(view.features.items())
        left = Table(box=None, padding=(0, 1))
        for _ in range(2):
            left.add_column("feature")
            left.add_column("last window", justify="right")
        for row in range(half):
            cells = [cell for name, number in features[row::half] for cell in (name, f"{number:,}")]
            left.add_row(*cells)
        right = Table("what", "value", box=None, padding=(0, 1))
        right.add_row("instance", instance.name)
        right.add_row("mode", view.mode)
        for name, value in view.knobs.items():
            right.add_row(name, str(value))
        for name, shown in view.status.items():
            right.add_row(
                Text(name), Text(f"{shown:g}" if isinstance(shown, float) else f"{shown}")
            )
        for name, number in instance.account().items():
            if number and name != "heartbeat_ns":
                right.add_row(Text(name, style="dim"), Text(f"{number:,}", style="dim"))
        both = Table.grid(padding=(0, 2))
        both.add_row(left, right)
        return Group(both, "", *(Text(line) for line in self._latest))
