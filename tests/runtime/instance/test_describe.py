# SPDX-License-Identifier: Apache-2.0
"""Description and record of an instance."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from runtime.simulated import Simulated

from kmind.agent.types import Mode
from kmind.runtime.instance.describe import describe, state_of


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Simulated]:
    it = Simulated(tmp_path)
    yield it
    it.close()


def test_status_holds_what_each_service_says(made: Simulated) -> None:
    status = describe(made.instance)
    assert (status["name"], status["mode"], status["state"]) == (
        "readahead@sim0",
        "auto",
        "running",
    )
    assert (status["holds"], status["yielded"]) == ([], [])
    assert (status["experiment"], status["extension"]) == (None, None)
    msgspec.json.encode(status)  # JSON can hold it
    made.instance.emergency("the test says so")
    status = describe(made.instance)
    assert (status["mode"], status["state"], status["failed"]) == (
        "emergency",
        "failed",
        "the test says so",
    )


def test_state_says_what_a_later_owner_needs(made: Simulated) -> None:
    made.instance.verdicts.last_id = 9
    made.instance.telemetry.told = 4
    state = state_of(made.instance, module="readahead", slot=2, generation=3)
    assert (state.name, state.module, state.target) == ("readahead@sim0", "readahead", "sim0")
    assert (state.slot, state.generation, state.last_id, state.windows) == (2, 3, 9, 4)
    assert (state.mode, state.running, state.process) == ("auto", True, None)
    made.instance.starting = True
    assert not state_of(made.instance, module="readahead", slot=2, generation=3).running


def test_one_is_dirty_until_it_is_recorded(made: Simulated) -> None:
    assert not made.instance.dirty
    made.instance.holds.dirty = True
    assert made.instance.dirty
    made.instance.set_mode(Mode.AUTO)
    made.instance.record(module="readahead", slot=1, generation=1)
    assert not made.instance.dirty
    made.instance.verdicts.last_id += 1 << 16  # ids must not be given twice
    assert made.instance.dirty
