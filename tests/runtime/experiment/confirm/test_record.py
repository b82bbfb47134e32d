# SPDX-License-Identifier: Apache-2.0
"""Confirmations on record, and what becomes of them where the store cannot be used."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kmind import events
from kmind.errors import KmindError
from kmind.evidence import Design, Experiment
from kmind.knobs import parse_target
from kmind.runtime.evidence_store import EvidenceStore
from kmind.runtime.experiment.confirm.record import Records

OLD = {"vm.swappiness": 60, "vm.page-cluster": 3}
NEW = {"vm.swappiness": 10, "vm.page-cluster": 0}


class Rig:
    def __init__(self, store: Any) -> None:
        self.told: list[Any] = []
        spec: Any = SimpleNamespace(
            name="autotune@system",
            manifest=SimpleNamespace(name="autotune"),
            target=parse_target("system"),
            agent=SimpleNamespace(backend="sim"),
        )
        services: Any = SimpleNamespace(evidence=store, emit=self.told.append)
        self.records = Records(spec, services)
        self.experiment = Experiment(Design(better="higher"), np.random.default_rng(1))

    def begin(self) -> Any:
        return self.records.begin(OLD, NEW, "rate", again=False)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with EvidenceStore(tmp_path / "evidence.db") as store:
        yield Rig(store)


def test_knobs_and_values_are_told_in_one_order(rig: Rig) -> None:
    task = rig.begin()
    assert task.number > 0
    assert task.knob == "vm.page-cluster, vm.swappiness"
    assert task.pair == "0, 10 against 3, 60"


def test_it_is_announced_once_and_not_before_the_noise_is_known(rig: Rig) -> None:
    task = rig.begin()
    rig.records.announce(task, rig.experiment)
    assert rig.told == []
    while rig.experiment.calibrating:
        rig.experiment.learn_one(100.0)
    for _ in range(2):
        rig.records.announce(task, rig.experiment)
    (told,) = rig.told
    assert isinstance(told, events.Experiment)
    assert (told.knob, told.candidate, told.kind) == (task.knob, "0, 10", "confirmation")


def test_kept_one_is_known_afterwards(rig: Rig) -> None:
    task = rig.begin()
    assert rig.records.confirmed(OLD, NEW, "rate", 3600.0) == 0
    rig.experiment.outcome, rig.experiment.reason = "gain", "it was better"
    rig.records.end(task, rig.experiment, kept=True)
    assert rig.records.confirmed(OLD, NEW, "rate", 3600.0) == task.number
    assert rig.records.confirmed(OLD, NEW, "latency", 3600.0) == 0
    assert rig.records.confirmed(OLD, {**NEW, "vm.swappiness": 11}, "rate", 3600.0) == 0
    assert rig.records.confirmed(OLD, NEW, "rate", -1.0) == 0


def test_error_of_a_day_is_drawn_and_handed_on(rig: Rig) -> None:
    first = rig.records.draw()
    second = rig.records.draw()
    assert 0 < second <= first
    rig.records.hand_on(first)
    assert rig.records.draw() > 0


def test_store_that_cannot_be_used_is_a_line_and_nothing_is_known() -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise KmindError("the disk is full")

    rig = Rig(
        SimpleNamespace(
            begin=broken, end=broken, confirmed=broken, budget=broken, set_budget=broken
        )
    )
    task = rig.begin()
    assert task.number == 0
    rig.records.end(task, rig.experiment, kept=True)
    assert rig.records.confirmed(OLD, NEW, "rate", 3600.0) == 0
    assert rig.records.draw() == 0.0  # nothing may be kept without a budget
    lines = [each.message for each in rig.told if isinstance(each, events.Log)]
    assert lines == ["the disk is full"] * 3
