# SPDX-License-Identifier: Apache-2.0
"""An instance is a list of services: each gets its turn, and one that fails ends it."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from runtime.simulated import Simulated

from kmind.agent.types import Mode
from kmind.errors import JournalError
from kmind.runtime.service import Service, ServiceError


class Noted(Service):
    """A service that notes what is asked of it."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name = name
        self.notes = notes
        self.error: Exception | None = None

    @property
    def due(self) -> float:
        return 7.0

    def run_due(self) -> None:
        self.notes.append(f"{self.name} ran")
        if self.error:
            raise self.error

    def stop(self, why: str) -> None:
        self.notes.append(f"{self.name} stopped: {why}")


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Simulated]:
    it = Simulated(tmp_path)
    yield it
    it.close()


@pytest.fixture
def noted(made: Simulated) -> list[Noted]:
    notes: list[str] = []
    services = [Noted("one", notes), Noted("two", notes)]
    made.instance.services = tuple(services)
    return services


def test_a_service_does_nothing_by_default() -> None:
    service = Service()
    service.run_due()
    service.set_mode(Mode.AUTO)
    service.stop("the test ends")
    assert service.due == math.inf
    assert service.status() == {}


def test_services_run_in_order_and_stop_in_reverse(made: Simulated, noted: list[Noted]) -> None:
    assert made.instance.due == 7.0
    made.instance.run_due()
    made.instance.emergency("the test says so")
    assert noted[0].notes == [
        "one ran",
        "two ran",
        "two stopped: emergency",
        "one stopped: emergency",
    ]
    assert made.instance.due == math.inf
    made.instance.run_due()  # it has no turns any more
    assert len(noted[0].notes) == 4


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ServiceError("sda has gone"), "sda has gone"),
        (JournalError("the disk is full"), "changes cannot be kept on record: the disk is full"),
    ],
)
def test_a_service_that_fails_ends_the_instance(
    made: Simulated, noted: list[Noted], error: Exception, why: str
) -> None:
    noted[0].error = error
    made.instance.run_due()
    assert made.instance.failed == why
    assert noted[0].notes == ["one ran", "two stopped: emergency", "one stopped: emergency"]
    assert made.events[-1].fields() == {
        "instance": "readahead@sim0",
        "mode": "emergency",
        "why": why,
    }
