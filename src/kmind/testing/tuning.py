# SPDX-License-Identifier: Apache-2.0
"""A made-up machine for autotune: knobs, an objective that depends on them, time of its own.

It stands in for agent and owner: each recommendation is answered and applied a moment
later, holds end, windows and readings come every half second of a clock that nobody waits
for. What runs on it is simulated, and has to be called so.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from kmind.abi import layout
from kmind.extension import (
    ChangeEvent,
    Context,
    Given,
    KnobInfo,
    ObjectiveEvent,
    Outlets,
    VerdictEvent,
    find_module,
    parse_parameters,
)
from kmind.knobs import get_knob
from kmind.modules.autotune.extension import Autotune

__all__ = ["EVERY", "World", "Worth", "knob"]

EVERY = 0.5
"""Seconds between two readings, and the length of a window."""

Worth = Callable[[Mapping[str, Any]], float]
"""Objective as a function of the knobs' values; noise is added to it."""


def knob(name: str, number: int, baseline: int | str, **bounds: int) -> KnobInfo:
    """A knob as an extension gets it, with kmind's own bounds, or ``minimum`` and ``maximum``."""
    record = get_knob(name)
    enum = record.kind == "enum"
    return KnobInfo(
        name=name,
        id=number,
        kind=record.kind,
        unit=record.unit,
        minimum=0 if enum else bounds.get("minimum", record.minimum),
        maximum=len(record.choices) - 1 if enum else bounds.get("maximum", record.maximum),
        grid=record.grid,
        choices=record.choices,
        target_id=0,
        baseline=baseline,
        settle=record.settle,
    )


class World:
    """One instance of autotune on a made-up machine, whose ``knobs`` hold these values.

    ``noise`` is the standard deviation of the objective's logarithm; ``words`` are parameters of
    the module, such as ``better``, by default "higher". ``load`` (counters a
    second), ``gap`` (why there is no reading), ``dead`` (nothing comes at all) and
    ``answer`` (a verdict by knob and value) may be set at any time. ``stands`` is what the
    knobs hold, ``history`` when they were changed, ``kept`` what was remembered, ``reports``
    what was reported of experiments, and ``lines`` the log.
    """

    def __init__(
        self,
        worth: Worth,
        knobs: Mapping[str, int | str],
        *,
        noise: float = 0.03,
        seed: int = 1,
        mode: str = "auto",
        memory: Any = None,
        **words: object,
    ) -> None:
        self.worth = worth
        self.noise = noise
        self.now = 1000.0
        self.gap = ""
        self.load = {"requests": 2000, "reads": 1000, "flushes": 0, "reclaims": 0}
        self.answer: Callable[[str, int | str], str] = lambda name, value: "approved"
        self.lines: list[str] = []
        self.kept: list[Any] = []
        self.reports: list[bytes] = []
        self.history: list[tuple[float, dict[str, Any]]] = []
        self.infos = {n: knob(n, i, v) for i, (n, v) in enumerate(knobs.items(), 1)}
        self.stands: dict[str, Any] = dict(knobs)
        self.dead = False
        self._rng = np.random.default_rng(seed)
        self._ids = itertools.count(1)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._ends: dict[str, tuple[float, int]] = {}
        self._last = self.now
        manifest = find_module("autotune").manifest
        values: dict[str, object] = {
            "objective": "command:/bin/true",
            "knobs": ",".join(knobs),
            "better": "higher",
        }
        values |= {"every": EVERY, "seed": seed, "recheck": 86400} | words
        params = parse_parameters(manifest, [f"{k}={v}" for k, v in values.items()])
        self.context = Context(
            Given(
                module="autotune",
                target="system",
                params=params,
                features=manifest.columns,
                knobs=self.infos,
                mode=mode,
                memory=memory,
            ),
            Outlets(
                port=self,
                now=lambda: self.now,
                write_log=self.lines.append,
                keep=lambda text: self.kept.append(msgspec.json.decode(text)),
                hand_over=lambda kind, text: self.reports.append(text),
            ),
        )
        self.extension = Autotune(self.context)
        self.extension.start()

    # The port

    def submit(self, knob: int, target: int, value: int, **words: Any) -> int:
        """Take a recommendation, as ``kmind.extension.Port`` does; its id."""
        number = next(self._ids)
        info = next(info for info in self.infos.values() if info.id == knob)
        verdict = self.answer(info.name, info.decode(value))
        if verdict == "approved" and self.context.mode == "advise":
            verdict = "advised"
        elif verdict == "approved" and info.encode(self.stands[info.name]) == value:
            verdict = "renewed"
        self._at(0.01, lambda: self._answer(info, number, value, verdict, words["hold_ms"] / 1000))
        return number

    def _answer(self, info: KnobInfo, number: int, value: int, verdict: str, hold: float) -> None:
        code = info.decode(value)
        self.extension.on_verdict(VerdictEvent(number, verdict, info.name, code))
        if verdict in ("approved", "renewed"):
            self._ends[info.name] = self.now + hold, number
        if verdict == "approved":
            self.stands[info.name] = code
            self.history.append((self.now, dict(self.stands)))
            self._at(0.02, lambda: self.change("applied", info.name, number))

    def change(self, kind: Any, name: str, number: int = 0) -> None:
        """Tell that a knob was set, or set back."""
        if kind == "yielded":
            self._ends.pop(name, None)
        self.extension.on_change(ChangeEvent(kind, number, name, self.stands[name]))

    def _at(self, delay: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._ids), what))

    # Time

    def run(self, seconds: float) -> World:
        """Let so much time go by."""
        until = self.now + seconds
        while self.now < until:
            step = min(until, self._last + EVERY)
            if self._events and self._events[0][0] <= step:
                self.now, _, what = heapq.heappop(self._events)
                what()
                continue
            self.now = step
            if self.now >= self._last + EVERY - 1e-9:
                self._tick()
        return self

    def _tick(self) -> None:
        start, self._last = self._last, self.now
        for name, (end, number) in list(self._ends.items()):
            if self.now >= end:
                del self._ends[name]
                self.stands[name] = self.infos[name].baseline
                self.change("undone", name, number)
        window = np.zeros(1, layout.WINDOW)
        window["start_ns"], window["end_ns"] = int(start * 1e9), int(self.now * 1e9)
        for name, rate in self.load.items():
            window["value"][0, self.context.features[name]] = int(rate * EVERY)
        self.extension.on_windows(window)
        if self.dead:
            return
        if self.gap:
            event = ObjectiveEvent(None, start, self.now, self.gap)  # type: ignore[arg-type]
        else:
            value = self.worth(self.stands) * math.exp(self.noise * self._rng.standard_normal())
            event = ObjectiveEvent(value, start, self.now)
        self.extension.on_objective(event)

    @property
    def status(self) -> Mapping[str, Any]:
        """Return the extension's status."""
        return self.extension.status()
