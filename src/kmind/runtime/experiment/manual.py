# SPDX-License-Identifier: Apache-2.0
"""One experiment that an admin asked for: one value of a knob against another, on what runs.

It is the same engine by which instances are judged, without an extension: only the agent of
a module is loaded, for its outcome. Everything is put back at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kmind import events
from kmind.agent.protocol import Agent
from kmind.agent.types import Mode
from kmind.errors import JournalError, KmindError, UsageError
from kmind.events import Emit
from kmind.evidence import Arm, Design, Experiment
from kmind.extension import Manifest
from kmind.guard import Actuator, Change
from kmind.knobs import Knob, Target, Value
from kmind.runtime.evidence_store import EvidenceStore
from kmind.runtime.experiment.measure.circumstances import BLOCKS, Circumstances, Ledger, Load
from kmind.runtime.experiment.runner import ExperimentRunner

__all__ = ["Question", "check_metric", "evaluate"]

_LOOK_S = 1.0
_NAP_S = 0.1


@dataclass(frozen=True)
class Question:
    """Comparison of ``candidate`` with ``incumbent`` by ``metric``, requested by an admin.

    By default the incumbent is the current value, and the metric the outcome that decides under the
    current load. With both values alike it is an A/A experiment. ``design`` is the plan; the module
    says whether the metric is better high or low.
    """

    knob: Knob
    target: Target
    candidate: Value
    incumbent: Value | None = None
    metric: str = ""
    design: Design | None = None


def check_metric(name: str, manifest: Manifest) -> None:
    """Raise UsageError if the module has no outcome of that name, or for "" none at all."""
    names = [outcome.name for outcome in manifest.outcomes]
    if not names:
        raise UsageError(
            f"module {manifest.name} declares no outcome",
            hint="name another one, or add [[outcome]]",
        )
    if name and name not in names:
        raise UsageError(
            f"module {manifest.name} has no outcome {name!r}", hint=f"it has {', '.join(names)}"
        )


def evaluate(
    question: Question,
    manifest: Manifest,
    *,
    agent: Agent,
    actuator: Actuator,
    store: EvidenceStore,
    emit: Emit,
    cancelled: Callable[[], bool] = lambda: False,
    rng: np.random.Generator | None = None,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[int, Experiment]:
    """Run it; its number and the finished experiment. Blocks for as long as it takes.

    ``agent`` is the module's, loaded and not started; the caller closes it. Raises
    UsageError where the module declares no such outcome, KmindError where the knob cannot
    be set; it is as it was then.
    """
    check_metric(question.metric, manifest)
    metrics = Ledger(manifest, agent, now=now)
    who = f"evaluate@{question.target.name}"
    agent.set_mode(Mode.OBSERVE)
    agent.start()
    for hook in manifest.hooks:
        if hook.while_:
            agent.hooks.watch(hook.program, True)
    try:
        stands = question.knob.read(question.target)
        incumbent = stands if question.incumbent is None else question.incumbent
        if incumbent != stands:
            _apply(actuator, question, incumbent, who)
        load = _load(question, manifest, metrics, sleep)
        change = _apply(actuator, question, question.candidate, who, parked=True)
        arms = _Arms(actuator, change)
        run = _Run(question, load, metrics, arms, rng or np.random.default_rng(), now)
        number = store.begin(
            kind="by hand",
            instance=who,
            module=manifest.name,
            backend=agent.backend,
            knob=question.knob,
            target=question.target,
            incumbent=incumbent,
            candidate=question.candidate,
            metric=load.outcome.name,
            unit=load.outcome.unit,
            context=load.context,
            change=change.id,
        )
        run.to_the_end(emit, number, incumbent, cancelled, sleep)
    finally:
        actuator.undo_all(who)
    store.end(number, run.experiment.to_dict(), kept=False)
    return number, run.experiment


def _apply(
    actuator: Actuator, question: Question, value: Value, who: str, *, parked: bool = False
) -> Change:
    return actuator.apply(
        question.knob,
        question.target,
        value,
        who=who,
        why="requested by the admin",
        by_admin=True,
        parked=parked,
    )


def _load(
    question: Question, manifest: Manifest, metrics: Ledger, sleep: Callable[[float], None]
) -> Load:
    # Some blocks under the incumbent say which outcome decides.
    blocks, before = [], metrics.read()
    for _ in range(BLOCKS):
        sleep((question.design or Design()).block_s)
        after = metrics.read()
        blocks.append(metrics.between(before, after))
        before = after
    return Circumstances(manifest).classify(blocks, question.metric)


class _Arms:
    # The two values of the knob, by one change that is parked and resumed.
    def __init__(self, actuator: Actuator, change: Change) -> None:
        self._actuator = actuator
        self._change = change

    def switch(self, arm: Arm) -> None:
        (self._actuator.resume if arm == "candidate" else self._actuator.park)(self._change)

    def lost(self) -> str:
        # The reason why the knob is no longer the experiment's (somebody else has set it), or "".
        return "; ".join(map(str, self._actuator.check()))


class _Run:
    def __init__(
        self,
        question: Question,
        load: Load,
        metrics: Ledger,
        arms: _Arms,
        rng: np.random.Generator,
        now: Callable[[], float],
    ) -> None:
        better = load.outcome.better
        design = question.design or Design()
        plan = Design.from_dict(design.to_dict() | {"better": better})
        self.experiment = Experiment(plan, rng, guards=metrics.guards(), sides=load.sides)
        self._question = question
        self._arms = arms
        self._now = now
        self._trial = ExperimentRunner(
            self.experiment, load.outcome.name, metrics, arms.switch, now=now
        )

    def to_the_end(
        self,
        emit: Emit,
        number: int,
        incumbent: Value,
        cancelled: Callable[[], bool],
        sleep: Callable[[float], None],
    ) -> None:
        experiment, told, look_at = self.experiment, False, self._now()
        try:
            self._trial.start()
            while not self._trial.over:
                if cancelled():
                    experiment.abort("it was interrupted")
                if self._now() >= look_at:
                    look_at = self._now() + _LOOK_S
                    if why := self._arms.lost():
                        experiment.abort(why)
                if not told and not experiment.calibrating:
                    told = True
                    self._emit_begun(emit, number, incumbent)
                sleep(min(_NAP_S, max(0.0, self._trial.due - self._now())))
                self._trial.run_due()
        except JournalError:
            raise
        except KmindError as error:
            experiment.abort(str(error))

    def _emit_begun(self, emit: Emit, number: int, incumbent: Value) -> None:
        record: dict[str, Any] = self.experiment.to_dict()
        emit(
            events.Experiment(
                experiment=number,
                kind="by hand",
                knob=self._question.knob.name,
                target=self._question.target.name,
                incumbent=incumbent,
                candidate=self._question.candidate,
                metric=self._trial.metric,
                better=self.experiment.design.better,
                detectable=record["detectable"],
                max_s=self.experiment.design.max_s,
            )
        )
