# SPDX-License-Identifier: Apache-2.0
"""Telling of experiments: as events, and as rows of the store.

If the store cannot be written, a line of the log says so; no experiment stops for that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from kmind import events
from kmind.errors import KmindError
from kmind.evidence import Experiment
from kmind.knobs import Value
from kmind.runtime.evidence_store import UNMEASURED
from kmind.runtime.experiment.case import Case, Running
from kmind.runtime.holds.grants import Granted
from kmind.runtime.services import InstanceSpec, Services

__all__ = ["Publisher", "gain_in_words", "status_of"]


class Publisher:
    """Tells of the experiments of one instance."""

    def __init__(self, spec: InstanceSpec, services: Services) -> None:
        self._who, self._module = spec.name, spec.manifest.name
        self._target, self._backend = spec.target, spec.agent.backend
        self._store, self._emit = services.evidence, services.emit

    def log(self, message: str) -> None:
        """Tell something in a line."""
        self._emit(events.Log(instance=self._who, message=message))

    def announce(self, running: Running) -> None:
        """Say what will be measured; once, as soon as the noise is known."""
        if running.told or running.trial.experiment.calibrating:
            return
        running.told = True
        case, experiment = running.case, running.trial.experiment
        self._emit(
            events.Experiment(
                instance=self._who,
                id=running.rec_id,
                experiment=running.number,
                kind="recheck" if running.again else "trial",
                knob=case.granted.knob.name,
                incumbent=case.incumbent,
                candidate=case.candidate,
                metric=case.outcome.name,
                better=experiment.design.better,
                guards=[side.name for side in case.sides],
                context=case.context,
                error=round(experiment.design.keep_level, 6),
                detectable=_finite(experiment.detectable),
                max_s=experiment.design.max_s,
                reason=case.reason,
                evidence=case.evidence,
            )
        )

    def result(self, running: Running, *, kept: bool) -> None:
        """Say how it ended."""
        case, experiment = running.case, running.trial.experiment
        interval = experiment.interval
        self._emit(
            events.Result(
                instance=self._who,
                id=running.rec_id,
                experiment=running.number,
                knob=case.granted.knob.name,
                incumbent=case.incumbent,
                candidate=case.candidate,
                metric=case.outcome.name,
                outcome=experiment.outcome,
                why=experiment.reason,
                kept=kept,
                interval=interval.to_dict() if interval else None,
                blocks=len(experiment.blocks),
            )
        )
        self.end_row(running.number, experiment.to_dict(), kept=kept)

    def begin_row(self, case: Case, rec_id: int, change: int, *, again: bool) -> int:
        """Take down that an experiment begins; its number, 0 where that cannot be."""
        return self._begin(
            kind="recheck" if again else "trial",
            granted=case.granted,
            incumbent=case.incumbent,
            candidate=case.candidate,
            metric=case.outcome.name,
            unit=case.outcome.unit,
            context=case.context,
            reason=case.reason,
            evidence=case.evidence,
            rec_id=rec_id,
            change=change,
        )

    def unmeasured(
        self,
        granted: Granted,
        values: tuple[Value, Value],
        rec_id: int,
        why: str,
        *,
        reason: str,
        evidence: Mapping[str, Any],
    ) -> None:
        """Take down that a value stands which nobody measured; ``values`` are old and new."""
        number = self._begin(
            kind="unmeasured",
            granted=granted,
            incumbent=values[0],
            candidate=values[1],
            metric="",
            unit="",
            context="",
            reason=reason,
            evidence=evidence,
            rec_id=rec_id,
            change=0,
        )
        self.end_row(number, {**UNMEASURED, "reason": why}, kept=True)

    def _begin(self, *, granted: Granted, **fields: Any) -> int:
        try:
            return self._store.begin(
                instance=self._who,
                module=self._module,
                backend=self._backend,
                knob=granted.knob,
                target=self._target,
                **fields,
            )
        except KmindError as error:
            self.log(str(error))
            return 0

    def end_row(self, number: int, record: Mapping[str, Any], *, kept: bool) -> None:
        """Take down how it ended; nothing where its beginning could not be."""
        if not number:
            return
        try:
            self._store.end(number, record, kept=kept)
        except KmindError as error:
            self.log(str(error))


def status_of(running: Running) -> dict[str, Any]:
    """An experiment that runs, for the admin."""
    case, experiment = running.case, running.trial.experiment
    interval = experiment.interval
    return {
        "experiment": running.number,
        "knob": case.granted.knob.name,
        "incumbent": case.incumbent,
        "candidate": case.candidate,
        "metric": case.outcome.name,
        "blocks": len(experiment.blocks),
        "detectable": _finite(experiment.detectable),
        "interval": interval.to_dict() if interval else None,
    }


def gain_in_words(case: Case, experiment: Experiment) -> tuple[str, dict[str, Any]]:
    """Return the reason for keeping a value: a sentence, and its numbers."""
    interval = experiment.interval
    if interval is None:
        return f"{case.candidate} instead of {case.incumbent} still stands.", {}
    high = interval.high if math.isfinite(interval.high) else None
    numbers = {
        "ratio": round(interval.ratio, 3),
        "low": round(interval.low, 3),
        "high": high and round(high, 3),
        "pairs": interval.pairs,
    }
    upto = "infinity" if high is None else f"{high:.2f}"
    sure = 100 * (1 - experiment.design.alpha)
    return (
        f"{case.candidate} instead of {case.incumbent}: {case.outcome.name} x{interval.ratio:.2f} "
        f"({sure:.3g}% CI {interval.low:.2f} to {upto}; "
        f"{interval.pairs} pairs of blocks).",
        numbers,
    )


def _finite(ratio: float) -> float | None:
    return ratio if math.isfinite(ratio) else None
