# SPDX-License-Identifier: Apache-2.0
"""Feeds the readahead extension windows made by hand, and plays the agent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from kmind.abi import layout
from kmind.extension import (
    ChangeEvent,
    Context,
    Given,
    KnobInfo,
    Outlets,
    VerdictEvent,
    find_module,
)
from kmind.modules.readahead.extension import Readahead

KNOB = "block.read_ahead_kb"
FEATURES = {
    feature.name: index for index, feature in enumerate(find_module("readahead").manifest.features)
}
WINDOW_S = 0.1


def window(start_s: float, seq: int, **values: float) -> np.ndarray[Any, Any]:
    """One window of 100 ms; features not named are 0."""
    made = np.zeros(1, layout.WINDOW)
    made["start_ns"] = int(start_s * 1e9)
    made["end_ns"] = int((start_s + WINDOW_S) * 1e9)
    made["seq"] = seq
    for name, value in {"memory_left": 1 << 30, "cgroup_left": 1 << 40, **values}.items():
        made["value"][0, FEATURES[name]] = int(value)
    return made


def at_random(
    requests: float, kb: int, *, uncached: int = 1 << 20, left: int = 0
) -> dict[str, Any]:
    """Features of 100 ms of mmap reads at random, each a miss that brings in ``kb``."""
    pages = requests * kb / 4
    return {
        "faults": requests,
        "fault_misses": requests,
        "added_pages": pages,
        "removed_pages": pages if not left else 0,
        "strides": requests,
        "stride_pages": requests * 3e5,
        "stride_spread": requests * 4e5,
        "file_pages": uncached,
        "cgroup_left": left,
        "device_reads": requests,
        "device_bytes": pages * 4096,
        "device_ns": requests * 1e5,
    }


def in_order(pages: float) -> dict[str, Any]:
    """Features of 100 ms of buffered reads in order."""
    return {
        "reads": pages,
        "read_pages": pages,
        "read_sequential": pages,
        "read_misses": 1,
        "added_pages": pages,
        "removed_pages": pages,
        "async_readahead": pages / 512,
        "file_pages": 1 << 20,
        "device_reads": pages / 256,
        "device_bytes": pages * 4096,
        "device_ns": 1e7,
    }


class Bench:
    """The extension, a clock, an agent that answers as ``verdict`` says, and its owner.

    The owner measures what is approved for ``takes_s`` seconds, and keeps what ``gains`` says, as
    (value before, value). ``owner`` is "measures", "remembers" or "canary".
    """

    def __init__(
        self,
        mode: str = "auto",
        verdict: str = "approved",
        gains: set[tuple[int, int]] | None = None,
        owner: str = "measures",
        memory: Any = None,
        takes_s: float = 1.0,
        baseline: int = 8192,
        **params: Any,
    ) -> None:
        self.now = 100.0
        self.value = self._baseline = baseline
        self.verdict = verdict
        self.gains = gains if gains is not None else {(8192, 16)}
        self.owner = owner
        self.made: list[dict[str, Any]] = []
        self.memory = memory
        self.log: list[str] = []
        self._takes_s = takes_s
        self._trial: tuple[int, int, float] | None = None
        self._ends = 0.0
        manifest = find_module("readahead").manifest
        defaults = {p.name: p.default for p in manifest.parameters}
        info = KnobInfo(KNOB, 1, "int", "KiB", 0, 16384, 4, (), 2, baseline)
        self.context = Context(
            Given(
                module="readahead",
                target="vda",
                params={**defaults, **params},
                features=FEATURES,
                knobs={KNOB: info},
                mode=mode,
                memory=memory,
            ),
            Outlets(port=self, now=lambda: self.now, write_log=self.log.append, keep=self._keep),
        )
        self.extension = Readahead(self.context)
        self.extension.start()
        self._seq = 0
        self._due: list[tuple[int, int]] = []

    def submit(self, knob: int, target: int, value: int, **words: Any) -> int:
        """Take a recommendation."""
        self.made.append({"value": value, "time": self.now, **words})
        self._due.append((len(self.made), value))
        return len(self.made)

    def _keep(self, text: bytes) -> None:
        self.memory = json.loads(text)

    def first(self, value: int) -> int:
        """Number of the first recommendation of a value."""
        return next(n for n, each in enumerate(self.made) if each["value"] == value)

    def feed(self, count: int, **values: float) -> None:
        """So many windows with these features; what is recommended is answered in between."""
        for _ in range(count):
            made = window(self.now, self._seq, **values)
            self._seq += 1
            self.now += WINDOW_S
            self.extension.on_windows(made)
            self.answer()

    def answer(self) -> None:
        """Give the verdicts that are due, and go on with what is measured."""
        due, self._due = self._due, []
        for rec_id, value in due:
            stands = self._trial[1] if self._trial else self.value
            same = self.verdict == "approved" and value == stands
            answer = "renewed" if same else self.verdict
            self.extension.on_verdict(VerdictEvent(rec_id, answer, KNOB, value))
            if answer in ("approved", "renewed"):
                self._ends = self.now + self.made[rec_id - 1]["hold_ms"] / 1000
            if answer == "approved":
                self._approved(rec_id, value)
        if self._trial and self.now >= self._trial[2]:
            self._conclude(*self._trial[:2])
        if (self._trial or self.value != self._baseline) and self.now >= self._ends:
            self._trial, self.value = None, self._baseline
            self.tell("undone", len(self.made), self._baseline)

    def _approved(self, rec_id: int, value: int) -> None:
        self._trial = None
        if value == self._baseline:
            self.value = value
            self.tell("undone", rec_id, value)
        elif self.owner == "remembers":
            self.value = value
            self.tell("applied", rec_id, value)
        else:
            self._trial = (rec_id, value, self.now + self._takes_s)

    def _conclude(self, rec_id: int, value: int) -> None:
        self._trial = None
        gain = (self.value, value) in self.gains
        if gain and self.owner != "canary":
            self.value = value
            self.tell("kept", rec_id, value)
        else:
            self.tell("dropped", rec_id, value, "gain" if gain else "no change")

    def tell(self, kind: Any, rec_id: int, value: int, outcome: Any = "") -> None:
        """Say what became of a recommendation."""
        self.extension.on_change(ChangeEvent(kind, rec_id, KNOB, value, outcome))

    @property
    def proposed(self) -> list[int]:
        """Recommended values, in order, without renewals."""
        values = [each["value"] for each in self.made]
        return [v for n, v in enumerate(values) if n == 0 or v != values[n - 1]]

    def notes(self) -> list[dict[str, Any]]:
        """Reason and evidence of each recommendation."""
        return [json.loads(each["note"]) for each in self.made]

    def status(self) -> Mapping[str, Any]:
        """The extension's status."""
        return self.extension.status()
