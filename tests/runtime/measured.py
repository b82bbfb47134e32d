# SPDX-License-Identifier: Apache-2.0
"""An owner that measures a made-up load in made-up time, on a disk of plain files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kmind.agent.sim.agent import SimAgent, SimDoorbell
from kmind.agent.types import Action, Mode, Verdict
from kmind.events import Event
from kmind.extension import find_module
from kmind.extension.manifest.manifest import Manifest
from kmind.guard import Journal, Policy
from kmind.knobs import get_knob
from kmind.queue import Endpoint
from kmind.runtime.evidence_store import EvidenceStore
from kmind.runtime.experiment.trial.controller import ExperimentController
from kmind.runtime.holds.grants import grants_for
from kmind.runtime.holds.trial_holds import TrialHolds
from kmind.runtime.services import InstanceSpec, Services
from kmind.workloads.simulated_disk import make_disk_files

KNOB = get_knob("block.read_ahead_kb")
BASELINE = 128
TICK_S = 0.02

Speed = Callable[[int], float]


class Owner:
    """One instance's changes and experiments, without an extension: the test recommends.

    ``speed`` gives the load's reads a second under a value; each tick is noisy by ``noise``.
    """

    def __init__(
        self,
        folder: Path,
        speed: Speed,
        *,
        mode: Mode = Mode.AUTO,
        noise: float = 0.05,
        seed: int = 1,
        store: EvidenceStore | None = None,
        manifest: Manifest | None = None,
        **params: float,
    ) -> None:
        self.now = 1000.0
        self.speed = speed
        self.noise = noise
        self.mode = mode
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.root = folder / "root"
        self.target = make_disk_files(self.root, read_ahead_kb=BASELINE)
        module = find_module("readahead")
        self.manifest = manifest or module.manifest
        self.columns = self.manifest.columns
        self.agent = SimAgent(realtime=False, now_ns=round(self.now * 1e9))
        self.agent.set_mode(mode)
        self.agent.start()
        self.journal = Journal(folder / "journal.db")
        self.store = store or EvidenceStore(folder / "evidence.db")
        self._rng = np.random.default_rng(seed)
        self._id = 0
        self._renewing: tuple[int, str, dict[str, Any]] | None = None
        self._renew_at = 0.0
        self._look_at = 0.0
        self._due = 0.0
        self.wakes = 0
        self._params = {"min_gain": 0.0, "recheck": 1e6, **params}
        self._seed = seed
        self.open()

    def open(self) -> None:
        """Begin, or go on as another process that finds what this one left."""
        module = replace(find_module("readahead"), manifest=self.manifest)
        spec = InstanceSpec(module, self.target, self._params, self.mode, self.agent)
        services = Services(
            self.journal,
            Policy(),
            self.note,
            evidence=self.store,
            root=self.root,
            now=lambda: self.now,
        )
        self.changes = TrialHolds(spec, services)
        self.actuator = self.changes.actuator
        granted, _ = grants_for(find_module("readahead"), self.target, Policy(), {})
        self.changes.knobs.grant(granted)
        (self.granted,) = granted
        rng = np.random.default_rng(self._seed)
        self.trials = ExperimentController(spec, services, self.changes, rng=rng)

    def close(self) -> None:
        """Free what it holds."""
        self.agent.close()
        self.journal.close()
        self.store.close()

    def note(self, event: Event) -> None:
        """Take down an event."""
        self.events.append((event.name, event.fields()))

    def of(self, event: str) -> list[dict[str, Any]]:
        """The events of that name."""
        return [fields for name, fields in self.events if name == event]

    @property
    def value(self) -> int:
        """Return the knob's value."""
        return int(KNOB.read(self.target))

    def recommend(
        self, value: int, *, renew: bool = True, hold_s: float = 5.0, **evidence: Any
    ) -> None:
        """As an extension whose recommendation was approved; with ``renew`` again and again."""
        self._id += 1
        self._renewing = (value, "renewed", evidence) if renew else None
        self._renew_at = self.now + 1.5
        granted = self.changes.knobs.get(*self.granted.key)
        assert granted
        self.trials.approved(granted, self._action(value, hold_s), "The test says so.", evidence)

    def _action(self, value: int, hold_s: float) -> Action:
        return Action(
            "verdict",
            round(self.now * 1e9),
            self.mode,
            Verdict.APPROVED,
            id=self._id,
            knob=KNOB.id,
            target=self.target.id,
            value=value,
            hold_ms=round(hold_s * 1000),
        )

    def stop_renewing(self) -> None:
        """The extension cares no longer."""
        self._renewing = None

    def run(self, seconds: float, until: Callable[[], object] = lambda: False) -> None:
        """So much time passes, or until something is so."""
        end = self.now + seconds
        while self.now < end and not until():
            self.now += TICK_S
            rate = self.speed(self.value)
            count = rate * TICK_S * float(np.exp(self._rng.normal(0, self.noise)))
            self.agent.count(self.columns["reads"], round(count * 1000))
            self.agent.step(round(self.now * 1e9))
            if self._renewing and self.now >= self._renew_at:
                self._renew_at = self.now + 1.5
                granted = self.changes.knobs.get(*self.granted.key)
                assert granted
                self.trials.renewed(granted, self._action(self._renewing[0], 5.0))
            self.changes.run_due()
            if self.now >= self.trials.due:
                self.wakes += 1
                self.trials.run_due()
            if self.now >= self._look_at:
                self._look_at = self.now + 0.5
                self.trials.poll(busy=rate > 0)

    def records(self) -> list[tuple[int, int]]:
        """Kind and value of the records that the extension was told of, in order."""

        (ring,) = Endpoint(self.agent.arena, SimDoorbell(self.agent.doorbell_fd)).records
        return [(int(r["kind"]), int(r["value"].astype(np.int64))) for r in ring.peek()]


Make = Callable[..., Owner]
