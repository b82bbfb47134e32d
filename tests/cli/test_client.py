# SPDX-License-Identifier: Apache-2.0
"""The client of the daemon's API: paths, and each way in which no answer comes."""

import json
import socket
import threading
from pathlib import Path

import pytest
from serve.conftest import serve

from kmind.cli.client import Client, DaemonError, kernel_name, path_to
from kmind.errors import KmindError, UsageError


def test_the_client_says_what_the_daemon_said(tmp_path: Path) -> None:
    with serve(tmp_path) as served, pytest.raises(KmindError) as caught:
        served.client.call("POST", "/v1/instances", {"module": "readahed", "target": "vda"})
    assert caught.value.exit_code == 2
    assert "did you mean 'readahead'?" in str(caught.value)


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(KmindError) as caught:
        Client(tmp_path / "none.sock").get("/v1/health")
    assert caught.value.exit_code == 3
    assert "is not running" in str(caught.value)


def answering(path: Path, answer: bytes) -> threading.Thread:
    """A server for one connection that says these bytes, whatever it is asked."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            connection.recv(65536)
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def http(body: bytes, status: int = 200) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "broke off|closed the connection"),
        (b"SSH-2.0-\x1b[2J\r\n", "broke off: SSH"),
        (b"HTTP/1.1 200 X\r\n" + b"a: b\r\n" * 200, "broke off: got more than 100 headers"),
        (http(b"{}")[:-1], "broke off"),
        (http(b"[1]"), "it is not an object"),
        (http(b"{"), "is not JSON"),
        (http(b"[" * 100_000), "is not JSON"),
        (http(b'{"n": 1' + b"0" * 5000 + b"}"), "is not JSON"),
        (http(b"\xff"), "is not JSON"),
        (http(b"{}", 500), "refused"),
    ],
)
def test_answer_that_is_none_is_one_line(tmp_path: Path, answer: bytes, reason: str) -> None:
    thread = answering(tmp_path / "api.sock", answer)
    try:
        with pytest.raises(KmindError, match=reason) as caught:
            Client(tmp_path / "api.sock").get("/v1/health")
    finally:
        thread.join()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("code", [0, 256, -1, "2", None, 1.5])
def test_exit_code_that_is_none_becomes_1(tmp_path: Path, code: object) -> None:
    body = json.dumps({"detail": "no", "exit_code": code}).encode()
    thread = answering(tmp_path / "api.sock", http(body, 400))
    try:
        with pytest.raises(KmindError, match="no") as caught:
            Client(tmp_path / "api.sock").get("/v1/health")
    finally:
        thread.join()
    assert caught.value.exit_code == 1


def test_a_place_that_is_no_socket(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DaemonError, match="not running"):
            Client(path).get("/v1/health")


@pytest.mark.parametrize("name", ["", "a/b", "/"])
def test_name_that_cannot_be_one(name: str) -> None:
    with pytest.raises(UsageError, match="names have no slashes"):
        path_to("instance", name)


def test_names_of_targets() -> None:
    assert path_to("instance", "readahead@vda") == "/v1/instances/readahead@vda"
    assert path_to("reports", "3fa9") == "/v1/reports/3fa9"
    assert kernel_name("vda") == "vda"
    # A cgroup may have gone, and its instance be there still.
    assert kernel_name("cgroup:/system.slice/gone.service") == "cgroup:system.slice!gone.service"
