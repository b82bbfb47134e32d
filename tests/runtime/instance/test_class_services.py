# SPDX-License-Identifier: Apache-2.0
"""An instance has the services of its module's class, and keeps to that class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from runtime.simulated import Simulated

from kmind import events
from kmind.agent.types import Action, Mode, Verdict
from kmind.errors import KmindError
from kmind.extension import find_module
from kmind.guard import Bound, Policy
from kmind.knobs import get_knob
from kmind.runtime.experiment.experiments import Experiments
from kmind.runtime.experiment.no_experiments import NoExperiments
from kmind.runtime.holds.grants import Granted
from kmind.runtime.instance.class_services import check_same_class
from kmind.runtime.instance.extension.inbox import make_inbox
from kmind.runtime.objective.service import ObjectiveService
from kmind.runtime.sandbox.framing import send_note
from kmind.runtime.supervisor.recovery import take_over
from kmind.runtime.supervisor.requests import Requests


class Lines:
    """Output of ``send_note``."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def write(self, text: str, /) -> int:
        self.lines.append(text[:-1].encode())
        return len(text)

    def end_line(self) -> None:
        pass


@pytest.fixture
def made(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Simulated]:
    it = Simulated(tmp_path, getattr(request, "param", "readahead"))
    yield it
    it.close()


@pytest.mark.parametrize(
    ("made", "objective", "experiments"),
    [
        ("readahead", True, True),
        ("iolat", False, True),
        ("slowio", False, False),
        ("blockio", False, False),
    ],
    indirect=["made"],
)
def test_an_instance_has_the_services_of_its_class(
    made: Simulated, objective: bool, experiments: bool
) -> None:
    services = made.instance.services
    assert any(isinstance(each, ObjectiveService) for each in services) == objective
    assert any(isinstance(each, Experiments) for each in services) == experiments
    assert any(isinstance(each, NoExperiments) for each in services) != experiments


@pytest.mark.parametrize("made", ["readahead", "slowio"], indirect=True)
def test_status_has_the_same_fields_for_every_class(made: Simulated) -> None:
    status = made.instance.status()
    assert status["experiment"] is None
    assert (status["holds"], status["yielded"], status["knobs"]) == ([], [], {})
    msgspec.json.encode(status)


@pytest.mark.parametrize("made", ["slowio"], indirect=True)
def test_an_instance_without_experiments_has_its_turns_and_modes(made: Simulated) -> None:
    experiments = made.instance.experiments
    made.instance.set_mode(Mode.ADVISE)
    experiments.poll(busy=True)
    experiments.run_due()
    assert (experiments.running, experiments.adopt()) == (False, set())
    made.instance.let_go()


def test_a_value_of_a_class_that_sets_none_is_refused(made: Simulated) -> None:
    """Should an agent approve one all the same."""
    holds = made.instance.holds
    knob = get_knob("block.read_ahead_kb")
    each = Granted(knob, made.spec.target, Bound(0, 8192), 128)
    holds.knobs.grant([each])
    action = Action(
        kind="verdict",
        time_ns=1,
        mode=Mode.AUTO,
        verdict=Verdict.APPROVED,
        id=7,
        knob=knob.id,
        target=made.spec.target.id,
        value=512,
        hold_ms=1000,
    )
    NoExperiments(holds, "detector").approved(each, action, "It says so.", {})
    (failed,) = [event for event in made.events if isinstance(event, events.Failed)]
    assert (failed.id, failed.why) == (7, "a detector sets no knobs")
    assert not holds.held
    assert knob.read(made.spec.target) == 128


@pytest.mark.parametrize(
    ("made", "taken"),
    [
        ("readahead", {"experiment"}),
        ("dirty", {"experiment"}),
        ("slowio", {"finding", "cleared"}),
        ("blockio", {"report"}),
    ],
    indirect=["made"],
)
def test_what_is_handed_over_goes_by_the_class(made: Simulated, taken: set[str]) -> None:
    made.events.clear()
    inbox = make_inbox(made.spec, made.services, dict)
    refused = set()
    for kind in ("experiment", "finding", "cleared", "report"):
        output = Lines()
        send_note(output, kind, b"{}")
        made.events.clear()
        inbox.handle(output.lines)
        (line,) = [str(event) for event in made.events]
        if "its kind is unknown" in line:
            refused.add(kind)
    assert refused == {"experiment", "finding", "cleared", "report"} - taken


def test_a_module_keeps_its_class() -> None:
    manifest = find_module("dirty").manifest
    check_same_class("dirty@system", "predictor", manifest)
    with pytest.raises(KmindError, match="dirty@system is a tuner, and the module dirty is a pr"):
        check_same_class("dirty@system", "tuner", manifest)


def test_a_module_that_changed_its_class_is_not_reloaded() -> None:
    """It is refused before its agent is upgraded: the member has none here."""
    was = SimpleNamespace(manifest=SimpleNamespace(class_="tuner"))
    instance = SimpleNamespace(module=was, target=SimpleNamespace(name="system"), params={})
    member = SimpleNamespace(module="dirty", instance=instance)
    instances: Any = SimpleNamespace(get=lambda name: member, by_name={})
    unused: Any = None
    requests = Requests(instances, unused, Policy(), unused, unused, log=print)
    with pytest.raises(KmindError, match="is a predictor now") as caught:
        requests.reload("dirty@system")
    assert caught.value.hint == "kmind unload dirty@system, and load it again"


def test_an_instance_whose_module_changed_its_class_is_not_taken_over() -> None:
    state = SimpleNamespace(
        name="dirty@system", module="dirty", target="system", slot=3, running=True
    )
    slot = SimpleNamespace(slot=3, name="dirty@system", class_="tuner")
    log: list[str] = []
    supervisor: Any = SimpleNamespace(
        states=SimpleNamespace(load=lambda: ([state], {})),
        core=SimpleNamespace(instances=lambda: [slot]),
        log=log.append,
    )
    assert take_over(supervisor) == []
    assert log == [
        "dirty@system is not taken over: dirty@system is a tuner, and the module dirty is a "
        "predictor now"
    ]
