# SPDX-License-Identifier: Apache-2.0
"""The API against its own description, by requests that schemathesis makes of it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from serve.conftest import serve
from serve.fuzz import HOST, known_names, session_at
from serve.memory import DISK

from kmind.serve.openapi import describe
from kmind.serve.routes import ROUTES

if TYPE_CHECKING:
    from serve.conftest import Served


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Served"]:
    with serve(tmp_path_factory.mktemp("api")) as served:
        served.do(served.supervisor.advise)
        yield served


@pytest.fixture(scope="module")
def session(api: "Served") -> Iterator[requests.Session]:
    with session_at(api.path) as session:
        yield session


def test_every_route_is_described() -> None:
    paths = describe(ROUTES)["paths"]
    for route in ROUTES:
        operation = paths[route.path][route.method.lower()]
        assert operation["summary"]
        assert operation["responses"]["200"]["content"]
    ids = [op["operationId"] for methods in paths.values() for op in methods.values()]
    assert len(ids) == len(set(ids)) == len(ROUTES)


def test_the_daemon_serves_its_description(session: requests.Session) -> None:
    assert session.get(f"{HOST}/openapi.json", timeout=10).json() == describe(ROUTES)


schema = schemathesis.openapi.from_dict(known_names(describe(ROUTES), "readahead", DISK))


# The stream has no end; tests/serve/test_events.py reads it.
@schema.exclude(path="/v1/events").parametrize()
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_any_request_gets_an_answer_as_described(
    case: Any, session: requests.Session, api: "Served"
) -> None:
    # A name can be well formed and of nothing: that is a refusal, as described.
    case.call_and_validate(
        base_url=HOST, session=session, excluded_checks=[positive_data_acceptance]
    )
    assert api.do(lambda: True)
