# SPDX-License-Identifier: Apache-2.0
"""Answers of the API, over its real socket."""

import dataclasses
import http.client
import json
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from serve.asked import ask
from serve.conftest import serve

from kmind.cli.client import _UnixConnection
from kmind.errors import KmindError
from kmind.serve import api, peers

if TYPE_CHECKING:
    from serve.conftest import Served

LOAD = {"module": "readahead", "target": ""}


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


def test_an_unforeseen_error_is_told_and_survived(served: "Served", disk: str) -> None:
    served.client.call("POST", "/v1/instances", {"module": "readahead", "target": disk})

    def broken(name: str) -> dict[str, Any]:
        raise ZeroDivisionError("one\ntwo")

    served.supervisor.requests.reload = broken  # type: ignore[method-assign]
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
