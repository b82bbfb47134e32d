# SPDX-License-Identifier: Apache-2.0
"""Bodies of requests and answers, as they are declared."""

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from serve.asked import _begin, ask

from kmind.runtime.evidence_store import EvidenceStore
from kmind.serve import schema
from kmind.serve.routes import ROUTES

if TYPE_CHECKING:
    from serve.conftest import Served


@pytest.mark.parametrize("route", [r for r in ROUTES if r.method == "GET" and r.where != "stream"])
def test_answers_hold_what_is_declared(served: "Served", disk: str, route: Any) -> None:
    served.client.call("POST", "/v1/instances", {"module": "readahead", "target": disk})
    advice = served.do(served.supervisor.advise)
    with EvidenceStore(served.supervisor.evidence_path) as store:
        assert str(_begin(store, 16)) == advice
    key = {
        "/v1/findings/{id}": served.do(served.supervisor.find),
        "/v1/reports/{id}": served.do(served.supervisor.file_report),
    }.get(route.path, advice)
    path = route.path.format(name=f"readahead@{disk}", id=key)
    status, headers, content = ask(served, "GET", path)
    assert status == 200
    assert headers["content-type"] == "application/json"
    msgspec.convert(content, route.answer)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "the body is wrong"),
        (b"{", 400, "the body is wrong"),
        (b"\xff\xfe", 400, "the body is wrong"),
        (b"[" * 60_000, 400, "the body is wrong"),
        (b"[]", 400, "Expected `object`"),
        (b'{"target": "vda"}', 400, "missing required field `module`"),
        (b'{"module": 7}', 400, "$.module"),
        (b'{"module": ""}', 400, "$.module"),
        (b'{"module": "a\\u0000b/c"}', 400, "$.module"),
        (b'{"module": "a\\n"}', 400, "$.module"),
        (b'{"module": "readahead", "modus": "auto"}', 400, "modus"),
        (b'{"module": "readahead", "mode": "emergency"}', 400, "$.mode"),
        (b'{"module": "readahead", "parameters": {"patience": null}}', 400, "$.parameters"),
        (b'{"module": "readahed", "target": "vda"}', 400, "there is no module"),
        (b'{"module": "readahead", "target": "nosuch"}', 400, "unknown block device"),
        (b'{"module": "readahead"}', 400, "needs a target: a block device"),
        (b'{"module": "' + b"x" * 70_000 + b'"}', 413, "more than"),
    ],
)
def test_wrong_bodies(served: "Served", body: bytes, status: int, said: str) -> None:
    got, headers, problem = ask(
        served, "POST", "/v1/instances", body, content_type="application/json"
    )
    assert got == status == problem["status"]
    assert headers["content-type"] == "application/problem+json"
    assert said in problem["detail"] or said in str(problem)
    msgspec.convert(problem, schema.Problem, strict=True)
    assert "\n" not in problem["detail"]
    assert served.client.get("/v1/instances")["instances"] == []
