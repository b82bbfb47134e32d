# SPDX-License-Identifier: Apache-2.0
"""What the API answers, over its real socket."""

import dataclasses
import http.client
import json
import os
import socket
import threading
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from serve.conftest import serve
from serve.memory import DISK

from kmind.cli.client import Client, _UnixConnection
from kmind.errors import KmindError, PrivilegeError
from kmind.infer.features import Feature
from kmind.infer.model_file import ModelFile
from kmind.knobs import Target, get_knob
from kmind.runtime.experiment.store import EvidenceStore
from kmind.serve import api, peers, routes, schema
from kmind.serve.routes import ROUTES, Call, Context
from kmind.testing.models import random_trees

if TYPE_CHECKING:
    from serve.conftest import Served

LOAD = {"module": "readahead", "target": ""}


@pytest.fixture
def disk() -> str:
    return DISK


def ask(
    served: "Served", method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers and content of one answer."""
    connection = _UnixConnection(served.path, 10)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, names)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), json.loads(data) if data else {}


def test_an_instance_from_load_to_unload(served: "Served", disk: str) -> None:
    client = served.client
    assert client.get("/v1/instances")["instances"] == []
    body = {"module": "readahead", "target": disk, "parameters": {"patience": 5}, "mode": "auto"}
    done = client.call("POST", "/v1/instances", body)
    name = f"readahead@{disk}"
    assert done["schema"] == "kmind.change/1"
    assert done["name"] == name
    assert done["result"]["params"]["patience"] == 5
    assert client.get(f"/v1/instances/{name}")["instances"][0]["mode"] == "auto"
    client.call("PUT", f"/v1/instances/{name}/mode", {"mode": "observe"})
    assert client.get("/v1/instances")["instances"][0]["mode"] == "observe"
    assert client.call("POST", f"/v1/instances/{name}/reload")["result"]["generation"] == 2
    assert client.call("DELETE", f"/v1/instances/{name}")["result"]["restored"] is True
    assert client.get("/v1/instances")["instances"] == []


def test_a_dry_run_loads_nothing(served: "Served", disk: str) -> None:
    body = {"module": "readahead", "target": disk, "dry_run": True}
    assert served.client.call("POST", "/v1/instances", body)["name"] == f"readahead@{disk}"
    assert served.client.get("/v1/instances")["instances"] == []


def _begin(store: EvidenceStore, candidate: int) -> int:
    return store.begin(
        kind="trial", instance="readahead@vda", module="readahead", backend="bpf",
        knob=get_knob("block.read_ahead_kb"), target=Target.system(), incumbent=128,
        candidate=candidate, metric="requests", unit="1/s",
    )  # fmt: skip


def test_experiments(served: "Served", tmp_path: Path) -> None:
    client = served.client
    assert client.get("/v1/experiments") == {"schema": "kmind.why/2", "experiments": []}
    with EvidenceStore(tmp_path / "evidence.db") as store:
        _begin(store, 16)
        _begin(store, 64)
        listed = client.get("/v1/experiments")["experiments"]
        assert [(each["id"], each["candidate"]) for each in listed] == [(2, 64), (1, 16)]
        assert "record" not in listed[0]
        (one,) = client.get("/v1/experiments/1")["experiments"]
        assert (one["candidate"], one["state"], one["record"]) == (16, "running", None)
    for wrong in ("3", "x", "-1", "1" * 40):
        assert ask(served, "GET", f"/v1/experiments/{wrong}")[0] == 404


def test_advice(served: "Served") -> None:
    first = served.do(served.supervisor.advise)
    second = served.do(lambda: served.supervisor.advise(256))
    client = served.client
    assert [each["id"] for each in client.get("/v1/advice")["advice"]] == [second, first]
    assert client.get(f"/v1/advice/{first}")["advice"][0]["reason"] == "Reads are at random."
    assert client.call("POST", f"/v1/advice/{first}/apply")["advice"][0]["state"] == "applied"
    assert client.call("POST", f"/v1/advice/{first}/undo")["advice"][0]["state"] == "undone"
    assert client.call("POST", f"/v1/advice/{second}/reject")["advice"][0]["state"] == "rejected"
    with pytest.raises(KmindError, match="is rejected, so it cannot be applied"):
        client.call("POST", f"/v1/advice/{second}/apply")


def test_findings(served: "Served") -> None:
    client = served.client
    assert client.get("/v1/findings") == {"schema": "kmind.findings/1", "findings": []}
    first = served.do(served.supervisor.find)
    second = served.do(lambda: served.supervisor.find("queue 1"))
    listed = client.get("/v1/findings")["findings"]
    assert {each["id"] for each in listed} == {first, second}
    assert client.get(f"/v1/findings/{first[:6]}")["findings"][0]["subject"] == "vda"
    (row,) = client.call("POST", f"/v1/findings/{first}/ack")["findings"]
    assert (row["id"], row["state"]) == (first, "acknowledged")
    assert client.call("POST", f"/v1/findings/{second}/close")["findings"][0]["state"] == "closed"
    with pytest.raises(KmindError, match="is closed"):
        client.call("POST", f"/v1/findings/{second}/ack")
    assert client.get(f"/v1/findings/{second}")["findings"][0]["why"] == "root has closed it"
    for wrong in ("0000", "x", first[:3], "%25", "1" * 40):
        assert ask(served, "GET", f"/v1/findings/{wrong}")[0] == 404
        assert ask(served, "POST", f"/v1/findings/{wrong}/ack")[0] == 404


def test_reports(served: "Served") -> None:
    client = served.client
    assert client.get("/v1/reports") == {"schema": "kmind.reports/1", "reports": []}
    report = served.do(served.supervisor.file_report)
    (row,) = client.get("/v1/reports")["reports"]
    assert (row["id"], row["files"], "data" in row) == (report, {"a.csv": 3}, False)
    (row,) = client.get(f"/v1/reports/{report}")["reports"]
    assert row["data"] == {"a.csv": "MSwA"}
    assert client.call("DELETE", f"/v1/reports/{report}")["reports"][0]["id"] == report
    assert ask(served, "GET", f"/v1/reports/{report}")[0] == 404
    assert ask(served, "DELETE", f"/v1/reports/{report}")[0] == 404


def test_only_root_settles_findings_and_reports(served: "Served") -> None:
    finding = served.do(served.supervisor.find)
    report = served.do(served.supervisor.file_report)
    context = Context(served.supervisor, None, dict)  # type: ignore[arg-type]
    for handler, key in (
        (routes.acknowledge_finding, finding),
        (routes.close_finding, finding),
        (routes.remove_report, report),
    ):
        for uid in (1000, -1):
            with pytest.raises(PrivilegeError):
                handler(context, Call({"id": key}, uid=uid))
    assert served.client.get("/v1/findings")["findings"][0]["state"] == "open"
    assert len(served.client.get("/v1/reports")["reports"]) == 1


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
        (b'{"module": "readahead", "target": "nosuch"}', 400, "there is no target"),
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


def test_wrong_requests(served: "Served") -> None:
    assert ask(served, "GET", "/v1/nothing")[0] == 404
    assert ask(served, "GET", "/v1/instances/")[0] == 404
    assert ask(served, "DELETE", "/v1/instances/nosuch@vda")[0] == 404
    assert ask(served, "POST", "/v1/advice/1/apply")[0] == 404
    assert ask(served, "GET", "/v1/advice/%00")[0] == 404
    status, headers, problem = ask(served, "PATCH", "/v1/instances")
    assert status == 405
    assert {word.strip() for word in headers["allow"].split(",")} == {"GET", "HEAD", "POST"}
    assert "does not take PATCH" in problem["detail"]
    status, _, problem = ask(served, "POST", "/v1/instances", b"{}", content_type="text/plain")
    assert status == 415
    assert problem["hint"]


def test_what_is_loaded_already_is_a_conflict(served: "Served", disk: str) -> None:
    served.client.call("POST", "/v1/instances", {"module": "readahead", "target": disk})
    body = json.dumps({"module": "readahead", "target": disk}).encode()
    status, _, problem = ask(served, "POST", "/v1/instances", body, content_type="application/json")
    assert status == 409
    assert problem["hint"] == f"kmind unload readahead@{disk}"


def test_an_unforeseen_error_is_told_and_survived(served: "Served", disk: str) -> None:
    served.client.call("POST", "/v1/instances", {"module": "readahead", "target": disk})

    def broken(name: str) -> dict[str, Any]:
        raise ZeroDivisionError("one\ntwo")

    served.supervisor.reload = broken  # type: ignore[method-assign]
    status, _, problem = ask(served, "POST", f"/v1/instances/readahead@{disk}/reload")
    assert status == 500
    assert problem["detail"] == "unexpected error: ZeroDivisionError: one"
    assert served.client.get("/v1/health")["ok"]
    request, trouble = served.audit[-2:]
    assert request["result"] == problem["detail"]
    assert trouble["event"] == "trouble"
    assert "in broken" in trouble["traceback"]


def test_who_asked_for_a_change_is_recorded(served: "Served", disk: str) -> None:
    served.client.get("/v1/instances")
    assert served.audit == []
    served.client.call("POST", "/v1/instances", {"module": "readahead", "target": disk})
    entry = served.audit[0]
    assert entry["event"] == "request"
    assert (entry["peer"], entry["pid"]) == (f"uid {os.getuid()}", os.getpid())
    assert (entry["method"], entry["path"]) == ("POST", "/v1/instances")
    assert entry["result"] == "done"


def test_members_of_the_group_have_no_command_run_as_root(
    served: "Served", disk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel says who asks, and what they may have run goes by that."""
    words = {"objective": "command:/bin/true", "knobs": "block.nomerges", "better": "lower"}
    root = {"parameters": words | {"user": "root"}}
    body = {"module": "autotune", "target": disk, "parameters": words}
    real = peers.Peer.of

    def member(connection: socket.socket) -> peers.Peer:
        return dataclasses.replace(real(connection), uid=54321)

    monkeypatch.setattr(peers.Peer, "of", member)
    monkeypatch.setattr(peers.Peer, "may_connect", lambda self: True)
    with pytest.raises(KmindError, match="only root may have a command run as") as caught:
        served.client.call("POST", "/v1/instances", body | root)
    assert caught.value.exit_code == 77
    served.client.call("POST", "/v1/instances", body)
    assert len(served.client.get("/v1/instances")["instances"]) == 1


def test_many_at_once(served: "Served", disk: str) -> None:
    """Of many who load the same at once, one succeeds; all are answered."""

    def load(_: int) -> int:
        body = json.dumps({"module": "readahead", "target": disk}).encode()
        return ask(served, "POST", "/v1/instances", body, content_type="application/json")[0]

    with ThreadPoolExecutor(32) as pool:
        statuses = list(pool.map(load, range(64)))
    assert statuses.count(200) == 1
    assert set(statuses) <= {200, 409, 503}


def test_a_stuck_supervisor(tmp_path: Path) -> None:
    """Clients get an answer; those who have waited in vain leave nothing to be done later."""
    with serve(tmp_path, call_s=0.3, waiting=2) as served:
        go = threading.Event()
        held = served.supervisor.submit(go.wait)
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(lambda _: ask(served, "GET", "/v1/instances"), range(3)))
        assert sorted(status for status, _, _ in answers) == [503, 504, 504]
        assert all(problem["hint"] for _, _, problem in answers)
        assert ask(served, "GET", "/v1/health")[0] == 200
        body = json.dumps({"module": "readahead", "target": "vda"}).encode()
        late = ask(served, "POST", "/v1/instances", body, content_type="application/json")
        assert late[0] == 504
        go.set()
        held.result(10)
        assert served.client.get("/v1/instances")["instances"] == []


def test_a_body_that_never_comes_holds_up_nobody(
    served: "Served", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "_BODY_S", 1.0)
    with socket.socket(socket.AF_UNIX) as slow:
        slow.connect(str(served.path))
        head = b"POST /v1/instances HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        slow.sendall(head + b"Content-Length: 100\r\n\r\n{")
        assert served.client.get("/v1/instances")["instances"] == []
        slow.settimeout(30)
        assert b" 408 " in slow.recv(4096)


@pytest.mark.parametrize(
    "raw",
    [
        b"\0" * 100,
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/instances HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /v1/instances HTTP/1.1\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
    ],
    ids=["nul", "version", "length", "path", "headers"],
)
def test_what_is_not_http_is_refused(served: "Served", raw: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as rude:
        rude.connect(str(served.path))
        rude.settimeout(10)
        try:
            rude.sendall(raw)
            answer = rude.recv(4096)
        except (BrokenPipeError, ConnectionResetError):
            answer = b""
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert len(answer) < 2000
    assert served.client.get("/v1/health")["ok"]


def test_clients_that_vanish(served: "Served") -> None:
    for _ in range(50):
        with socket.socket(socket.AF_UNIX) as gone:
            gone.connect(str(served.path))
            gone.sendall(b"GET /v1/instances HTTP/1.1\r\nHost: a\r\n\r\n")
    assert served.client.get("/v1/health")["ok"]


def test_head_and_a_second_request_on_one_connection(served: "Served") -> None:
    connection = _UnixConnection(served.path, 10)
    for method in ("GET", "HEAD", "GET"):
        connection.request(method, "/v1/health")
        answer = connection.getresponse()
        assert isinstance(answer, http.client.HTTPResponse)
        assert answer.status == 200
        answer.read()
    connection.close()


def test_the_client_says_what_the_daemon_said(served: "Served") -> None:
    with pytest.raises(KmindError) as caught:
        served.client.call("POST", "/v1/instances", {"module": "readahed", "target": "vda"})
    assert caught.value.exit_code == 2
    assert "did you mean 'readahead'?" in str(caught.value)


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(KmindError) as caught:
        Client(tmp_path / "none.sock").get("/v1/health")
    assert caught.value.exit_code == 3
    assert "is not running" in str(caught.value)


def test_models_are_deployed_and_rolled_back(served: "Served", disk: str) -> None:
    client = served.client
    client.call("POST", "/v1/instances", {"module": "readahead", "target": disk})
    where = f"/v1/instances/readahead@{disk}/model"
    assert client.get(where)["models"] == []
    files = []
    for seed in (1, 2):
        model = random_trees(np.random.default_rng(seed), 600, 6, 3, 2, complete=True)
        names = tuple(Feature(name) for name in ("a", "b", "c"))
        labels = ("x", "y") if model.output.kind == "argmax" else ()
        files.append(ModelFile(model, names, labels))
        body = {"file": b64encode(files[-1].to_bytes()).decode()}
        # Far more than other requests may hold.
        assert len(body["file"]) > 1 << 20
        done = client.call("PUT", where, body)["result"]
        assert done["hash"] == files[-1].hash
    assert done["before"] == files[0].hash
    assert [each["hash"] for each in client.get(where)["models"]] == [
        files[1].hash,
        files[0].hash,
    ]
    assert client.call("POST", where + "/rollback")["result"]["hash"] == files[0].hash


def test_what_is_no_model_is_refused(served: "Served", disk: str) -> None:
    served.client.call("POST", "/v1/instances", {"module": "readahead", "target": disk})
    where = f"/v1/instances/readahead@{disk}/model"
    for text, status in (("aGVsbG8=", 409), ("no base64", 400), ("", 400)):
        body = json.dumps({"file": text}).encode()
        got, _, problem = ask(served, "PUT", where, body, content_type="application/json")
        assert got == status
        assert "\n" not in problem["detail"]
    assert ask(served, "POST", where + "/rollback")[0] == 409
    assert ask(served, "GET", "/v1/instances/none/model")[0] == 404
