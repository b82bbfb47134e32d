# SPDX-License-Identifier: Apache-2.0
"""Recall earlier experiments on a case: values kept, experiments cut short, the budget left.

If the store cannot be used, a line of the log says so, and nothing is recalled.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from kmind.errors import KmindError
from kmind.evidence import Budget, Design, Experiment, Guard
from kmind.extension.manifest.outcome import EvidencePart, OutcomePart
from kmind.knobs import Target, Value
from kmind.runtime.evidence_store import EvidenceStore, ask_store
from kmind.runtime.experiment.case import Case
from kmind.runtime.holds.grants import Granted

__all__ = ["ALIKE", "Recall", "level_of"]

ALIKE = 1.5
"""An A/A level so many times another, or less, may be the same load's."""

_T = TypeVar("_T")
_Row = dict[str, Any]


def level_of(record: Mapping[str, Any] | None) -> float | None:
    """The level under the incumbent while an experiment ran: the median of its blocks."""
    blocks = record["blocks"] if record else ()
    values = [value for arm, value in blocks if arm == "incumbent" and value]
    return statistics.median(values) if values else None


class Recall:
    """Asks the store on behalf of one instance of ``module`` on ``target``."""

    def __init__(
        self,
        store: EvidenceStore,
        module: str,
        target: Target,
        plan: EvidencePart,
        log: Callable[[str], None],
    ) -> None:
        self._store = store
        self._module = module
        self._target = target
        self._plan = plan
        self._log = log

    def _asked(self, ask: Callable[[], _T], otherwise: _T) -> _T:
        return ask_store(ask, otherwise, self._log)

    def _pair(self, case: Case) -> dict[str, Any]:
        return {
            "module": self._module,
            "knob": case.granted.knob,
            "target": self._target,
            "incumbent": case.incumbent,
            "candidate": case.candidate,
            "context": case.context,
            "younger_s": self._plan.memory_s,
        }

    def gains(self, case: Case) -> list[_Row]:
        """The experiments by which a value was kept under this load; [] if it was not.

        The level of now has to be that of then, and along a chain of values each that of the
        one before times its gain.
        """
        rows: list[_Row] = self._asked(lambda: self._store.gains(**self._pair(case)), [])
        expected = case.level
        for row in rows:
            level = level_of(row["record"])
            if not (level and expected and 1 / ALIKE <= level / expected <= ALIKE):
                return []
            ratio = row["ratio"] or 1.0
            expected *= ratio if case.outcome.better == "higher" else 1 / ratio
            if row["metric"] != case.outcome.name:
                return []
        return rows

    def known(self, case: Case) -> str:
        """By which experiments a value may stand at once, in words; "" for none."""
        rows = self.gains(case)
        if not rows:
            return ""
        numbers = ", ".join(str(row["id"]) for row in rows)
        ratio = math.prod(row["ratio"] or 1.0 for row in rows)
        return f"remembered: {case.outcome.name} x{ratio:.2f} in experiment {numbers}"

    def cut_short(
        self, case: Case, design: Design, rng: np.random.Generator, guards: list[Guard]
    ) -> Experiment | None:
        """An experiment on the case that something else ended, to go on with; at its own error."""
        rows: list[_Row] = self._asked(
            lambda: self._store.cut_short(**self._pair(case), metric=case.outcome.name), []
        )
        sides = [side.to_dict() for side in case.sides]
        for record in (row["record"] for row in rows if row["record"]):
            if not _alike(record["design"], design) or record.get("sides", []) != sides:
                continue
            resumed = Experiment.go_on(record, rng, guards)
            # Where it is many times slower now it was another load.
            if resumed and resumed.pairs and not (case.level and resumed.collapsed(case.level)):
                return resumed
        return None

    def standing(
        self, who: str, granted: Granted, value: Value, outcomes: Mapping[str, OutcomePart]
    ) -> Case | None:
        """The case by which an instance kept the value that stands; None if it was not the last."""
        row: _Row | None = self._asked(lambda: self._store.kept(who, granted.knob), None)
        outcome = outcomes.get(row["metric"]) if row else None
        if not row or outcome is None or row["candidate"] != value:
            return None
        values = row["incumbent"], row["candidate"]
        return Case(granted, *values, row["reason"], row["evidence"], outcome, (), "", None)

    def interrupted(self, who: str) -> set[int]:
        """Changes, by the journal's number, that an earlier owner did not measure to the end."""
        rows: list[_Row] = self._asked(lambda: self._store.mark_interrupted(who), [])
        return {int(row["change"]) for row in rows}

    # The day's budget

    def draw(self, granted: Granted) -> float:
        """The error that the next experiment on a knob may make; 0: nothing is left today."""
        budget = self._asked(lambda: self._store.budget(granted.knob, self._target), None)
        if budget is None or budget.used_up:
            return 0.0
        self._save(granted, budget.drawn())
        return budget.level

    def used_up(self, granted: Granted) -> KmindError:
        """The refusal of what nothing is left for."""
        return KmindError(
            f"{granted.knob.name} of {granted.target.name} has had as many experiments today as "
            f"one may believe: nothing new is tried until 00:00 UTC",
            hint="kept values are still rechecked; see kmind why",
        )

    def hand_on(self, granted: Granted, level: float) -> None:
        """Give the error of an experiment that ended in a gain, or saw nothing, to the next one."""
        budget = self._asked(lambda: self._store.budget(granted.knob, self._target), None)
        if level and budget is not None:
            self._save(granted, budget.handed_on(level))

    def _save(self, granted: Granted, budget: Budget) -> None:
        self._asked(lambda: self._store.set_budget(granted.knob, self._target, budget), None)


def _alike(record: Mapping[str, Any], design: Design) -> bool:
    # Measured in the same way, if not at the same error.
    drawn = ("alpha", "keep_share")
    now = design.to_dict()
    return all(record.get(name) == value for name, value in now.items() if name not in drawn)
