# SPDX-License-Identifier: Apache-2.0
"""An extension on a bench: made-up windows go in, recommendations are kept and answered."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from kmind.abi import layout
from kmind.extension import (
    ChangeEvent,
    Context,
    Extension,
    Given,
    KnobInfo,
    Manifest,
    Module,
    Outlets,
    Value,
    VerdictEvent,
)
from kmind.extension.discovery.loader import load_extension
from kmind.extension.manifest.manifest import TablePart
from kmind.knobs import get_knob
from kmind.queue import Table

__all__ = ["SCRIPTS", "Bounds", "Made", "Rig", "Windows", "knobs_of", "loaded"]

WINDOW_S = 0.1
_START_S = 1000.0
_COUNT = 60  # windows in a script
_STEADY = 20  # scripts with steady features, each with others
_U64 = (1 << 64) - 1

Windows = npt.NDArray[np.void]

Bounds = Literal["from above", "from below", "narrow"]
"""A knob starts at its maximum, at its minimum, or at the maximum of a narrow range."""


@dataclass(frozen=True)
class Made:
    """One recommendation, with its note as JSON."""

    id: int
    time: float
    knob: int
    target: int
    value: int
    type: int
    hold_ms: int
    expires_ns: int
    note: Mapping[str, Any]


@contextlib.contextmanager
def loaded(module: Module) -> Iterator[type[Extension]]:
    """The module's class, freshly imported; the interpreter afterwards as it was."""
    names = [n for n in sys.modules if f"{n}.".startswith(f"{module.package}.")]
    before = {name: sys.modules.pop(name) for name in names}
    finders = list(sys.meta_path)
    try:
        sources = module.sources()
        entry = module.manifest.extension.entry
        yield load_extension(module.package, str(module.folder), sources, entry)
    finally:
        sys.meta_path[:] = finders
        for name in [n for n in sys.modules if f"{n}.".startswith(f"{module.package}.")]:
            del sys.modules[name]
        sys.modules.update(before)


def knobs_of(manifest: Manifest, bounds: Bounds) -> dict[str, KnobInfo]:
    """Return knobs as granted: with their own bounds, or with a tenth in the middle of them."""
    found = {}
    for number, use in enumerate(manifest.knobs, 1):
        knob = get_knob(use.name)
        low, high = knob.minimum, knob.maximum
        if knob.kind == "enum":
            low, high = 0, len(knob.choices) - 1
        elif bounds == "narrow":
            middle, part = (low + high) // 2, (high - low) // 20
            low, high = ((middle + side * part) // knob.grid * knob.grid for side in (-1, 1))
        stands = low if bounds == "from below" else high
        found[knob.name] = KnobInfo(
            name=knob.name,
            id=number,
            kind=knob.kind,
            unit=knob.unit,
            minimum=low,
            maximum=high,
            grid=knob.grid,
            choices=knob.choices,
            target_id=7,
            baseline=knob.choices[stands] if knob.kind == "enum" else stands,
        )
    return found


class Rig:
    """One extension with a clock of its own. Its recommendations land in ``made``.

    ``handed_over`` are its findings and reports: ``finding``, ``cleared`` or ``report``, and JSON.

    ``answers`` gives the verdict on each, in turn; an approved value is said to be
    applied, and to be undone when its hold ends.
    """

    def __init__(
        self,
        manifest: Manifest,
        kind: type[Extension],
        *,
        answers: Callable[[int], str] = lambda _: "approved",
        bounds: Bounds = "from above",
        mode: str = "auto",
        seed: int = 1,
    ) -> None:
        self.made: list[Made] = []
        self.said: list[str] = []
        self.handed_over: list[tuple[str, bytes]] = []
        self.now = _START_S
        self._answers = answers
        self._due: list[Made] = []
        self._ends: dict[int, tuple[float, Made]] = {}
        self._standing: dict[int, int] = {}
        self.knobs = knobs_of(manifest, bounds)
        self._by_id = {info.id: info for info in self.knobs.values()}
        self._rows = [_Rows(part) for part in manifest.tables]
        self.context = Context(
            Given(
                module=manifest.name,
                target="sim0",
                params=_defaults(manifest, seed),
                features=manifest.columns,
                knobs=self.knobs,
                mode=mode,
                tables={rows.name: rows.table for rows in self._rows},
                findings=[part.name for part in manifest.findings],
                reports=[part.name for part in manifest.reports],
            ),
            Outlets(
                port=self,
                now=lambda: self.now,
                write_log=self.said.append,
                hand_over=lambda kind, note: self.handed_over.append((kind, note)),
            ),
        )
        self.extension = kind(self.context)

    def submit(self, knob: int, target: int, value: int, **words: Any) -> int:
        """Take a recommendation: the rig is the context's port."""
        rec_id = len(self.made) + 1
        words["note"] = msgspec.json.decode(words["note"])
        words.pop("model")
        made = Made(rec_id, self.now, knob, target, value, **words)
        self.made.append(made)
        self._due.append(made)
        return rec_id

    def play(self, script: Callable[[int], Windows]) -> None:
        """Hand over windows, a few at a time, and answer in between.

        Tables are empty where windows are, and hold rows without sense else.
        """
        windows = script(len(self.context.features))
        for rows in self._rows:
            rows.fill(wild=bool(windows["value"].any()))
        windows["start_ns"] += np.uint64(self.now * 1e9)
        windows["end_ns"] += np.uint64(self.now * 1e9)
        size = 1
        while len(windows):
            batch, windows = windows[:size], windows[size:]
            self.now = max(self.now, int(batch["end_ns"][-1]) / 1e9) + 0.001
            batch.flags.writeable = False  # shared memory is not theirs to write
            self.extension.on_windows(batch)
            self.answer()
            size = size % 3 + 1

    def answer(self) -> None:
        """Give the verdicts that are due, and end what has been held long enough."""
        due, self._due = self._due, []
        for made in due:
            info = self._by_id[made.knob]
            verdict = self._answers(made.id)
            value = info.decode(made.value)
            if verdict == "approved" and self._value(made.knob) == made.value:
                verdict = "renewed"
            self.extension.on_verdict(VerdictEvent(made.id, verdict, info.name, value))
            if verdict in ("approved", "renewed"):
                self._ends[made.knob] = made.time + made.hold_ms / 1000, made
            if verdict == "approved":
                self._standing[made.knob] = made.value
                self.extension.on_change(ChangeEvent("applied", made.id, info.name, value))
        for knob, (end, made) in list(self._ends.items()):
            if self.now < end:
                continue
            del self._ends[knob]
            if self._standing.pop(knob, None) is not None:
                info = self._by_id[knob]
                self.extension.on_change(ChangeEvent("undone", made.id, info.name, info.baseline))

    def _value(self, knob: int) -> int:
        info = self._by_id[knob]
        return self._standing.get(knob, info.encode(info.baseline))


class _Rows:
    # One table, whose rows hold anything at all.

    def __init__(self, part: TablePart) -> None:
        self.name = part.name
        self._choose = np.random.default_rng(11)
        self._memory = np.zeros(part.shape.size, np.uint8)
        size = part.dtype.itemsize
        self._memory[:size] = np.frombuffer(part.shape.head(), np.uint8)
        self._rows = self._memory[size : (part.shape.places + 1) * size]
        self._states = self._rows.view(part.dtype)["row"]["state"]
        view = self._memory.view()
        view.flags.writeable = False
        self.table = Table(view, part.shape)

    def fill(self, *, wild: bool) -> None:
        self._rows[:] = 0
        if wild:
            self._rows[:] = self._choose.integers(0, 256, len(self._rows), np.uint8)
            states = list(layout.ROW_STATE.values())
            self._states[:] = self._choose.choice(states, len(self._states))


def _defaults(manifest: Manifest, seed: int) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for parameter in manifest.parameters:
        blank: dict[str, Value] = {"int": 1, "float": 1.0, "bool": False, "str": "x"}
        value = parameter.default
        if value is None:
            value = parameter.choices[0] if parameter.choices else blank[parameter.type]
            if parameter.minimum is not None:
                value = parameter.minimum
        values[parameter.name] = seed if parameter.name == "seed" else value
    return values


# Scripts: number of features -> windows.


def _windows(count: int) -> Windows:
    windows = np.zeros(count, layout.WINDOW)
    steps = (np.arange(count) * WINDOW_S * 1e9).astype(np.uint64)
    windows["seq"] = np.arange(count)
    windows["commit"] = windows["seq"] + 1
    windows["mode"] = layout.MODE["AUTO"]
    windows["start_ns"] = steps
    windows["end_ns"] = steps + np.uint64(WINDOW_S * 1e9)
    return windows


def _empty(features: int) -> Windows:
    return _windows(0)


def _zero(features: int) -> Windows:
    return _windows(_COUNT)


def _no_time(features: int) -> Windows:
    windows = _windows(_COUNT)
    windows["end_ns"] = windows["start_ns"]
    windows["value"][:, :features] = 5
    return windows


def _huge(features: int) -> Windows:
    made = _windows(_COUNT)
    made["value"][:, :features] = _U64
    made["value"][::3, :features] = 1 << 63
    return made


def _wild(features: int) -> Windows:
    # Each feature of any size, without any relation to another.
    choose = np.random.default_rng(7)
    made = _windows(_COUNT)
    sizes = choose.integers(0, 64, (_COUNT, features), dtype=np.uint64)
    values = choose.integers(0, _U64, (_COUNT, features), dtype=np.uint64, endpoint=True)
    made["value"][:, :features] = values >> sizes
    return made


def _gaps(features: int) -> Windows:
    # Windows were lost, for longer and longer; the numbers wrap around.
    windows = _steady(3)(features)
    lost = np.cumsum(np.arange(_COUNT) % 7 * 5).astype(np.uint64)
    windows["seq"] = (1 << 32) - 30 + np.arange(_COUNT) + lost
    windows["start_ns"] += lost * np.uint64(WINDOW_S * 1e9)
    windows["end_ns"] += lost * np.uint64(WINDOW_S * 1e9)
    windows["dropped"] = lost
    return windows


def _steady(seed: int) -> Callable[[int], Windows]:
    # A load that stays as it is, but for noise of a few percent.
    def script(features: int) -> Windows:
        choose = np.random.default_rng(seed)
        level = np.exp(choose.uniform(0, np.log(1e6), features))
        level[choose.random(features) < 0.3] = 0
        windows = _windows(_COUNT)
        noise = choose.normal(1, 0.03, (_COUNT, features)).clip(0.5, 1.5)
        windows["value"][:, :features] = (level * noise).astype(np.uint64)
        return windows

    return script


SCRIPTS: Mapping[str, Callable[[int], Windows]] = {
    "no windows": _empty,
    "windows of zeros": _zero,
    "windows that take no time": _no_time,
    "values near 2^64": _huge,
    "features without sense": _wild,
    "lost windows": _gaps,
    **{f"steady load {seed}": _steady(seed) for seed in range(_STEADY)},
}
"""Hard windows that every extension has to survive: name to windows for so many features."""
