# SPDX-License-Identifier: Apache-2.0
"""What ``kmind run`` shows: JSON lines, plain lines, or a live table."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kmind.cli.output import Lines, is_live, json_line, plain
from kmind.runtime.instance.instance import Instance

__all__ = ["SCHEMA", "Report", "describe"]

SCHEMA = "kmind.run/1"

_LATEST = 6
_REFRESH_S = 0.25
# These come again and again; in text they are worth a line only when they are new.
_REPEATED = ("verdict", "advice")


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
        """Whether the reader has gone."""
        return self._lines.broken

    def __enter__(self) -> Report:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.update("", refresh=True)
            self._live.stop()

    def emit(self, event: str, /, **fields: Any) -> None:
        """One event; see docs for the fields of each."""
        if event == "failed" and fields["tried"]:
            self.refused = str(fields["why"])
        if self._json:
            lost = {"lost": self._lines.lost} if self._lines.lost else {}
            record = {"event": event, "time": time.time(), **fields, **lost}
            if self._lines.write(json_line(SCHEMA, record)) and lost:
                self._lines.lost = 0
            return
        line = plain(describe(event, fields))
        if not line or self._is_repeated(event, fields):
            return
        if self._live and event in ("start", "stop", "mode", "restored"):
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

    def _is_repeated(self, event: str, fields: Mapping[str, Any]) -> bool:
        if event not in _REPEATED:
            return False
        key = event, fields["knob"]
        # Of a value that stands, the reason is news: first it is tried, then kept.
        news = fields["reason"] if fields["verdict"] == "renewed" else ""
        what = fields["verdict"], fields["value"], news
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


def describe(event: str, fields: Mapping[str, Any]) -> str:
    """An event in one line of words, or "" where it is not worth one."""
    what = f"{fields.get('knob')} {fields.get('current')} -> {fields.get('value')}"
    match event:
        case "start":
            uid = fields["extension"]["uid"]
            who = "with your privileges" if uid is None else f"as uid {uid}, without privileges"
            return (
                f"{fields['instance']}: watching, mode {fields['mode']}; "
                f"its extension runs {who}; Ctrl-C puts everything back"
            )
        case "verdict" if fields["verdict"] not in ("advised", "approved"):
            return f"#{fields['id']} {what}: {fields['verdict']}. {fields['reason']}"
        case "advice":
            return (
                f"#{fields['id']} advises {what}. {fields['reason']} To do so: {fields['command']}"
            )
        case "applied":
            return (
                f"#{fields['id']} set {fields['knob']} {fields['old']} -> {fields['value']} "
                f"for {fields['hold_s']:g} s. {fields['reason']}"
                + (f" ({fields['measured']})" if fields.get("measured") else "")
            )
        case "experiment":
            return _describe_experiment(fields)
        case "result":
            return _describe_result(fields)
        case "kept":
            return (
                f"#{fields['id']} keeps {fields['knob']} {fields['old']} -> {fields['value']}, "
                f"while it is recommended. {fields['reason']}"
            )
        case "undone":
            return (
                f"#{fields['id']} set {fields['knob']} back {fields['old']} -> {fields['value']}: "
                f"{fields['why']}"
            )
        case "yielded":
            return f"yields: {fields['message']}"
        case "failed":
            return f"#{fields['id']} {fields['knob']} is as it was: {fields['why']}"
        case "mode":
            return f"{fields['instance']}: mode {fields['mode']}: {fields['why']}"
        case "log":
            return f"[{fields['source']}] {fields['message']}"
        case "restored":
            return f"put back from an earlier run: {fields['knob']} of {fields['target']}: " + (
                f"{fields['found']} -> {fields['value']}"
            )
        case "stop":
            return _describe_stop(fields)
    return ""


def _describe_stop(fields: Mapping[str, Any]) -> str:
    if not fields["changes"]:
        return f"{fields['instance']}: stopped; nothing was changed"
    parts = []
    for change in fields["changes"]:
        values = [change["baseline"], *change["values"]]
        steps = " -> ".join(str(value) for value in values[:6]) + (" ..." if values[6:] else "")
        holds = f"holds {change['now']}"
        if change["gone"]:
            parts.append(f"{change['knob']} {steps}, gone with {change['target']}")
            continue
        if change["now"] == change["baseline"]:
            holds += " again"
        elif change["yielded"]:
            holds += ", set by somebody else"
        else:
            holds += " still: run kmind restore"
        parts.append(f"{change['knob']} {steps}, {holds} (check: {change['check']})")
    return f"{fields['instance']}: stopped; changed " + "; ".join(parts)


def _describe_experiment(fields: Mapping[str, Any]) -> str:
    said = fields["detectable"]
    finds = "" if said is None else f"; a gain of {100 * (said - 1):.2g}% would be seen"
    again = " once more" if fields["kind"] == "recheck" else ""
    return (
        f"experiment {fields['experiment']} measures{again} {fields['knob']} "
        f"{fields['candidate']} against {fields['incumbent']} by {fields['metric']}, "
        f"for {fields['max_s']:g} s at most{finds}. {fields.get('reason', '')}"
    ).rstrip()


def _describe_result(fields: Mapping[str, Any]) -> str:
    what = f"{fields['knob']} {fields['candidate']} against {fields['incumbent']}"
    return (
        f"experiment {fields['experiment']}: {what}: {fields['outcome']}, {fields['why']}; "
        f"see: kmind why {fields['experiment']}"
    )
