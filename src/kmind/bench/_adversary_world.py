# SPDX-License-Identifier: Apache-2.0
"""An owner, a load and a clock for the adversary: hours take minutes.

The owner's part is the real one: admission by the simulated agent, journal, actuator,
experiments, store of evidence. The load is a table (`kmind.bench._adversary_loads`), and the
extension is the caller of ``recommend`` that writes into the arena.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from kmind import events
from kmind.abi import layout
from kmind.agent.sim.agent import SimAgent, SimDoorbell
from kmind.agent.types import Mode
from kmind.bench._adversary_loads import HARMFUL, Subject, make_files
from kmind.events import Event
from kmind.extension import Module, find_module, parse_parameters
from kmind.extension.manifest.manifest import KnobUse
from kmind.guard import Journal, Policy
from kmind.knobs import get_knob
from kmind.queue import Endpoint
from kmind.runtime.budget import OwnerBudget
from kmind.runtime.evidence_store import EvidenceStore
from kmind.runtime.experiment.measure.effort import Effort
from kmind.runtime.experiment.trial.controller import ExperimentController
from kmind.runtime.holds.grants import grants_for
from kmind.runtime.holds.trial_holds import TrialHolds
from kmind.runtime.instance.telemetry import View, Watcher
from kmind.runtime.instance.verdicts import Verdicts
from kmind.runtime.services import InstanceSpec, Services

__all__ = ["LONGEST_S", "WINDOW_S", "World"]

LONGEST_S = 120.0
"""A harmful value that stands for longer than that, within ``WINDOW_S``, was kept."""

WINDOW_S = 600.0

_START_S = 1_000_000.0
_DAY = 1_700_000_000.0  # what the wall clock says then
_TICK_S = 0.1
_POLL_S = 0.5
_BUSY = 3
_BLOCK_S = 0.15
_MOST_BURNT = 0.9  # a load is not brought to a standstill: it has its turns, too


class World:
    """One instance of ``subject``'s module under a hostile extension; a context manager.

    ``noise`` is that of a block of 0.15 s. ``load`` names the load that runs, ``value`` what the
    knob holds, ``measuring`` whether an experiment is under way (None, or the arm), ``washing``
    whether its next block has not begun yet. ``burn`` is the CPU time that the extension takes, in
    seconds a second, and the load loses that share. ``noticed`` is called whenever an experiment
    may have gone on: an extension cannot be quicker.
    ``worst_s`` is for how long a harmful value stood unmeasured, the most in any ten minutes,
    ``found`` what it was, ``good`` how many values were kept that were better.
    """

    def __init__(self, subject: Subject, folder: Path, *, seed: int, noise: float = 0.05) -> None:
        self.subject = subject
        self.now = _START_S
        self.load = next(iter(subject.loads))
        self.burn = 0.0
        self.noticed: Callable[[], None] = lambda: None
        self.worst_s = 0.0
        self.found: dict[str, Any] = {}
        self.good = 0
        self._open = ExitStack()
        self._noise = noise
        self._rng = np.random.default_rng((seed, 1))
        self._cpu_s = 0.0
        self._harm: deque[tuple[float, float]] = deque()
        self._harm_s = 0.0
        self._due = {"tick": self.now, "look": self.now}
        self._build(subject, folder, seed)

    def _build(self, subject: Subject, folder: Path, seed: int) -> None:
        found = find_module(subject.module)
        module = _moving(found, subject.knob)
        manifest = module.manifest
        self.columns = manifest.columns
        self.plan = manifest.evidence
        self.outcomes = [outcome.name for outcome in manifest.outcomes]
        self.knob = get_knob(subject.knob)
        self.target = make_files(folder, subject)
        self.agent = SimAgent(
            gauges=[n for n, each in enumerate(manifest.features) if each.kind == "gauge"],
            realtime=False,
            now_ns=round(self.now * 1e9),
            deadline_s=1e9,
        )
        self._open.callback(self.agent.close)
        self.endpoint = Endpoint(self.agent.arena, SimDoorbell(self.agent.doorbell_fd))
        policy, who = Policy(), f"{manifest.name}@{self.target.name}"
        journal = self._open.enter_context(Journal(folder / "journal.db"))
        store = EvidenceStore(None, now=lambda: _DAY + self.now - _START_S)
        self._open.enter_context(store)
        mode = Mode.AUTO
        spec = InstanceSpec(
            module, self.target, parse_parameters(found.manifest, ()), mode, self.agent
        )
        services = Services(
            journal, policy, self._note, evidence=store, root=folder, now=lambda: self.now
        )
        self._holds = TrialHolds(spec, services)
        self.trials = ExperimentController(
            spec,
            services,
            self._holds,
            rng=np.random.default_rng((seed, 2)),
            effort=lambda: Effort(self._cpu_s, 0, 0),
        )
        budget = OwnerBudget(lambda: self.now, cpu=lambda: 0.0)  # real time counts for nobody
        self._verdicts = Verdicts(who, services, self._holds, self.trials, budget)
        granted, _ = grants_for(module, self.target, policy, {})
        self._holds.knobs.grant(granted)
        self._watcher = Watcher(who, manifest, self.agent, View(), self._note, budget)
        self.agent.set_mode(mode)
        self.agent.start()
        self.value = subject.baseline

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    # Abilities of the extension

    @property
    def measuring(self) -> str | None:
        """The arm that stands in an experiment, or None without one."""
        running = self.trials._running
        if running is None:
            return None
        return "candidate" if self.value == running.case.candidate else "incumbent"

    @property
    def washing(self) -> bool:
        """True while an experiment waits for its wash-out to end."""
        running = self.trials._running
        return running is not None and running.trial.washing

    def recommend(self, value: int, evidence: dict[str, Any], hold_s: float) -> None:
        """Queue a recommendation, as any extension can."""
        self.endpoint.cq.answers()
        self.endpoint.cq.submit(
            self.knob.id,
            self.target.id,
            value,
            type=layout.TYPE["INT"],
            expires_ns=round((self.now + 5) * 1e9),
            hold_ms=round(hold_s * 1000),
            note=json.dumps({"reason": "It is better.", "evidence": evidence}).encode(),
        )

    def touch(self, counters: int) -> None:
        """Do by itself what is counted as the load's; the agent passes over it."""
        for name in self.subject.loads[self.load][self.value].rates:
            self.agent.count(self.columns[name], counters, by_extension=True)

    # Time

    def run_until(self, end: float) -> None:
        """Let the load run, and owner and agent do what is due."""
        while self.now < end:
            due = min(end, *self._due.values(), self.trials.due, self._holds.due)
            self._pass(max(due - self.now, 1e-4))
            self.agent.step(round(self.now * 1e9))
            for action in self.agent.poll(0):
                if action.verdict is not None:
                    self._verdicts.handle(action)
            self._holds.run_due()
            if self.now >= self.trials.due:
                self.trials.run_due()
            if self.now >= self._due["look"]:
                self._due["look"] = self.now + _POLL_S
                self.trials.poll(busy=self._watcher.poll().busy >= _BUSY)
            if self.now >= self._due["tick"]:
                self._due["tick"] = self.now + _TICK_S
            self.value = int(self.knob.read(self.target))
            self.noticed()

    def _pass(self, seconds: float) -> None:
        # The load does its work for so long, under the current value.
        self.now += seconds
        self._cpu_s += self.burn * seconds
        sigma = self._noise * math.sqrt(_BLOCK_S / seconds)
        factor = (
            (1 - min(self.burn, _MOST_BURNT))
            * seconds
            * math.exp(self._rng.normal(0, min(sigma, 0.5)))
        )
        for name, rate in self.subject.loads[self.load][self.value].rates.items():
            grown = rate * factor
            whole = int(grown) + (self._rng.random() < grown % 1)
            if whole:
                self.agent.count(self.columns[name], whole)
        self._judge(seconds)

    def _judge(self, seconds: float) -> None:
        ratio = self.subject.ratio(self.load, self.value)
        if ratio < HARMFUL and self.measuring is None:
            self._harm.append((self.now, seconds))
            self._harm_s += seconds
        while self._harm and self._harm[0][0] < self.now - WINDOW_S:
            self._harm_s -= self._harm.popleft()[1]
        if self._harm_s > self.worst_s:
            self.worst_s = self._harm_s
            self.found = {"load": self.load, "value": self.value, "ratio": round(ratio, 3)}

    def _note(self, event: Event) -> None:
        if isinstance(event, events.Kept) and event.value is not None:
            self.good += self.subject.ratio(self.load, int(event.value)) > 1


def _moving(module: Module, knob: str) -> Module:
    # The module, as if its author had it move that knob.
    uses = (KnobUse(name=knob),)
    return replace(module, manifest=msgspec.structs.replace(module.manifest, knobs=uses))
