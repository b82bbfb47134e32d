# SPDX-License-Identifier: Apache-2.0
"""An owner of a module that measures by itself, in made-up time, on a disk of plain files.

The test plays the extension: it recommends what it likes. What the objective is depends on the
knobs, as the test says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kmind.agent.sim.agent import SimAgent, SimDoorbell
from kmind.agent.types import Action, Mode, Verdict
from kmind.events import Event
from kmind.extension import find_module, parse_parameters
from kmind.guard import Journal, Policy
from kmind.queue import Endpoint
from kmind.runtime.evidence_store import EvidenceStore
from kmind.runtime.experiment.confirm.confirm import Confirm
from kmind.runtime.experiment.measure.effort import Effort
from kmind.runtime.holds.grants import Granted, grants_for
from kmind.runtime.holds.trial_holds import TrialHolds
from kmind.runtime.objective.sources import Heard
from kmind.runtime.services import InstanceSpec, Services
from kmind.workloads.simulated_disk import make_disk_files

BASELINES = {"block.nr_requests": 64, "block.nomerges": 0, "block.read_ahead_kb": 128}
EVERY_S = 0.5
TICK_S = 0.25
METRIC = "command:/bin/rate"

Worth = Callable[[Mapping[str, Any]], float]


class Owner:
    """One instance's changes and confirmations. ``worth`` is the objective by what the knobs hold.

    ``gap``: there is no reading. ``want`` is what the extension holds, renewed while ``cares``.
    """

    def __init__(
        self,
        folder: Path,
        worth: Worth,
        *,
        mode: Mode = Mode.AUTO,
        noise: float = 0.05,
        seed: int = 1,
        better: str = "higher",
        scheduler: str = "",
        effort: Callable[[], Effort | None] | None = None,
        **words: object,
    ) -> None:
        self.now = 1000.0
        self.worth, self.noise, self.mode, self.better = worth, noise, mode, better
        self.gap, self.cares = False, True
        self.events: list[tuple[float, str, dict[str, Any]]] = []
        self.want: dict[str, Any] = {}
        self.root = folder / "root"
        self.target = make_disk_files(self.root, read_ahead_kb=BASELINES["block.read_ahead_kb"])
        queue = self.root / "sys/block/sim0/queue"
        (queue / "nr_requests").write_text("64\n")
        (queue / "nomerges").write_text("0\n")
        names = list(BASELINES)
        self.effort = effort
        module = find_module("autotune")
        said: dict[str, object] = {"objective": METRIC, "better": better, "knobs": ",".join(names)}
        self.params = parse_parameters(
            module.manifest, [f"{k}={v}" for k, v in (said | words).items()]
        )
        self.module = module
        self.agent = SimAgent(realtime=False, tick_s=TICK_S, now_ns=round(self.now * 1e9))
        self.agent.set_mode(mode)
        self.agent.start()
        self.journal = Journal(folder / "journal.db")
        self.store = EvidenceStore(folder / "evidence.db", now=lambda: 1e9 + self.now)
        self._rng = np.random.default_rng(seed)
        self._id, self._seed = 0, seed
        self._renew_at = self._look_at = self._read_at = 0.0
        self.away_s = 0.0
        self.open()

    def open(self) -> None:
        """Begin, or go on as another process that finds what this one left."""
        spec = InstanceSpec(self.module, self.target, self.params, self.mode, self.agent)
        self.services = services = Services(
            self.journal,
            Policy(),
            self.note,
            evidence=self.store,
            root=self.root,
            now=lambda: self.now,
        )
        self.changes = TrialHolds(spec, services)
        self.actuator = self.changes.actuator
        granted, _ = grants_for(self.module, self.target, Policy(), self.params)
        self.changes.knobs.grant(granted)
        self.granted: dict[str, Granted] = {each.knob.name: each for each in granted}
        rng = np.random.default_rng(self._seed)
        self.confirm = Confirm(spec, services, self.changes, rng=rng, effort=self.effort)
        self.listen()

    def listen(self) -> None:
        """Have the owner hear of the objective from now on."""
        self._hear = self.confirm.listen(METRIC, self.better)  # type: ignore[arg-type]

    def close(self) -> None:
        """Free what it holds."""
        self.agent.close()
        self.journal.close()
        self.store.close()

    def note(self, event: Event) -> None:
        """Take down an event."""
        self.events.append((self.now, event.name, event.fields()))

    def of(self, event: str) -> list[dict[str, Any]]:
        """The events of that name."""
        return [fields for _, name, fields in self.events if name == event]

    def knobs(self) -> dict[str, Any]:
        """Return the knobs' values, by name."""
        queue = self.root / "sys/block/sim0/queue"
        return {name: int((queue / name.partition(".")[2]).read_text()) for name in BASELINES}

    @property
    def stands(self) -> dict[str, Any]:
        """Return the knobs' values that differ from the baseline, by name."""
        held = self.knobs()
        return {name: value for name, value in held.items() if value != BASELINES[name]}

    def recommend(self, **values: int) -> None:
        """As an extension whose recommendations were approved: these, the baseline otherwise."""
        new = {f"block.{name}": value for name, value in values.items()}
        for name in BASELINES:
            value = new.get(name, BASELINES[name])
            if value != self.want.get(name, BASELINES[name]) or value != self._now_at(name):
                self._approve(name, value)
        self.want = new

    def _now_at(self, name: str) -> Any:
        each = self.changes.knobs.get(*self.granted[name].key)
        assert each
        held = {one.key for one in self.changes.held_knobs()}
        return self.changes.held_value(each) if each.key in held else BASELINES[name]

    def _approve(self, name: str, value: int) -> None:
        self._id += 1
        each = self.changes.knobs.get(*self.granted[name].key)
        assert each
        self.confirm.approved(each, self._action(each, value), "The test says so.", {})

    def _action(self, each: Granted, value: int) -> Action:
        return Action(
            "verdict", round(self.now * 1e9), self.mode, Verdict.APPROVED, id=self._id,
            knob=each.knob.id, target=each.target.id, value=value, hold_ms=15_000,
        )  # fmt: skip

    def insist(self) -> None:
        """Act as an extension: renew current values, recommend others anew."""
        for name, value in self.want.items():
            each = self.changes.knobs.get(*self.granted[name].key)
            assert each
            if self._now_at(name) == value:
                self.confirm.renewed(each, self._action(each, value))
            else:
                self._approve(name, value)

    def run(self, seconds: float, until: Callable[[], object] = lambda: False) -> Owner:
        """So much time passes, or until something is so."""
        end = self.now + seconds
        while self.now < end and not until():
            self.step()
        return self

    def step(self) -> None:
        """A tick of time."""
        self.now += TICK_S
        self.agent.step(round(self.now * 1e9))
        if self.stands:
            self.away_s += TICK_S
        if self.now >= self._read_at:
            # A reading is of the knobs as they stand now: blocks are longer than one.
            start, self._read_at = self._read_at - EVERY_S, self.now + EVERY_S
            noise = math.exp(self.noise * self._rng.standard_normal())
            value = None if self.gap else self.worth(self.knobs()) * noise
            self._hear(Heard(max(start, self.now - EVERY_S), self.now, value))
        if self.cares and self.now >= self._renew_at:
            self._renew_at = self.now + 3.0
            self.insist()
        self.changes.run_due()
        if self.now >= self.confirm.due:
            self.confirm.run_due()
        if self.now >= self._look_at:
            self._look_at = self.now + 0.5
            self.changes.poll()
            self.confirm.poll(busy=True)

    def rows(self) -> list[dict[str, Any]]:
        """Experiments on record, oldest first: kind, outcome, whether kept, candidate."""
        return self.store.latest()[::-1]

    def told(self) -> list[tuple[int, int]]:
        """Kind and value of the records that the extension was told of, in order."""
        (ring,) = Endpoint(self.agent.arena, SimDoorbell(self.agent.doorbell_fd)).records
        return [(int(r["kind"]), int(r["value"].astype(np.int64))) for r in ring.peek()]
