# SPDX-License-Identifier: Apache-2.0
"""schemathesis on a unix socket: requests made from the API's description, answers held to it."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from requests.adapters import HTTPAdapter
from schemathesis.specs.openapi.checks import positive_data_acceptance
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection

from kmind.serve.openapi import describe
from kmind.serve.routes import ROUTES

HOST = "http://kmind"


class UnixAdapter(HTTPAdapter):
    """Lets requests, and so schemathesis, speak to the daemon's real socket."""

    def __init__(self, path: Path) -> None:
        super().__init__()

        class Connection(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                out = socket.socket(socket.AF_UNIX)
                out.settimeout(60)
                out.connect(str(path))
                return out

        self.pool = HTTPConnectionPool("kmind")
        self.pool.ConnectionCls = Connection

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> HTTPConnectionPool:
        return self.pool

    def close(self) -> None:
        self.pool.close()


@contextmanager
def session_at(path: Path) -> Iterator[requests.Session]:
    """A session in which ``HOST`` is the socket."""
    with requests.Session() as session:
        session.mount(HOST, UnixAdapter(path))
        yield session


def known_names(
    description: dict[str, Any], module: str, disk: str, *, only: bool = False
) -> dict[str, Any]:
    """Let the description know names that there are, or let requests have ``only`` such ones."""

    def hint(schema: dict[str, Any], *names: str) -> None:
        schema["enum" if only else "examples"] = list(names)

    schemas = description["components"]["schemas"]
    load = schemas["LoadRequest"]["properties"]
    hint(load["module"], module, "nosuch")
    hint(load["target"], disk, "nosuch", "system")
    if only:
        load["parameters"] = {"enum": [{}, {"value": 256}, {"nosuch": 1}]}
    schemas["LoadRequest"]["examples"] = [{"module": module, "target": disk}]
    known = {"name": f"{Path(module).name}@{disk}", "id": "1"}
    for methods in description["paths"].values():
        for operation in methods.values():
            for parameter in operation.get("parameters", []):
                if parameter["name"] in known:
                    hint(parameter["schema"], known[parameter["name"]], "nosuch")
    return description


def fuzz(session: requests.Session, module: str, disk: str, *, rounds: int) -> int:
    """Go through all operations but the endless stream, by names that there are and are not.

    Returns how many requests changed something.
    """
    named = known_names(describe(ROUTES), module, disk, only=True)
    schema = schemathesis.openapi.from_dict(named)
    done = 0

    operations = [each.ok() for each in schema.exclude(path="/v1/events").get_all_operations()]
    for number, operation in enumerate(operations * rounds):

        @seed(number)
        @given(case=operation.as_strategy())
        @settings(
            max_examples=4, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        def check(case: Any) -> None:
            nonlocal done
            # A name can be well formed and of nothing: that is a refusal, as described.
            answer = case.call_and_validate(
                base_url=HOST, session=session, excluded_checks=[positive_data_acceptance]
            )
            if answer.status_code == 200 and case.method != "GET":
                done += 1

        check()
    return done
