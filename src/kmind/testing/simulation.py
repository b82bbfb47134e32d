# SPDX-License-Identifier: Apache-2.0
"""A module on a simulated disk, in one process and in virtual time: minutes take seconds.

The extension, its dispatch, the rings and the admission are the real ones; the disk is
a model (`kmind.testing.simulate`), and the owner a short one that keeps only this
of the real one's promises: an approved value stands for its hold and is undone then.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from kmind.agent._base import Action, Grant, Kind, Mode, Verdict
from kmind.agent.sim import SimAgent, SimDoorbell
from kmind.extension import Context, Dispatcher, KnobInfo, Value, find_module, parse_parameters
from kmind.knobs import get_knob
from kmind.queue import Endpoint
from kmind.runtime.changes import CANARY_HOLD_S
from kmind.testing._rig import loaded
from kmind.testing.simulate import DiskModel, SimulatedDisk, make_disk_files
from kmind.testing.streams import Stream

__all__ = ["Change", "Simulation"]

_KNOB = "block.read_ahead_kb"
_START_S = 1000.0


@dataclass(frozen=True)
class Change:
    """A knob took a value at a virtual time, in seconds; ``kind`` says why."""

    time: float
    kind: str
    value: int
    rec_id: int


class Simulation:
    """A module bound to a simulated disk; a context manager.

    ``words`` are the module's parameters as ``name=value``. ``changes`` and ``verdicts``
    (name to count) tell what happened, ``value`` what the knob holds now.
    """

    def __init__(
        self,
        module: str = "readahead",
        *words: str,
        mode: Mode = Mode.AUTO,
        model: DiskModel | None = None,
        read_ahead_kb: int = 8192,
    ) -> None:
        self._open = ExitStack()
        folder = self._open.enter_context(tempfile.TemporaryDirectory(prefix="kmind-sim-"))
        self.changes: list[Change] = []
        self.verdicts: dict[str, int] = {}
        self.log: list[str] = []
        self.mode = mode
        self._baseline = read_ahead_kb
        self._held: tuple[float, int] | None = None  # until when, for which recommendation
        target = make_disk_files(Path(folder), read_ahead_kb=read_ahead_kb)
        found = find_module(module)
        features = found.manifest.features
        self.agent = SimAgent(
            gauges=[n for n, feature in enumerate(features) if feature.kind == "gauge"],
            realtime=False,
            now_ns=round(_START_S * 1e9),
        )
        self._open.callback(self.agent.close)
        self.disk = SimulatedDisk(self.agent, target, model, now=_START_S)
        self._knob = get_knob(_KNOB)
        self._grant()
        endpoint = Endpoint(self.agent.arena, SimDoorbell(self.agent.doorbell_fd))
        kind = self._open.enter_context(loaded(found))
        params: Mapping[str, Value] = parse_parameters(found.manifest, words)
        context = Context(
            module=found.manifest.name,
            target=target.name,
            params=params,
            features=found.manifest.columns,
            knobs={_KNOB: self._info()},
            port=endpoint.cq,
            now=lambda: self.disk.now,
            write_log=self.log.append,
        )
        self.agent.set_mode(mode)
        self._dispatcher = Dispatcher(endpoint, kind(context), context)
        self._dispatcher.start()
        self.agent.start()

    def __enter__(self) -> Simulation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the agent and the folder; safe to repeat."""
        self._open.close()

    @property
    def value(self) -> int:
        """What the knob holds now, in kB."""
        return int(self._knob.read(self.disk.target))

    def run(self, stream: Stream, seconds: float, *, mapped: bool) -> float:
        """Serve a stream for so many virtual seconds, the module watching; accesses a second."""
        return self.disk.run(stream, seconds, mapped=mapped, each_tick=self._turn)

    def _turn(self) -> None:
        # The extension's turn, then the owner's.
        self._dispatcher.step(0)
        for action in self.agent.poll(0):
            if action.verdict is not None:
                self._take(action)
        if self._held and self.disk.now >= self._held[0]:
            rec_id, self._held = self._held[1], None
            self._set("undone", self._baseline, rec_id)

    def _take(self, action: Action) -> None:
        verdict = Verdict(action.verdict or 0)
        name = verdict.name.lower()
        self.verdicts[name] = self.verdicts.get(name, 0) + 1
        until = self.disk.now + action.hold_ms / 1000
        if verdict == Verdict["APPROVED"]:
            if self.mode == Mode.CANARY:
                until = min(until, self.disk.now + CANARY_HOLD_S)
            self._held = until, action.id
            self._set("applied", action.value, action.id)
        elif verdict == Verdict["RENEWED"] and self._held and self.mode == Mode.AUTO:
            self._held = max(until, self._held[0]), action.id

    def _set(self, kind: str, value: int, rec_id: int) -> None:
        # Not Knob.write: a plain file, unlike sysfs, keeps the rest of a longer value.
        self._knob.file(self.disk.target).write_text(f"{self._knob.format(value)}\n")
        self.changes.append(Change(self.disk.now, kind, value, rec_id))
        self.agent.set_current(self._knob.id, self.disk.target.id, value)
        self.agent.notify(Kind[kind.upper()], rec_id, value)

    def _grant(self) -> None:
        low, high = self._knob.limits(self.disk.target)
        grant = Grant(low, high, self._baseline, grid=self._knob.grid)
        self.agent.grant(self._knob.id, self.disk.target.id, grant)

    def _info(self) -> KnobInfo:
        low, high = self._knob.limits(self.disk.target)
        return KnobInfo(
            name=_KNOB,
            id=self._knob.id,
            kind=self._knob.kind,
            unit=self._knob.unit,
            minimum=low,
            maximum=high,
            grid=self._knob.grid,
            choices=(),
            target_id=self.disk.target.id,
            baseline=self._baseline,
        )
