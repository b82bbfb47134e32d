# SPDX-License-Identifier: Apache-2.0
"""Services that instances share, and the parts of one instance."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from runtime.simulated import Simulated

from kmind.events import Log
from kmind.guard import Policy
from kmind.knobs import get_knob
from kmind.runtime.services import Services


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Simulated]:
    it = Simulated(tmp_path)
    yield it
    it.close()


def test_spec_names_the_instance(made: Simulated) -> None:
    assert made.spec.name == made.instance.name == "readahead@sim0"
    assert made.spec.manifest is made.spec.module.manifest


def test_logger_tells_of_the_instance_and_of_who_said_it(made: Simulated) -> None:
    made.services.logger("a@b")("one")
    made.services.logger("a@b", "extension")("two")
    assert made.events == [
        Log(instance="a@b", source="kmind", message="one"),
        Log(instance="a@b", source="extension", message="two"),
    ]


def test_actuators_have_one_journal_and_what_they_hold_of_their_own(made: Simulated) -> None:
    knob, target = get_knob("block.read_ahead_kb"), made.spec.target
    one, two = made.services.actuator(), made.services.actuator()
    one.apply(knob, target, 512, who="a@b", why="a test")
    assert (len(one.held), len(two.held), len(made.journal.open_changes())) == (1, 0, 1)
    assert knob.read(target) == 512
    one.undo_all()
    assert knob.read(target) == 128


def test_leases_are_freed_in_the_core_of_their_slot(made: Simulated) -> None:
    freed: list[tuple[int, int, int]] = []
    core = SimpleNamespace(free=lambda *words: freed.append(words))
    services = Services(made.journal, Policy(), made.events.append, core=core)  # type: ignore[arg-type]
    services.release(3)(1, 2)
    made.services.release(3)(1, 2)  # there is no core: nothing to free
    assert freed == [(3, 1, 2)]
