# SPDX-License-Identifier: Apache-2.0
"""An experiment by hand, on a made-up load in made-up time."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from kmind.agent.sim.agent import SimAgent
from kmind.errors import KmindError, UsageError
from kmind.evidence import Design, Experiment
from kmind.extension import find_module
from kmind.guard import Actuator, Journal, Policy
from kmind.knobs import get_knob
from kmind.runtime.evidence_store import EvidenceStore
from kmind.runtime.experiment.manual import Question, evaluate
from kmind.workloads.simulated_disk import make_disk_files

KNOB = get_knob("block.read_ahead_kb")
MANIFEST = find_module("readahead").manifest
DESIGN = Design(block_s=0.4, max_s=60.0)


class Machine:
    """A disk of plain files whose load goes as ``speed`` says, and a clock that sleep moves."""

    def __init__(self, folder: Path) -> None:
        self.now = 100.0
        self.speed: Callable[[int], float] = lambda value: 1000.0
        self.granted: Callable[[], object] = lambda: None
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.values: list[int] = []
        self.target = make_disk_files(folder / "root", read_ahead_kb=128)
        self.agent = SimAgent(realtime=False, now_ns=10**11)
        self.journal = Journal(folder / "journal.db")
        self.store = EvidenceStore(folder / "evidence.db")
        self.actuator = Actuator(self.journal, Policy(), root=folder / "root")
        self.rng = np.random.default_rng(1)

    @property
    def value(self) -> int:
        return int(KNOB.read(self.target))

    def sleep(self, seconds: float) -> None:
        seconds = max(seconds, 0.001)
        self.now += seconds
        self.values.append(self.value)
        count = self.speed(self.value) * seconds * float(np.exp(self.rng.normal(0, 0.03)))
        self.agent.count(MANIFEST.columns["reads"], round(count * 1000))
        self.granted()

    def ask(self, candidate: int, incumbent: int | None = None, **more: Any) -> Experiment:
        options = {"metric": more.pop("metric", "")}
        _, experiment = evaluate(
            Question(KNOB, self.target, candidate, incumbent, design=DESIGN, **options),
            more.pop("manifest", MANIFEST),
            agent=self.agent,
            actuator=self.actuator,
            store=self.store,
            emit=lambda event: self.events.append((event.name, event.fields())),
            rng=np.random.default_rng(2),
            now=lambda: self.now,
            sleep=self.sleep,
            **more,
        )
        return experiment


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.agent.close()
    made.store.close()
    assert made.journal.open_changes() == []
    made.journal.close()


def test_a_gain_is_found_and_nothing_is_kept(machine: Machine) -> None:
    machine.speed = lambda value: 1500.0 if value == 16 else 1000.0
    assert machine.ask(16).outcome == "gain"
    assert machine.value == 128
    ((event, fields),) = machine.events
    assert (event, fields["incumbent"], fields["candidate"]) == ("experiment", 128, 16)
    assert 1 < fields["detectable"] < 1.2
    (row,) = machine.store.latest()
    assert (row["kind"], row["outcome"], row["kept"]) == ("by hand", "gain", False)


def test_it_says_beforehand_what_can_be_seen(machine: Machine) -> None:
    machine.granted = lambda: machine.events.append(("value", {"is": machine.value}))
    machine.ask(16)
    before = machine.events[: [name for name, _ in machine.events].index("experiment")]
    assert {fields["is"] for _, fields in before} == {128}


def test_against_another_value(machine: Machine) -> None:
    machine.speed = lambda value: {512: 1000.0, 16: 1500.0, 128: 1.0}[value]
    assert machine.ask(16, 512).outcome == "gain"
    assert set(machine.values) == {16, 512}
    assert machine.value == 128


def test_a_value_against_itself(machine: Machine) -> None:
    assert machine.ask(128).outcome == "no change"
    assert set(machine.values) == {128}


def test_interrupted(machine: Machine) -> None:
    experiment = machine.ask(16, cancelled=lambda: machine.now > 105)
    assert (experiment.outcome, experiment.reason) == ("aborted", "it was interrupted")
    assert machine.value == 128


def test_somebody_else_sets_the_knob(machine: Machine) -> None:
    def meddle() -> None:
        if 105 < machine.now < 105.5:
            KNOB.write(machine.target, 1000)

    machine.granted = meddle
    experiment = machine.ask(16)
    assert experiment.outcome == "aborted"
    assert "somebody else" in experiment.reason
    assert machine.value == 1000


def test_without_a_load_it_ends_soon(machine: Machine) -> None:
    machine.speed = lambda value: 0.0
    experiment = machine.ask(16)
    assert experiment.outcome == "aborted"
    assert len(experiment.blocks) == 6
    assert machine.value == 128


def test_what_cannot_be_asked(machine: Machine) -> None:
    with pytest.raises(UsageError, match="has no outcome 'joy'"):
        machine.ask(16, metric="joy")
    bare = msgspec.structs.replace(MANIFEST, outcomes=())
    with pytest.raises(UsageError, match="declares no outcome"):
        machine.ask(16, manifest=bare)
    with pytest.raises(KmindError, match="read_ahead_kb"):
        machine.ask(1 << 40)
    assert machine.value == 128
    assert machine.store.latest() == []
