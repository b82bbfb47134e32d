# SPDX-License-Identifier: Apache-2.0
"""A module on a simulated disk, in one process and in virtual time: minutes take seconds.

The extension, its dispatch, the rings, the admission, the journal, the experiments and
what they decide are the real ones; the disk is a model (`kmind.workloads.simulated_disk`), and
the extension has no process of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from kmind import events
from kmind.agent.sim.agent import SimAgent, SimDoorbell
from kmind.agent.types import Mode
from kmind.events import Event
from kmind.extension import (
    Context,
    Dispatcher,
    Given,
    Outlets,
    Value,
    find_module,
    parse_parameters,
)
from kmind.guard import Journal, Policy
from kmind.knobs import get_knob
from kmind.queue import Endpoint, open_tables
from kmind.runtime.budget import OwnerBudget
from kmind.runtime.evidence_store import EvidenceStore
from kmind.runtime.experiment.trial.controller import ExperimentController
from kmind.runtime.holds.grants import grants_for
from kmind.runtime.holds.trial_holds import TrialHolds
from kmind.runtime.instance.verdicts import Verdicts
from kmind.runtime.services import InstanceSpec, Services
from kmind.testing._rig import loaded
from kmind.workloads.simulated_disk import DiskModel, SimulatedDisk, make_disk_files
from kmind.workloads.streams import Stream

__all__ = ["Change", "Simulation"]

_KNOB = "block.read_ahead_kb"
_START_S = 1000.0
_POLL_S = 0.5


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
    (name to count) tell what happened, ``results`` how experiments ended, ``value`` what
    the knob holds now. ``store`` keeps experiments beyond the simulation.
    """

    def __init__(
        self,
        module: str = "readahead",
        *words: str,
        mode: Mode = Mode.AUTO,
        model: DiskModel | None = None,
        read_ahead_kb: int = 8192,
        store: EvidenceStore | None = None,
        seed: int = 0,
    ) -> None:
        self._open = ExitStack()
        root = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="kmind-sim-")))
        self.changes: list[Change] = []
        self.verdicts: dict[str, int] = {}
        self.results: list[dict[str, Any]] = []
        self.log: list[str] = []
        self._poll_at = 0.0
        target = make_disk_files(root, read_ahead_kb=read_ahead_kb)
        found_module = find_module(module)
        features = found_module.manifest.features
        shapes = [part.shape for part in found_module.manifest.tables]
        self.agent = SimAgent(
            gauges=[n for n, feature in enumerate(features) if feature.kind == "gauge"],
            realtime=False,
            now_ns=round(_START_S * 1e9),
            tables=shapes,
        )
        self._open.callback(self.agent.close)
        self.disk = SimulatedDisk(self.agent, target, model, now=_START_S)
        self._knob = get_knob(_KNOB)
        endpoint = Endpoint(self.agent.arena, SimDoorbell(self.agent.doorbell_fd))
        kind = self._open.enter_context(loaded(found_module))
        params: Mapping[str, Value] = parse_parameters(found_module.manifest, words)
        who = f"{found_module.manifest.name}@{target.name}"
        journal = self._open.enter_context(Journal(root / "journal.db"))
        policy = Policy()
        spec = InstanceSpec(found_module, target, params, mode, self.agent)
        services = Services(
            journal,
            policy,
            self._note,
            evidence=store or self._open.enter_context(EvidenceStore(None)),
            root=root,
            now=self._now,
        )
        self._holds = TrialHolds(spec, services)
        rng = np.random.default_rng(seed)
        self._controller = ExperimentController(spec, services, self._holds, rng=rng)
        budget = OwnerBudget(self._now, cpu=lambda: 0.0)  # the owner's real time counts for nobody
        self._verdicts = Verdicts(who, services, self._holds, self._controller, budget)
        granted, _ = grants_for(found_module, target, policy, params)
        self._holds.knobs.grant(granted)
        context = Context(
            Given(
                module=found_module.manifest.name,
                target=target.name,
                params=params,
                features=found_module.manifest.columns,
                knobs={granted.knob.name: granted.info() for granted in self._holds.knobs.usable()},
                tables=open_tables(self.agent.table_fds, shapes),
                findings=[part.name for part in found_module.manifest.findings],
                reports=[part.name for part in found_module.manifest.reports],
            ),
            Outlets(port=endpoint.cq, now=self._now, write_log=self.log.append),
        )
        self.agent.set_mode(mode)
        self._dispatcher = Dispatcher(endpoint, kind(context), context)
        self._dispatcher.start()
        self.agent.start()

    def _now(self) -> float:
        return self.disk.now

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
        """Current value of the knob, in kB."""
        return int(self._knob.read(self.disk.target))

    def run(self, stream: Stream, seconds: float, *, mapped: bool) -> float:
        """Serve a stream for so many virtual seconds, the module watching; accesses a second."""
        return self.disk.run(stream, seconds, mapped=mapped, each_tick=self._turn)

    def _turn(self) -> None:
        # The extension's turn, then the owner's.
        self._dispatcher.step(0)
        for action in self.agent.poll(0):
            if action.verdict is not None:
                name = action.verdict.name.lower()
                self.verdicts[name] = self.verdicts.get(name, 0) + 1
                self._verdicts.handle(action)
        self._holds.run_due()
        self._controller.run_due()
        if self.disk.now >= self._poll_at:
            self._poll_at = self.disk.now + _POLL_S
            self._controller.poll(busy=True)

    def _note(self, event: Event) -> None:
        match event:
            case (
                events.Applied()
                | events.Kept()
                | events.Dropped()
                | events.Undone()
                | events.Yielded()
            ):
                value = int(event.value or 0)
                self.changes.append(Change(self.disk.now, event.name, value, event.id))
            case events.Result():
                self.results.append(event.fields())
            case events.Failed():
                self.log.append(event.why)
            case events.Log():
                self.log.append(event.message)
