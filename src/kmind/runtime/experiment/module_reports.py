# SPDX-License-Identifier: Apache-2.0
"""Experiments that a module made itself, put on record once the owner has checked them.

An extension is not trusted: a report is bounded, has to have the shape of an experiment, to
speak of knobs that were granted, and to come to its verdict again when its blocks are
replayed. That the blocks were measured nobody but the module can say, so the record says
whose they are, and nothing is decided by it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import msgspec

from kmind.errors import KmindError
from kmind.evidence import Experiment
from kmind.extension import KnobInfo
from kmind.runtime.evidence_store import BY_MODULE
from kmind.runtime.services import InstanceSpec, Services
from kmind.util.ratelimit import Allowance
from kmind.util.text import clean

__all__ = ["ModuleReports"]

_A_MINUTE = 20
_MOST_BLOCKS = 1000
_ALPHA = 0.05  # the largest error that an interval may make

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
_Text = Annotated[str, msgspec.Meta(max_length=1000)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=_MOST_BLOCKS)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Ratio = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
_Better = Literal["higher", "lower"]


class _Design(msgspec.Struct, forbid_unknown_fields=True):
    block_s: _Seconds
    wash_out_s: _Seconds
    alpha: Annotated[float, msgspec.Meta(gt=0, le=_ALPHA)]
    min_gain: _Ratio
    max_s: _Seconds
    min_pairs: _Count
    better: _Better
    calibration: _Count
    collapse: _Ratio
    keep_share: _Share
    screen_pairs: _Count


class _Noise(msgspec.Struct, forbid_unknown_fields=True):
    values: Annotated[list[float | None], msgspec.Meta(max_length=512)]


class _Guard(msgspec.Struct, forbid_unknown_fields=True):
    name: _Name
    better: _Better
    limit: _Ratio
    patience: _Count
    slack: float
    at_once: bool


class _Side(msgspec.Struct, forbid_unknown_fields=True):
    name: _Name
    better: _Better
    limit: _Ratio
    floor: Annotated[float, msgspec.Meta(ge=0, le=1e18)]


class _Record(msgspec.Struct, forbid_unknown_fields=True):
    design: _Design
    noise: _Noise
    guards: Annotated[list[_Guard], msgspec.Meta(max_length=8)]
    sides: Annotated[list[_Side], msgspec.Meta(max_length=8)]
    calibration: _Count
    blocks: Annotated[
        list[tuple[Literal["incumbent", "candidate"], float | None]],
        msgspec.Meta(min_length=1, max_length=_MOST_BLOCKS),
    ]
    readings: Annotated[list[dict[_Name, float | None]], msgspec.Meta(max_length=_MOST_BLOCKS)]
    interval: dict[str, float | None] | None
    detectable: float | None
    outcome: Literal["gain", "loss", "no change", "aborted"]
    reason: _Text
    broken: bool
    effort: None = None  # read by the owner alone: what a module says of itself is no evidence


class _Report(msgspec.Struct, forbid_unknown_fields=True):
    experiment: _Record
    incumbent: Annotated[dict[_Name, int | str], msgspec.Meta(min_length=1, max_length=64)]
    candidate: dict[_Name, int | str]
    metric: _Name
    unit: Annotated[str, msgspec.Meta(max_length=20)]
    context: Annotated[str, msgspec.Meta(max_length=80)]
    reason: _Text


class ModuleReports:
    """Experiments that one instance's extension reports. ``knobs`` are those granted, by name.

    A line of the log gives the reason if one is left out. One thread.
    """

    kinds = ("experiment",)

    def __init__(
        self,
        spec: InstanceSpec,
        services: Services,
        knobs: Callable[[], Mapping[str, KnobInfo]],
    ) -> None:
        self.manifest = spec.manifest
        self._name = spec.name
        self._target = spec.target
        self._backend = spec.agent.backend
        self._store = services.evidence
        self._knobs = knobs
        self._log = services.logger(spec.name)
        # Good or bad: each costs time, or a line of the log.
        self._allowance = Allowance(services.now, _A_MINUTE, self._refuse)

    def handle(self, kind: str, text: bytes) -> None:
        """Check one, and put it on record."""
        if self._allowance.allow():
            self._put(text)

    def _refuse(self, why: object) -> None:
        self._log(f"a report of an experiment is left out: {clean(str(why), 200)}")

    def _put(self, text: bytes) -> None:
        try:
            if self.manifest.evidence.by != "module":
                raise ValueError("by the module's manifest its owner makes the experiments")
            report = msgspec.json.decode(text, type=_Report)
            knobs = self._knobs()
            _check_values(report, knobs)
            experiment = _check(report.experiment)
        except Exception as error:  # it is no text of ours
            self._refuse(error)
            return
        record = experiment.to_dict()
        record["reason"] = clean(record["reason"])
        try:
            number = self._store.begin(
                kind=BY_MODULE,
                instance=self._name,
                module=self.manifest.name,
                backend=self._backend,
                knob=", ".join(report.candidate),
                target=self._target,
                incumbent={name: report.incumbent[name] for name in report.candidate},
                candidate=report.candidate,
                metric=clean(report.metric),
                unit=clean(report.unit),
                context=clean(report.context),
                reason=clean(report.reason, 400),
            )
            self._store.end(number, record, kept=False)
        except KmindError as error:
            self._refuse(error)


def _check_values(report: _Report, knobs: Mapping[str, KnobInfo]) -> None:
    if set(report.incumbent) != set(report.candidate):
        raise ValueError("incumbent and candidate are not the same knobs")
    for name, value in itertools.chain(report.incumbent.items(), report.candidate.items()):
        if name not in knobs:
            raise ValueError(f"knob {name!r} is not granted")
        knobs[name].encode(value)


def _check(record: _Record) -> Experiment:
    # Experiment's own rules, beyond the shape: Design and Guard raise UsageError.
    if record.calibration > record.design.calibration:
        raise ValueError(f"{record.calibration} blocks of calibration are not in its design")
    if len(record.readings) != len(record.blocks):
        raise ValueError("its readings are not those of its blocks")
    names = [guard.name for guard in record.guards] + [side.name for side in record.sides]
    if any(not name.isprintable() for name in names):
        raise ValueError("a guard has no name")
    data: dict[str, Any] = msgspec.to_builtins(record)
    return Experiment.judged(data)
