# SPDX-License-Identifier: Apache-2.0
"""Confirmations on record and told of: rows of the store, events, and the day's error budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from kmind import events
from kmind.evidence import Experiment
from kmind.knobs import Value
from kmind.runtime.evidence_store import CONFIRMATION, ask_store
from kmind.runtime.services import InstanceSpec, Services

__all__ = ["Records", "Task"]

_BUDGET = "by module"  # one for all settings of a target, in place of a knob's name
_T = TypeVar("_T")


@dataclass
class Task:
    """A setting against the baselines, by knob's name; ``number`` is the experiment's."""

    number: int
    incumbent: Mapping[str, Value]
    candidate: Mapping[str, Value]
    metric: str
    again: bool
    told: bool = False

    @property
    def knob(self) -> str:
        """The names of the knobs."""
        return ", ".join(self.candidate)

    @property
    def pair(self) -> str:
        """The values, in words."""
        return f"{_words(self.candidate)} against {_words(self.incumbent)}"


class Records:
    """Tells of the confirmations of one instance.

    If the store cannot be used, a line of the log says so, and nothing is known.
    """

    def __init__(self, spec: InstanceSpec, services: Services) -> None:
        self._who, self._module = spec.name, spec.manifest.name
        self._target, self._backend = spec.target, spec.agent.backend
        self._store, self._emit = services.evidence, services.emit

    def log(self, message: str) -> None:
        """Tell something in a line."""
        self._emit(events.Log(instance=self._who, message=message))

    def _asked(self, ask: Callable[[], _T], otherwise: _T) -> _T:
        return ask_store(ask, otherwise, self.log)

    def begin(
        self,
        incumbent: Mapping[str, Value],
        candidate: Mapping[str, Value],
        metric: str,
        *,
        again: bool,
    ) -> Task:
        """Take down that one begins; its number is 0 where that cannot be."""
        old, new = dict(sorted(incumbent.items())), dict(sorted(candidate.items()))
        task = Task(0, old, new, metric, again)
        task.number = self._asked(
            lambda: self._store.begin(
                kind=CONFIRMATION,
                instance=self._who,
                module=self._module,
                backend=self._backend,
                knob=task.knob,
                target=self._target,
                incumbent=old,
                candidate=new,
                metric=metric,
                unit="",
                reason=_reason(task),
            ),
            0,
        )
        return task

    def announce(self, task: Task, experiment: Experiment) -> None:
        """Say what will be measured; once, as soon as the noise is known."""
        if task.told or experiment.calibrating:
            return
        task.told = True
        self._emit(
            events.Experiment(
                kind="confirmation",
                better=experiment.design.better,
                error=round(experiment.design.keep_level, 6),
                detectable=_finite(experiment.detectable),
                max_s=experiment.design.max_s,
                reason=_reason(task),
                **self._about(task),
            )
        )

    def end(self, task: Task, experiment: Experiment, *, kept: bool) -> None:
        """Take down how it ended, and say so."""
        interval = experiment.interval
        self._emit(
            events.Result(
                outcome=experiment.outcome,
                why=experiment.reason,
                kept=kept,
                interval=interval.to_dict() if interval else None,
                blocks=len(experiment.blocks),
                **self._about(task),
            )
        )
        if task.number:
            record = experiment.to_dict()
            self._asked(lambda: self._store.end(task.number, record, kept=kept), None)

    def status(self, task: Task, experiment: Experiment) -> dict[str, Any]:
        """One that runs, for the admin."""
        interval = experiment.interval
        return {
            **self._about(task),
            "blocks": len(experiment.blocks),
            "detectable": _finite(experiment.detectable),
            "interval": interval.to_dict() if interval else None,
        }

    def _about(self, task: Task) -> dict[str, Any]:
        return {
            "instance": self._who,
            "experiment": task.number,
            "knob": task.knob,
            "incumbent": _words(task.incumbent),
            "candidate": _words(task.candidate),
            "metric": task.metric,
        }

    def confirmed(
        self,
        incumbent: Mapping[str, Value],
        candidate: Mapping[str, Value],
        metric: str,
        younger_s: float,
    ) -> int:
        """The number of the confirmation by which a setting may stand; 0: there is none."""
        old, new = dict(sorted(incumbent.items())), dict(sorted(candidate.items()))
        return self._asked(
            lambda: self._store.confirmed(
                module=self._module,
                knob=", ".join(new),
                target=self._target,
                incumbent=old,
                candidate=new,
                metric=metric,
                younger_s=younger_s,
            ),
            0,
        )

    # The day's budget

    def draw(self) -> float:
        """The error that the next confirmation may make; 0: nothing is left today."""
        budget = self._asked(lambda: self._store.budget(_BUDGET, self._target), None)
        if budget is None or budget.used_up:
            return 0.0
        drawn = budget.drawn()
        self._asked(lambda: self._store.set_budget(_BUDGET, self._target, drawn), None)
        return budget.level

    def hand_on(self, level: float) -> None:
        """Give the error of one that ended in a gain, or saw nothing, to the next one."""
        budget = self._asked(lambda: self._store.budget(_BUDGET, self._target), None)
        if level and budget is not None:
            left = budget.handed_on(level)
            self._asked(lambda: self._store.set_budget(_BUDGET, self._target, left), None)


def _reason(task: Task) -> str:
    again = "is measured again" if task.again else "is to stand longer"
    return f"What the module recommends {again}."


def _words(values: Mapping[str, Value]) -> str:
    return ", ".join(map(str, values.values()))


def _finite(ratio: float) -> float | None:
    return ratio if math.isfinite(ratio) else None
