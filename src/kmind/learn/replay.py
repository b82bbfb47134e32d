# SPDX-License-Identifier: Apache-2.0
"""A recording in the place of a kernel: the module's own code, fed the same stream again.

Needs no root, and no kernel like the recorded one. The module's dispatch, rings' ends and
the agent's admission are the real ones; time is the recording's. Nothing that the module
recommends has an effect on what comes next, so it runs in mode advise. The same input,
parameters and seed give the same report, byte for byte.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from kmind.abi import layout
from kmind.agent.sim.agent import SimAgent, SimDoorbell
from kmind.agent.types import Action, Mode
from kmind.errors import RecordingError
from kmind.extension import Context, Dispatcher, Extension, Given, KnobInfo, Module, Outlets, Value
from kmind.extension.discovery.loader import load_extension
from kmind.extension.manifest.manifest import TablePart
from kmind.learn._tables import ReplayedTable
from kmind.learn.recording import Recording
from kmind.learn.schema import KNOB_UNKNOWN
from kmind.queue import Endpoint

__all__ = ["Recommended", "Replay", "load_class"]

_Array = npt.NDArray[Any]

_FOREVER_S = 1e9
_NS = 1_000_000_000


@dataclass(frozen=True)
class Recommended:
    """Recommendation that the module would have made, with the agent's verdict.

    ``time_s`` is since the first window began; ``reason`` and ``evidence`` are the module's.
    """

    time_s: float
    id: int
    knob: str
    value: int | str
    current: int | str
    verdict: str
    reason: str
    evidence: Mapping[str, Any]
    hold_s: float


@dataclass
class Replay:
    """One recording through one module; ``run`` once.

    ``handed_over`` is what the module found or filed: ``time_s`` since the first window, ``what``
    it is (``finding``, ``cleared``, ``report``, ``experiment``) and the ``note`` itself.

    Raises RecordingError if the recording is of another module or other features.
    """

    recording: Recording
    module: Module
    params: Mapping[str, Value]
    seed: int = 0
    real_time: bool = False
    extension_class: type[Extension] | None = None
    windows: int = 0
    records: int = 0
    recommended: list[Recommended] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    handed_over: list[dict[str, Any]] = field(default_factory=list)
    status: dict[str, Any] = field(default_factory=dict)
    span_s: float = 0.0

    def run(self, tell: Callable[[Recommended], None] = lambda recommended: None) -> None:
        """Feed all of it; ``tell`` is called for each recommendation as it comes."""
        manifest, meta = self.module.manifest, self.recording.meta
        if why := meta.refuses(manifest):
            raise RecordingError(f"the recording does not fit {manifest.name}: {why}")
        steps = _steps(self.recording)
        first = next(steps, None)
        if first is None:
            raise RecordingError("the recording has no windows", hint="record for longer")
        begin_ns = int(first.window["start_ns"][0]) if len(first.window) else first.now_ns
        end = _End(begin_ns, self.recording)
        try:
            self._run(end, begin_ns, first, steps, tell)
        finally:
            end.agent.close()

    def _run(
        self,
        end: _End,
        begin_ns: int,
        first: _Step,
        steps: Iterator[_Step],
        tell: Callable[[Recommended], None],
    ) -> None:
        meta = self.recording.meta
        for granted in meta.grants:
            end.agent.admission.grant(granted.knob, granted.target, granted.grant)
        end.agent.set_mode(Mode.ADVISE)
        stood = _first_known(first.knobs, meta.knobs)
        for info in stood.values():
            end.agent.admission.set_current(info.id, info.target_id, info.encode(info.baseline))
        kind = self.extension_class or load_class(self.module)
        context = Context(
            Given(
                module=meta.module,
                target=meta.target,
                params=self.params,
                features=meta.columns,
                knobs=stood,
                mode="advise",
                tables=end.tables,
                findings=[part.name for part in self.module.manifest.findings],
                reports=[part.name for part in self.module.manifest.reports],
            ),
            Outlets(
                port=end.cq,
                now=lambda: end.now_ns / _NS,
                write_log=self.log.append,
                hand_over=lambda what, note: self.handed_over.append(
                    {
                        "time_s": round((end.now_ns - begin_ns) / _NS, 6),
                        "what": what,
                        "note": msgspec.json.decode(note),
                    }
                ),
            ),
        )
        context.rng = np.random.default_rng(self.seed)
        dispatcher = Dispatcher(end, kind(context), context)
        dispatcher.start()
        end.agent.start()
        knobs = list(meta.knobs.values())
        started = time.monotonic()
        step: _Step | None = first
        while step is not None:
            if self.real_time:
                time.sleep(max(0.0, (step.now_ns - begin_ns) / _NS - (time.monotonic() - started)))
            for n, value in enumerate(step.knobs):
                if value != KNOB_UNKNOWN:
                    end.agent.admission.set_current(knobs[n].id, knobs[n].target_id, int(value))
            end.load(step)
            dispatcher.step(0)
            self.windows += len(step.window)
            self.records += step.rows
            for action in end.answer():
                recommended = self._made(action, begin_ns)
                self.recommended.append(recommended)
                tell(recommended)
            self.span_s = (end.now_ns - begin_ns) / _NS
            step = next(steps, None)
        dispatcher.step(0)  # the last verdicts
        self.status = end.status

    def _made(self, action: Action, begin_ns: int) -> Recommended:
        knobs = {info.id: info for info in self.recording.meta.knobs.values()}
        info = knobs[action.knob]
        note = msgspec.json.decode(action.note)
        assert action.verdict is not None
        return Recommended(
            time_s=round((action.time_ns - begin_ns) / _NS, 6),
            id=action.id,
            knob=info.name,
            value=info.decode(action.value),
            current=info.decode(action.current),
            verdict=action.verdict.name.lower(),
            reason=note["reason"],
            evidence=note["evidence"],
            hold_s=action.hold_ms / 1000,
        )


def _first_known(values: _Array, knobs: Mapping[str, KnobInfo]) -> dict[str, KnobInfo]:
    # The baseline is the value when the recording began.
    found = dict(knobs)
    for value, (name, info) in zip(values.tolist(), knobs.items(), strict=False):
        if value != KNOB_UNKNOWN:
            found[name] = replace(info, baseline=info.decode(value))
    return found


def load_class(module: Module) -> type[Extension]:
    """The module's extension class, imported from its folder: runs the module's code."""
    manifest = module.manifest
    return load_extension(
        module.package, str(module.folder), module.sources(), manifest.extension.entry
    )


@dataclass(frozen=True)
class _Step:
    # Inputs of one turn of the dispatcher: records by CPU, then at most one window, of that
    # number.
    number: int
    now_ns: int
    records: Sequence[_Array]
    window: _Array
    knobs: _Array
    rows: int


class _Ring:
    # The extension's reader of one ring.

    def __init__(self) -> None:
        self.rows: _Array = np.zeros(0, layout.RECORD)

    def peek(self) -> _Array:
        return self.rows

    def release(self, count: int, /) -> None:
        self.rows = self.rows[count:]


class _Rows:
    # One table of the recording: what is known of it up to a window.

    def __init__(self, recording: Recording, part: TablePart) -> None:
        self.name = part.name
        self._replayed = ReplayedTable(part)
        self.table = self._replayed.table
        self._batches = recording.tables(part.name)
        self._rows: _Array | None = next(self._batches, None)

    def apply_until(self, number: int) -> None:
        while self._rows is not None:
            at = self._rows["at"]
            # In order, as they were written; what comes out of order waits with what is before.
            count = int(np.argmax(at > number)) if (at > number).any() else len(at)
            self._replayed.apply(self._rows[:count])
            if count < len(at):
                self._rows = self._rows[count:]
                return
            self._rows = next(self._batches, None)


class _End:
    """`kmind.extension.End`: streams from a recording, verdicts of a simulated agent."""

    def __init__(self, now_ns: int, recording: Recording) -> None:
        self.now_ns = now_ns
        self._tables = [_Rows(recording, part) for part in recording.meta.tables]
        self.tables = {rows.name: rows.table for rows in self._tables}
        self.agent = SimAgent(realtime=False, now_ns=now_ns, deadline_s=_FOREVER_S)
        self._endpoint = Endpoint(self.agent.arena, SimDoorbell(self.agent.doorbell_fd))
        self.cq = self._endpoint.cq
        self.windows = _Ring()
        self.records: list[_Ring] = []
        self.status: dict[str, Any] = {}

    @property
    def mode(self) -> int:
        return self._endpoint.mode

    def beat(self) -> None:
        self._endpoint.beat()

    def wait(self, timeout_s: float, /) -> bool:
        return True

    def set_status(self, text: bytes, /) -> None:
        self.status = msgspec.json.decode(text)

    def load(self, step: _Step) -> None:
        self.now_ns = step.now_ns
        for table in self._tables:
            table.apply_until(step.number)
        while len(self.records) < len(step.records):
            self.records.append(_Ring())
        for ring, rows in zip(self.records, step.records, strict=False):
            ring.rows = rows
        self.windows.rows = step.window

    def answer(self) -> list[Action]:
        # The tick after it: so verdicts reach the extension with the next window.
        self.agent.step(self.now_ns)
        return [action for action in self.agent.poll(0) if action.kind == "verdict"]


_NO_RECORDS = np.zeros(0, layout.RECORD)
_NO_WINDOW = np.zeros(0, layout.WINDOW)
_NO_KNOBS = np.zeros(0, np.int64)


def _steps(recording: Recording) -> Iterator[_Step]:
    """The two streams in the order in which they came."""
    groups = _groups(recording)
    held = next(groups, None)
    now_ns = 0
    for numbers, windows, knobs in recording.windows():
        ends = windows["end_ns"].tolist()
        for n, number in enumerate(numbers.tolist()):
            while held is not None and held[0] < number:  # its window is not on record
                yield _Step(held[0], now_ns or ends[n], held[1], _NO_WINDOW, _NO_KNOBS, held[2])
                held = next(groups, None)
            now_ns = ends[n]
            records: Sequence[_Array] = ()
            count = 0
            if held is not None and held[0] == number:
                _, records, count = held
                held = next(groups, None)
            yield _Step(number, now_ns, records, windows[n : n + 1], knobs[n], count)
    while held is not None:
        yield _Step(held[0], now_ns, held[1], _NO_WINDOW, _NO_KNOBS, held[2])
        held = next(groups, None)


def _groups(recording: Recording) -> Iterator[tuple[int, Sequence[_Array], int]]:
    """Number of the window that followed, records by CPU (lists of views), their count."""
    waiting: list[_Array] = []
    last = -1
    for at, batch in recording.records():
        cuts = [0, *(np.flatnonzero(at[1:] != at[:-1]) + 1).tolist(), len(at)]
        for begin, end in itertools.pairwise(cuts):
            if waiting and last != at[begin]:
                yield last, *_by_cpu(waiting)
                waiting = []
            last = int(at[begin])
            waiting.append(batch[begin:end])
    if waiting:
        yield last, *_by_cpu(waiting)


def _by_cpu(parts: list[_Array]) -> tuple[Sequence[_Array], int]:
    records = parts[0] if len(parts) == 1 else np.concatenate(parts)
    cpus = records["cpu"]
    changed = cpus[1:] != cpus[:-1]
    if (cpus[1:] < cpus[:-1]).any():
        records = records[np.argsort(cpus, kind="stable")]
        cpus = records["cpu"]
        changed = cpus[1:] != cpus[:-1]
    cuts = [0, *(np.flatnonzero(changed) + 1).tolist(), len(records)]
    found: list[_Array] = [_NO_RECORDS] * (int(cpus[-1]) + 1)
    for begin, end in itertools.pairwise(cuts):
        found[int(cpus[begin])] = records[begin:end]
    return found, len(records)
