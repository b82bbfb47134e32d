# SPDX-License-Identifier: Apache-2.0
"""An extension's own effort, which must not differ between the arms."""

from __future__ import annotations

import os
import subprocess
import time
from typing import Any

import numpy as np
import pytest
from runtime.experiment.two_arms import Load

from kmind.evidence import Arm, Experiment
from kmind.evidence.chart import render_experiment
from kmind.runtime.experiment.measure.effort import (
    CPU_LIMIT,
    FAULTS_LIMIT,
    IO_LIMIT,
    OWNER_LIMIT,
    Effort,
    Efforts,
    read_effort,
)


def to_the_end(load: Load, *under: Arm, **a_second: float) -> Experiment:
    """Until it is over; the extension uses so much a second under these arms."""
    load.burns = dict.fromkeys(under, a_second)
    while not load.trial.over:
        load.block()
    return load.trial.experiment


@pytest.mark.parametrize("arm", ["incumbent", "candidate"])
@pytest.mark.parametrize(
    ("used", "said"),
    [
        ({"cpu_s": 1.1 * CPU_LIMIT}, "of a CPU more"),
        ({"io_bytes": 1.1 * IO_LIMIT}, "bytes a second more"),
        ({"faults": 1.1 * FAULTS_LIMIT}, "page faults a second more"),
        ({"owner_s": 1.1 * OWNER_LIMIT}, "cost the owner 5.5% of a CPU more"),
    ],
)
def test_a_gain_beside_efforts_that_differ_is_void(
    arm: Arm, used: dict[str, Any], said: str
) -> None:
    load = Load()
    load.rate["candidate"] = 2000.0
    experiment = to_the_end(load, arm, **used)
    assert (experiment.outcome, experiment.broken) == ("aborted", True)
    assert experiment.reason.startswith("void: the extension itself")
    assert said in experiment.reason
    assert experiment.reason.endswith(f"under the {arm}")
    record = experiment.to_dict()
    assert record["effort"][arm]["seconds"] > 0
    assert record["broken"], "it is not gone on with"
    assert Experiment.go_on(record, np.random.default_rng(1)) is None
    assert Experiment.from_dict(record).to_dict()["effort"] == record["effort"]
    assert "the extension itself used" in render_experiment(record)


def test_an_honest_extension_keeps_its_gain() -> None:
    load = Load()
    load.rate["candidate"] = 2000.0
    experiment = to_the_end(load, "incumbent", "candidate", cpu_s=0.3, io_bytes=1e6, faults=100.0)
    assert experiment.outcome == "gain"
    assert experiment.to_dict()["effort"]["candidate"]["cpu_s"] > 0


def test_what_is_burnt_in_blocks_cannot_be_paid_back_in_wash_outs() -> None:
    load = Load()
    load.rate["candidate"] = 2000.0
    share, design = 0.2, load.trial.experiment.design

    def uses() -> dict[str, float]:
        if load.trial.arm == "incumbent":
            return {"cpu_s": 0.0 if load.trial.washing else share}
        return {"cpu_s": share * design.block_s / design.wash_out_s if load.trial.washing else 0.0}

    load.uses = uses
    experiment = to_the_end(load)
    assert experiment.outcome == "aborted"
    assert experiment.reason.startswith("void: the extension itself used 20.0% of a CPU more in b")
    used = (experiment.effort or {}).values()
    rates = [each["cpu_s"] / each["seconds"] for each in used]
    assert max(rates) - min(rates) < CPU_LIMIT, "all in all it is as much"


def test_what_is_burnt_in_many_blocks_cannot_be_paid_back_in_few() -> None:
    efforts, none = Efforts(), Effort(0.0, 0, 0)
    for number in range(10):
        efforts.add("incumbent", 1.0, none, Effort(0.1, 0, 0))
        efforts.add("candidate", 1.0, none, Effort(float(number == 5), 0, 0))
    assert "used 18.0% of a CPU more or less in a block" in efforts.why_void


def test_what_moving_the_knob_costs_the_owner_voids_nothing() -> None:
    efforts, none = Efforts(), Effort(0.0, 0, 0)
    for _ in range(10):
        efforts.add("candidate", 0.1, none, Effort(0.0, 0, 0, owner_s=0.1), washing=True)
        for arm in ("incumbent", "candidate"):
            efforts.add(arm, 0.2, none, Effort(0.0, 0, 0, owner_s=0.001))
    assert efforts.why_void == ""
    assert efforts.to_dict()["candidate"]["owner_s"] == pytest.approx(0.01)


def test_bursts_under_either_arm_void_nothing() -> None:
    efforts, none = Efforts(), Effort(0.0, None, 0)
    for number in range(10):
        efforts.add("incumbent", 1.0, none, Effort(0.3 * (number in (2, 7)), None, 0))
        efforts.add("candidate", 1.0, none, Effort(0.3 * (number in (0, 1)), None, 0))
    assert efforts.why_void == ""


def test_what_cannot_be_read_voids() -> None:
    load = Load()
    load.rate["candidate"] = 2000.0
    load.up_to("candidate")
    load.used = None
    assert to_the_end(load).reason == "void: the extension's own use of resources is not known"


def test_a_loss_stays_one_whatever_the_extension_does() -> None:
    load = Load()
    load.rate["candidate"] = 900.0
    assert to_the_end(load, "candidate", cpu_s=0.9).outcome == "loss"


def test_effort_is_the_kernels_account_of_a_process() -> None:
    before = read_effort(os.getpid())
    assert before is not None
    until = time.thread_time() + 0.05
    while time.thread_time() < until:
        pass
    after = read_effort(os.getpid())
    assert after is not None
    assert 0.05 <= after.cpu_s - before.cpu_s < 5
    assert 0.05 <= after.owner_s - before.owner_s < 5
    child = subprocess.Popen(["true"])
    child.wait()
    assert read_effort(child.pid) is None
