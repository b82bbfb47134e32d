# SPDX-License-Identifier: Apache-2.0
"""The API against its own description, by requests that schemathesis makes of it."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from requests.adapters import HTTPAdapter
from schemathesis.specs.openapi.checks import positive_data_acceptance
from serve.conftest import serve
from serve.memory import DISK
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection

from kmind.serve.openapi import describe
from kmind.serve.routes import ROUTES

if TYPE_CHECKING:
    from serve.conftest import Served

HOST = "http://kmind"


class UnixAdapter(HTTPAdapter):
    """Lets requests, and so schemathesis, speak to the daemon's real socket."""

    def __init__(self, path: Path) -> None:
        super().__init__()

        class Connection(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                out = socket.socket(socket.AF_UNIX)
                out.settimeout(30)
                out.connect(str(path))
                return out

        self.pool = HTTPConnectionPool("kmind")
        self.pool.ConnectionCls = Connection

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> HTTPConnectionPool:
        return self.pool

    def close(self) -> None:
        self.pool.close()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Served"]:
    with serve(tmp_path_factory.mktemp("api")) as served:
        served.do(served.supervisor.advise)
        yield served


@pytest.fixture(scope="module")
def session(api: "Served") -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.mount(HOST, UnixAdapter(api.path))
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


def known_names(description: dict[str, Any]) -> dict[str, Any]:
    """Add names that this machine has, so that requests get past the first check."""
    schemas = description["components"]["schemas"]
    schemas["LoadRequest"]["examples"] = [{"module": "readahead", "target": DISK}]
    for methods in description["paths"].values():
        for operation in methods.values():
            for parameter in operation.get("parameters", []):
                known = {"name": f"readahead@{DISK}", "id": "1"}.get(parameter["name"])
                if known:
                    parameter["schema"]["examples"] = [known]
    return description


schema = schemathesis.openapi.from_dict(known_names(describe(ROUTES)))


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
