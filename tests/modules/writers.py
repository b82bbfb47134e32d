# SPDX-License-Identifier: Apache-2.0
"""The dirty module in front of the owner that measures it, on a modelled machine.

Extension, admission, changes and experiments are real; time, disk and writers are made up.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kmind.agent.sim.agent import SimAgent, SimDoorbell
from kmind.agent.types import Mode
from kmind.events import Event
from kmind.extension import Context, Dispatcher, Given, Outlets, find_module, parse_parameters
from kmind.guard import Journal, Policy
from kmind.knobs import Target
from kmind.modules.dirty.extension import Dirty
from kmind.queue import Endpoint
from kmind.runtime.budget import OwnerBudget
from kmind.runtime.evidence_store import EvidenceStore
from kmind.runtime.experiment.experiments import Experiments
from kmind.runtime.holds.grants import grants_for
from kmind.runtime.holds.trial_holds import TrialHolds
from kmind.runtime.instance.verdicts import Verdicts
from kmind.runtime.services import InstanceSpec, Services

__all__ = [
    "BASELINE",
    "BURSTS",
    "DISK",
    "LIMIT",
    "MODULE",
    "PERCENT",
    "STEEP",
    "Load",
    "Writeback",
    "Writers",
    "bursts",
]

MODULE = find_module("dirty")
BASELINE = 10
PERCENT = 50_000  # pages in a percent of the modelled machine's memory
LIMIT = 20 * PERCENT
DISK = 100_000.0  # pages a second
TICK_S = 0.25

Load = Callable[[float], float]
"""Pages a second that writers want to write, by the time."""


def bursts(rate: float, seconds: float, every: float) -> Load:
    """Writers that are there for so many seconds, again and again."""
    return lambda now: rate if now % every < seconds else 0.0


# Three times faster than the disk, and from clean memory: the sooner writers may be made to wait,
# the longer they are. At 5 % they take a seventh longer than at 10 %, for as many pages a minute as
# in BURSTS.
STEEP = bursts(300_000, 3, 27)

# A burst leaves 450,000 pages more than the disk takes, on top of what is dirty already.
# Half-way to the limit are 250,000 at 10 %, 375,000 at 5 %, and 475,000 at 1 %.
BURSTS = bursts(150_000, 9, 40)


class Writeback:
    """A coarse model of mm/page-writeback.c.

    What is above the background threshold is written; half-way from there to the limit a writer
    waits until the disk has caught up. With ``expires`` the rest is written while nobody writes.
    """

    def __init__(self, load: Load, disk: float = DISK) -> None:
        self.load, self.disk, self.expires = load, disk, False
        self._dirty = self._backlog = 0.0

    def step(self, now: float, seconds: float, background: float) -> tuple[float, float]:
        """Pages that became dirty, and seconds that their writer had to wait."""
        ceiling = (LIMIT + background) / 2
        idle = self.expires and self._backlog == 0 and self.load(now) == 0
        down_to = 0.0 if idle else background
        if self._dirty > down_to:
            self._dirty = max(down_to, self._dirty - self.disk * seconds)
        self._backlog += self.load(now) * seconds
        pages = min(self._backlog, max(0.0, ceiling - self._dirty))
        self._backlog -= pages
        self._dirty += pages
        return pages, seconds if self._backlog > 0 else 0.0


class Writers:
    """One instance. ``follows`` says whether the kernel goes by the knob's value.

    ``made`` makes its extension. ``away_s`` is how long the knob did not hold the baseline.
    """

    def __init__(
        self,
        folder: Path,
        load: Load,
        *,
        follows: bool = True,
        mode: Mode = Mode.AUTO,
        seed: int = 1,
        noise: float = 0.1,
        made: Callable[[Context], Dirty] = Dirty,
        **words: object,
    ) -> None:
        self.now = 1000.0
        self.waited_s = self.away_s = 0.0
        self.events: list[tuple[float, str, dict[str, Any]]] = []
        self.lines: list[str] = []
        self.machine, self._follows, self._noise = Writeback(load), follows, noise
        self._rng = np.random.default_rng(seed)
        self._file = folder / "proc/sys/vm/dirty_background_ratio"
        self._file.parent.mkdir(parents=True)
        self._file.write_text(f"{BASELINE}\n")
        (self._file.parent / "dirty_ratio").write_text("20\n")
        (self._file.parent / "dirty_background_bytes").write_text("0\n")
        manifest = MODULE.manifest
        self._columns = manifest.columns
        gauges = [n for n, each in enumerate(manifest.features) if each.kind == "gauge"]
        self.agent = SimAgent(
            realtime=False, tick_s=TICK_S, now_ns=round(self.now * 1e9), gauges=gauges
        )
        self.agent.set_mode(mode)
        self.agent.start()
        params = parse_parameters(manifest, [f"{k}={v}" for k, v in words.items()])
        self.journal = Journal(folder / "journal.db")
        self.store = EvidenceStore(folder / "evidence.db", now=lambda: 1e9 + self.now)
        target = Target.system(root=folder)
        spec = InstanceSpec(MODULE, target, params, mode, self.agent)
        services = Services(
            self.journal,
            Policy(),
            self._note,
            evidence=self.store,
            root=folder,
            now=lambda: self.now,
        )
        self.changes = TrialHolds(spec, services)
        granted, _ = grants_for(MODULE, target, Policy(), params)
        self.changes.knobs.grant(granted)
        rng = np.random.default_rng(seed)
        self.experiments = Experiments(spec, services, self.changes, rng=rng)
        budget = OwnerBudget(lambda: self.now, cpu=lambda: 0.0)
        self._verdicts = Verdicts("dirty@system", services, self.changes, self.experiments, budget)
        endpoint = Endpoint(self.agent.arena, SimDoorbell(self.agent.doorbell_fd))
        context = Context(
            Given(
                module="dirty",
                target="system",
                params=params,
                features=self._columns,
                knobs={each.knob.name: each.info() for each in self.changes.knobs.usable()},
            ),
            Outlets(port=endpoint.cq, now=lambda: self.now, write_log=self.lines.append),
        )
        self.extension = made(context)
        self._dispatcher = Dispatcher(endpoint, self.extension, context)
        self._dispatcher.start()
        self._look_at = 0.0

    def close(self) -> None:
        """Free what it holds."""
        self.agent.close()
        self.journal.close()
        self.store.close()

    def _note(self, event: Event) -> None:
        self.events.append((self.now, event.name, event.fields()))

    def of(self, event: str) -> list[dict[str, Any]]:
        """The events of that name."""
        return [fields for _, name, fields in self.events if name == event]

    @property
    def value(self) -> int:
        """The knob's value."""
        return int(self._file.read_text())

    def run(self, seconds: float, until: Callable[[], object] = lambda: False) -> None:
        """So much time passes, or until something is so."""
        end = self.now + seconds
        while self.now < end and not until():
            self._step()

    def _step(self) -> None:
        self.now += TICK_S
        background = (self.value if self._follows else BASELINE) * PERCENT
        noise = float(np.exp(self._rng.normal(0, self._noise)))
        pages, waited = self.machine.step(self.now, TICK_S, background)
        self.waited_s += waited
        self.away_s += TICK_S if self.value != BASELINE else 0.0
        counts = {"dirtied_pages": pages, "pauses": waited > 0, "pause_ns": waited * noise * 1e9}
        for name, count in counts.items():
            self.agent.count(self._columns[name], round(count))
        gauges = {"background_pages": background, "limit_pages": LIMIT}
        for name, gauge in {**gauges, "disk_pages_per_s": self.machine.disk}.items():
            self.agent.gauge(self._columns[name], round(gauge))
        self.agent.step(round(self.now * 1e9))
        self._dispatcher.step(0)
        for action in self.agent.poll(0):
            self._verdicts.handle(action)
        self.changes.run_due()
        if self.now >= self.experiments.due:
            self.experiments.run_due()
        if self.now >= self._look_at:
            self._look_at = self.now + 1.0
            self.changes.poll()
            self.experiments.poll(busy=pages > 0)
