# SPDX-License-Identifier: Apache-2.0
"""Experiments that a module made: put on record whole and checked, or left out in a line."""

import copy
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmind.agent.types import Mode
from kmind.evidence import Design, Experiment, Guard, Noise
from kmind.evidence.chart import render_experiment
from kmind.extension import Context, Given, KnobInfo, Outlets, find_module
from kmind.extension.handover import NOTE_MOST
from kmind.guard import Policy
from kmind.knobs import get_knob
from kmind.runtime.evidence_store import BY_MODULE, EvidenceStore
from kmind.runtime.experiment import module_reports
from kmind.runtime.experiment.module_reports import ModuleReports
from kmind.runtime.sandbox.framing import MARK, Parts, send_note, send_parts
from kmind.runtime.sandbox.inbox import Inbox
from kmind.runtime.sandbox.log_reader import LineReader
from kmind.runtime.sandbox.log_writer import LineOutput
from kmind.runtime.services import InstanceSpec, Services
from kmind.testing.tuning import World, knob
from kmind.workloads.simulated_disk import make_disk_files

KNOBS = {
    "block.scheduler": knob("block.scheduler", 1, "none"),
    "block.nr_requests": knob("block.nr_requests", 2, 64),
}


def ended(effect: float = 1.5, *, seed: int = 4, design: Design | None = None) -> Experiment:
    rng = np.random.default_rng(seed)
    experiment = Experiment(design or Design(), rng, None, [Guard("psi", "lower", 2.0)])
    while experiment.outcome is None:
        factor = effect if experiment.arm == "candidate" else 1.0
        value = 1000 * factor * float(np.exp(rng.normal(0, 0.03)))
        experiment.learn_one(value, {"psi": 0.1})
    return experiment


class Lines:
    """Output of ``send_parts``, line by line."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def write(self, text: str, /) -> int:
        assert text.endswith("\n")
        self.lines.append(text[:-1].encode())
        return len(text)

    def end_line(self) -> None:
        pass


def cut(text: bytes) -> list[bytes]:
    output = Lines()
    send_parts(text, output)
    return output.lines


class Owner:
    """A ``ModuleReports`` with a store in memory; ``send`` gives it what a context sends."""

    def __init__(self, folder: Path, module: str = "autotune") -> None:
        self.clock = 100.0
        self.log: list[str] = []
        self.store = EvidenceStore(None)
        self.target = make_disk_files(folder / "root")
        self.knobs: dict[str, KnobInfo] = dict(KNOBS)
        found = find_module(module)
        agent = SimpleNamespace(backend="sim")
        spec = InstanceSpec(found, self.target, {}, Mode.AUTO, agent)  # type: ignore[arg-type]
        services = Services(
            None,  # type: ignore[arg-type]
            Policy(),
            lambda event: self.log.append(event.fields()["message"]),
            evidence=self.store,
            now=lambda: self.clock,
        )
        self.reports = ModuleReports(spec, services, lambda: self.knobs)
        self.inbox = Inbox([self.reports], self.log.append, lambda: self.clock)

    def send(self, text: bytes) -> None:
        self.inbox.handle(cut(b"experiment " + text))

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.store.latest(1000)

    def gains(self) -> list[dict[str, Any]]:
        return self.store.gains(
            module="autotune",
            knob=get_knob("block.nr_requests"),
            target=self.target,
            incumbent=64,
            candidate=128,
            context="phase 0",
            younger_s=1e6,
        )


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    made = Owner(tmp_path)
    with made.store:
        yield made


def sent(experiment: Experiment, **words: Any) -> bytes:
    """Return the text that a context sends for an experiment."""
    texts: list[bytes] = []
    context = Context(
        Given(module="autotune", target="sim0", params={}, features={}, knobs=KNOBS),
        Outlets(port=None, hand_over=lambda kind, text: texts.append(text)),
    )
    said: dict[str, Any] = {
        "incumbent": {"block.nr_requests": 64},
        "candidate": {"block.nr_requests": 128},
        "metric": "block.latency",
        "unit": "ms",
        "context": "phase 0",
        "reason": "A step.",
    }
    context.report_experiment(experiment, **(said | words))
    return texts[0]


@pytest.mark.parametrize("effect", [1.5, 0.8, 1.0, 0.1])
def test_it_is_on_record_as_it_was(owner: Owner, effect: float) -> None:
    experiment = ended(effect)
    owner.send(sent(experiment))
    assert owner.log == []
    row = owner.store.get("1")
    assert (row["kind"], row["state"], row["backend"]) == (BY_MODULE, "ended", "sim")
    assert (row["outcome"], row["kept"]) == (experiment.outcome, False)
    assert row["candidate"] == {"block.nr_requests": 128}
    assert (row["knob"], row["metric"], row["unit"]) == ("block.nr_requests", "block.latency", "ms")
    assert row["record"] == experiment.to_dict()
    assert "effect x" in render_experiment(row["record"]) or effect == 0.1


def test_several_knobs_and_one_ended_from_outside(owner: Owner) -> None:
    experiment = Experiment(Design(), np.random.default_rng(1))
    experiment.learn_one(1.0)
    experiment.abort("the load\x1b[2J ended")
    both = {"block.scheduler": "none", "block.nr_requests": 64}
    owner.send(sent(experiment, incumbent=both, candidate=both | {"block.scheduler": "bfq"}))
    (row,) = owner.rows
    assert row["knob"] == "block.scheduler, block.nr_requests"
    assert row["candidate"] == {"block.scheduler": "bfq", "block.nr_requests": 64}
    assert (row["outcome"], row["why"]) == ("aborted", "the load [2J ended")


def test_nothing_is_decided_by_it(owner: Owner) -> None:
    words: dict[str, Any] = {
        "kind": "trial", "instance": "autotune@sim0", "module": "autotune", "backend": "sim",
        "knob": get_knob("block.nr_requests"), "target": owner.target, "incumbent": 64,
        "candidate": 128, "metric": "block.latency", "unit": "ms", "context": "phase 0",
    }  # fmt: skip
    owner.send(sent(ended(1.5)))
    assert owner.gains() == []
    owner.store.end(owner.store.begin(**words), ended(1.5).to_dict(), kept=True)
    assert [row["id"] for row in owner.gains()] == [2]
    owner.send(sent(ended(0.8)))  # nor against it
    assert len(owner.rows) == 3
    assert [row["id"] for row in owner.gains()] == [2]
    kept = owner.store.kept("autotune@sim0", get_knob("block.nr_requests"))
    assert kept is not None
    assert kept["id"] == 2


def test_it_does_not_push_out_what_the_owner_measured(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kmind.runtime.evidence_store._MOST_BY_MODULE", 3)
    mine = owner.store.begin(
        kind="trial", instance="x@y", module="x", backend="sim", knob=get_knob("vm.swappiness"),
        target=owner.target, incumbent=60, candidate=10, metric="m", unit="",
    )  # fmt: skip
    text = sent(ended(1.5))
    for _ in range(6):
        owner.send(text)
    assert [row["id"] for row in owner.rows] == [7, 6, 5, mine]


def changed(text: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    said = json.loads(text)
    change(said)
    return json.dumps(said).encode()


def in_experiment(**words: Any) -> Callable[[dict[str, Any]], object]:
    return lambda said: said["experiment"].update(words)


def in_design(**words: Any) -> Callable[[dict[str, Any]], object]:
    return lambda said: said["experiment"]["design"].update(words)


def better(said: dict[str, Any]) -> None:
    for block in said["experiment"]["blocks"]:
        block[1] *= 1.5 if block[0] == "candidate" else 1


def shuffled(said: dict[str, Any]) -> None:
    for block in said["experiment"]["blocks"]:
        block[0] = "candidate"


def went_on(said: dict[str, Any]) -> None:
    experiment = said["experiment"]
    for name in ("blocks", "readings"):
        experiment[name] = experiment[name] + experiment[name][-2:]


@pytest.mark.parametrize(
    ("effect", "change", "why"),
    [
        (1.0, in_experiment(outcome="gain"), "it says gain, and its blocks say no change"),
        (0.8, in_experiment(outcome="gain"), "it says gain, and its blocks say loss"),
        (1.0, better, "it has blocks after its end"),
        (1.5, shuffled, "its blocks are in no order"),
        (1.5, went_on, "it has blocks after its end"),
        (1.5, in_experiment(outcome="kept"), "outcome"),
        (1.5, in_experiment(blocks=[]), "length"),
        (1.5, in_experiment(blocks=[["incumbent", 1.0]] * 1001), "length"),
        (1.5, in_experiment(blocks="text"), "array"),
        (1.5, in_experiment(calibration=9), "are not in its design"),
        (1.5, in_experiment(readings=[]), "its readings are not those"),
        (1.5, in_experiment(more=1), "unknown field"),
        (1.5, in_design(alpha=0.5), "alpha"),
        (1.5, in_design(block_s=0), "no block"),
        (1.5, in_design(max_s=1e300), "max_s"),
        (1.5, in_design(min_pairs=0), "no block, no pair"),
        (1.5, in_design(collapse=0.5), "collapse"),
        (1.5, in_design(calibration=True), "calibration"),
        (1.5, lambda said: said.pop("metric"), "metric"),
        (1.5, lambda said: said.update(metric=""), "metric"),
        (1.5, lambda said: said.update(candidate={}), "not the same knobs"),
        (1.5, lambda said: said.update(incumbent={}), "incumbent"),
        (1.5, lambda said: said["candidate"].update({"block.nr_requests": "many"}), "number"),
        (1.5, lambda said: said["candidate"].update({"block.nr_requests": 1 << 70}), "64 bits"),
    ],
)  # fmt: skip
def test_what_is_not_so_is_left_out_in_a_line(
    owner: Owner, effect: float, change: Callable[[dict[str, Any]], object], why: str
) -> None:
    owner.send(changed(sent(ended(effect)), change))
    assert owner.rows == []
    (line,) = owner.log
    assert line.startswith("a report of an experiment is left out: ")
    assert why.lower() in line.lower()
    owner.send(sent(ended(effect)))  # and the next good one is taken
    assert len(owner.rows) == 1


def test_a_knob_that_is_not_granted(owner: Owner) -> None:
    text = sent(ended(1.5))
    owner.knobs.pop("block.nr_requests")
    owner.send(text)
    assert owner.log == [
        "a report of an experiment is left out: knob 'block.nr_requests' is not granted"
    ]


def test_a_module_whose_owner_experiments_has_none_to_report(tmp_path: Path) -> None:
    owner = Owner(tmp_path, "readahead")
    owner.send(sent(ended(1.5)))
    assert owner.rows == []
    assert "its owner makes the experiments" in owner.log[0]


def test_no_more_than_twenty_a_minute(owner: Owner) -> None:
    good, bad = sent(ended(1.5)), b'{"text\\u001b": 1}'
    for _ in range(30):
        owner.send(good)
        owner.send(bad)
        owner.inbox.handle([MARK + b"7 9 x"])
    assert len(owner.rows) == 10
    reports = [line for line in owner.log if line.startswith("a report of an experiment")]
    assert len(reports) == 11  # ten that are bad, and that there were too many
    assert "more than 20 a minute" in reports[-1]
    assert len(owner.log) - len(reports) == 21  # the same of what is in no order
    owner.clock += 3.0
    owner.send(good)
    assert len(owner.rows) == 11


def test_one_of_a_thousand_blocks_fits(owner: Owner) -> None:
    design = Design(max_s=1000 * 0.4, min_gain=0.05, collapse=0)
    experiment = Experiment(design, np.random.default_rng(0))
    for number in range(1000):
        if experiment.outcome is None:
            experiment.learn_one(1000.5 + number % 3)
    if experiment.outcome is None:
        experiment.abort("enough")
    owner.send(sent(experiment))
    assert len(owner.rows) == 1


@given(st.lists(st.binary(max_size=60)), st.booleans())
def test_any_bytes_are_taken_without_harm(lines: list[bytes], headed: bool) -> None:
    parts = Parts(100)
    for line in lines:
        try:
            text = parts.add(MARK + (b"0 1 " if headed else b"") + line)
        except ValueError:
            continue
        assert text is None or len(text) <= 100


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.floats(allow_nan=False)
        | st.text(max_size=5)
        | st.integers(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=6,
    ),
    st.sampled_from(["design", "noise", "guards", "blocks", "readings", "calibration", "interval"]),
)
def test_any_json_in_its_place_is_no_record_or_one_that_can_be_drawn(found: Any, name: str) -> None:
    said = json.loads(TEXT)
    said["experiment"][name] = found
    owner = copy.copy(OWNER)
    with EvidenceStore(None) as owner.store:
        owner.reports = copy.copy(OWNER.reports)
        owner.reports._store = owner.store
        owner.reports._put(json.dumps(said).encode())
        for row in owner.store.latest():
            render_experiment(owner.store.get(str(row["id"]))["record"])


TEXT = sent(ended(1.5))


@pytest.fixture(scope="module", autouse=True)
def _one_owner(tmp_path_factory: pytest.TempPathFactory) -> None:
    global OWNER
    OWNER = Owner(tmp_path_factory.mktemp("reports"))


OWNER: Owner


def test_parts_that_are_lost_cost_their_report_only(owner: Owner) -> None:
    text = sent(ended(1.0))
    lines = cut(b"experiment " + text)
    assert len(lines) > 2
    owner.inbox.handle(lines[:1] + lines[2:])
    assert owner.rows == []
    assert set(owner.log) == {"a message of the extension is left out: parts of it are lost"}
    owner.inbox.handle(lines[:2] + lines)
    assert len(owner.rows) == 1


def test_too_long_a_text_is_cut_off() -> None:
    parts = Parts(3000)
    first, second, third, last = cut(b"x" * 5000)
    assert parts.add(first) is parts.add(second) is None
    with pytest.raises(ValueError, match="more than 3000 bytes"):
        parts.add(third)
    with pytest.raises(ValueError, match="lost"):
        parts.add(last)


def test_a_context_refuses_what_its_owner_would() -> None:
    running = Experiment(Design(), np.random.default_rng(1))
    with pytest.raises(ValueError, match="has not ended"):
        sent(running)
    with pytest.raises(ValueError, match="not granted"):
        sent(ended(), incumbent={"x": 1}, candidate={"x": 2})
    with pytest.raises(ValueError, match="not the same knobs"):
        sent(ended(), incumbent={})
    with pytest.raises(ValueError, match="no choice"):
        sent(ended(), incumbent={"block.scheduler": "x"}, candidate={"block.scheduler": "none"})
    with pytest.raises(ValueError, match="may take"):
        sent(ended(), reason="x" * NOTE_MOST)


def test_the_shape_is_that_of_an_experiment() -> None:
    record = ended().to_dict()
    assert set(module_reports._Record.__struct_fields__) == set(record)
    assert set(module_reports._Design.__struct_fields__) == {field.name for field in fields(Design)}
    assert set(module_reports._Guard.__struct_fields__) == set(record["guards"][0])
    assert set(module_reports._Noise.__struct_fields__) == set(Noise().to_dict())
    most = replace(Design(), alpha=0.05)
    assert msgspec.convert(most.to_dict(), module_reports._Design).alpha == 0.05


def test_through_a_pipe_among_lines_of_the_log(owner: Owner) -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    output, reader = LineOutput(write), LineReader(lambda: 0.0)
    output.write("before")
    send_note(output, "experiment", sent(ended(1.0)))
    output.write("after\n")
    os.close(write)
    said = []
    while data := os.read(read, 700):
        said += reader.feed(data)
        owner.inbox.handle(reader.parts)
        reader.parts.clear()
    os.close(read)
    assert said == ["before", "after"]
    assert owner.log == []
    assert len(owner.rows) == 1


def test_what_autotune_reports_is_taken(tmp_path: Path) -> None:
    owner = Owner(tmp_path)
    knobs: dict[str, int | str] = {"block.scheduler": "none", "block.nr_requests": 64}
    world = World(
        lambda now: {"none": 100, "kyber": 130}.get(now["block.scheduler"], 90.0), knobs, trials=20
    ).run(200)
    assert len(world.reports) == world.status["trials"] > 10
    assert not [line for line in world.lines if "kmind why" in line]
    for text in world.reports:
        owner.clock += 10
        owner.send(text)
    assert owner.log == []
    outcomes = [row["outcome"] for row in reversed(owner.rows)]
    assert outcomes.count("gain") == world.status["gains"] >= 1
    first = owner.rows[-1]
    assert first["incumbent"] == {"block.scheduler": "none"}
    assert first["context"] == "phase 0"
