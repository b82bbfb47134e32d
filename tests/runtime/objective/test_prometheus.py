# SPDX-License-Identifier: Apache-2.0
"""Numbers that a Prometheus server is asked for."""

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from runtime.objective.asked import SYSTEM, gap, never

from kmind.errors import UsageError
from kmind.runtime.objective.sources import Objective, parse_objective


class Server:
    """A server on loopback that answers what the test says, and what it was asked."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.status = 200
        self.reason: str | None = None
        self.text = ""
        self.chunked = False
        self.wanted = ""
        self.paths: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.paths.append(self.path)
                known = self.headers.get("Authorization", "") == outer.wanted
                self.send_response(outer.status if known else 401, outer.reason)
                if outer.status == 302:
                    self.send_header("Location", "http://u:s3cret@elsewhere/\x1b[2J")
                self.send_header("Connection", "close")
                body = outer.text.encode()
                if outer.chunked:
                    self.send_header("Transfer-Encoding", "chunked")
                    body = b"".join(b"1\r\n%c\r\n" % each for each in body) + b"0\r\n\r\n"
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        class Listener(http.server.HTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        self._server = Listener((host, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        where = f"[{host}]" if ":" in host else host
        self.url = f"http://{where}:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def objective(self, path: str = "", query: str = "rate(x[10s])") -> Objective:
        return parse_objective(f"prometheus:{self.url}{path}?query={query}", SYSTEM)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def answer(kind: str, result: str) -> str:
    return f'{{"status":"success","data":{{"resultType":"{kind}","result":{result}}}}}'


@pytest.mark.parametrize(
    "text", [answer("vector", '[{"metric":{},"value":[1,"2.5"]}]'), answer("scalar", '[1,"2.5"]')]
)
def test_prometheus_is_asked_and_understood(server: Server, text: str) -> None:
    server.text = text
    assert server.objective().ask(never) == 2.5
    assert server.paths == ["/api/v1/query?query=rate%28x%5B10s%5D%29"]


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("", "/api/v1/query"),
        ("/", "/api/v1/query"),
        ("/api/v1/query", "/api/v1/query"),
        ("/api/v1/query/", "/api/v1/query"),
        ("/api/v1", "/api/v1/query"),
        ("/prometheus", "/prometheus/api/v1/query"),
        ("/prometheus/api/v1/query", "/prometheus/api/v1/query"),
        ("/a%20b/", "/a%20b/api/v1/query"),
    ],
)
def test_the_api_is_found_from_the_servers_url_or_its_own(
    server: Server, path: str, asked: str
) -> None:
    server.text = answer("scalar", '[1,"2.5"]')
    assert server.objective(path, "up").ask(never) == 2.5
    assert server.paths == [f"{asked}?query=up"]


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("sum(a) + sum(b)", "sum%28a%29%20%2B%20sum%28b%29"),
        ("sum(a)%20%2B%20sum(b)", "sum%28a%29%20%2B%20sum%28b%29"),
        ("a+b", "a%2Bb"),
        ("a % 2", "a%20%25%202"),
        ('up{job="a&b"}', "up%7Bjob%3D%22a%26b%22%7D"),
        ('up{job="?query=x"}', "up%7Bjob%3D%22%3Fquery%3Dx%22%7D"),
        ("x @ 10", "x%20%40%2010"),
    ],
)
def test_a_query_reaches_the_server_as_it_was_meant(server: Server, query: str, asked: str) -> None:
    server.text = answer("scalar", '[1,"2.5"]')
    assert server.objective(query=query).ask(never) == 2.5
    assert server.paths == [f"/api/v1/query?query={asked}"]


def test_a_server_is_reached_by_ipv6() -> None:
    try:
        server = Server("::1")
    except OSError:
        pytest.skip("no IPv6 on loopback")
    try:
        server.text = answer("scalar", '[1,"2.5"]')
        assert server.objective().ask(never) == 2.5
    finally:
        server.close()


def test_an_answer_in_chunks_is_read(server: Server) -> None:
    server.text, server.chunked = answer("scalar", '[1,"2.5"]'), True
    assert server.objective().ask(never) == 2.5


def test_a_name_and_a_password_come_from_a_file_of_ones_own(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "netrc"
    monkeypatch.setattr("kmind.runtime.objective.prometheus.CREDENTIALS", file)
    server.wanted = "Basic dHVuZXI6czNjcmV0"  # tuner:s3cret
    server.text = answer("scalar", '[1,"2.5"]')
    kind, why = gap(server.objective())
    assert kind == "failed"
    assert why.endswith(f"put a name and a password for 127.0.0.1 into {file}")
    file.write_text("machine 127.0.0.1 login tuner password s3cret\n")
    file.chmod(0o600)
    assert server.objective().ask(never) == 2.5
    file.chmod(0o640)
    with pytest.raises(UsageError, match="can be read by others"):
        server.objective()
    file.chmod(0o600)
    file.write_text("machine 127.0.0.1 login tuner s3cret\n")
    with pytest.raises(UsageError, match="cannot be read: line") as caught:
        server.objective()
    assert "s3cret" not in str(caught.value)


def test_a_redirect_is_told_and_not_followed(server: Server) -> None:
    server.status = 302
    kind, why = gap(server.objective())
    assert kind == "failed"
    assert "302 Found, to http://...@elsewhere/" in why
    assert "s3cret" not in why
    assert why.isprintable()


def test_what_a_server_says_of_a_wrong_query_is_told(server: Server) -> None:
    server.status, server.text = 400, '{"status":"error","error":"1:4: parse error\\u001b[2J"}'
    kind, why = gap(server.objective())
    assert (kind, why) == ("failed", "the server says 400 Bad Request: 1:4: parse error [2J")


def test_control_characters_and_long_lines_of_a_server_end_here(server: Server) -> None:
    server.status, server.reason = 500, "\x1b]0;owned\x07" + "x" * 1000
    _, why = gap(server.objective())
    assert why.isprintable()
    assert len(why) < 200
    server.status, server.reason = 200, None
    server.text = answer("scalar", f'[1,"{"9" * 1_000_000}"]')
    kind, why = gap(server.objective())
    assert (kind, len(why) < 200) == ("text", True)


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (500, "", "failed"),
        (302, "", "failed"),
        (200, "", "text"),
        (200, "hello", "text"),
        (200, '{"status":"error"}', "text"),
        (200, "[" * 100_000, "text"),
        (200, answer("vector", "[]"), "empty"),
        (200, answer("vector", '[{"value":[1,"1"]},{"value":[1,"2"]}]'), "text"),
        (200, answer("matrix", '[{"value":[1,"1"]}]'), "text"),
        (200, answer("scalar", '[1,"NaN"]'), "range"),
        (200, answer("scalar", '[1,"+Inf"]'), "range"),
        (200, answer("scalar", '[1,"-Inf"]'), "range"),
        (200, answer("scalar", '[1,"-70"]'), "range"),
        (200, answer("scalar", '[1,"1_0"]'), "text"),
        (200, answer("scalar", "[1,true]"), "text"),
        (200, answer("scalar", '[1,["1"]]'), "text"),
        (200, answer("scalar", f'[{"1" * 5000},"1"]'), "text"),
        (200, answer("string", '[1,"2"]'), "text"),
        (200, answer("vector", '[{"metric":{},"histogram":[1,{}]}]'), "text"),
        (200, answer("vector", '{"a":1}'), "text"),
        (200, '{"status":"success","data":[]}', "text"),
        (200, answer("scalar", '[1,"1e300"]'), "range"),
        (200, answer("scalar", '[1,"many"]'), "text"),
        (200, "x" * (1 << 20) + "xx", "text"),
    ],
)
def test_an_answer_that_is_no_number_is_a_gap(
    server: Server, status: int, text: str, kind: str
) -> None:
    server.status, server.text = status, text
    assert gap(server.objective())[0] == kind
    assert all(path.startswith("/api") for path in server.paths)  # it follows nobody elsewhere


def test_nobody_there_is_a_gap() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        objective = parse_objective(f"prometheus:{url}?query=up", SYSTEM)
        assert gap(objective)[0] == "failed"


@pytest.mark.fault
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("trickle", [False, True])
def test_a_server_that_hangs_is_given_up(scheme: str, trickle: bool) -> None:
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            peer, _ = listener.accept()
            # As HTTP, a status line; as TLS, a long record of the handshake.
            peer.send(b"\x16\x03\x03\x3f\xff\x02\x00\x3f\xfb" if scheme == "https" else b"H")
            first = b"\x03" if scheme == "https" else b"H"
            with peer:
                while not over.wait(0.05):
                    try:
                        peer.send(first if trickle else b"")
                    except OSError:
                        return

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
        objective = parse_objective(f"prometheus:{url}?query=up", SYSTEM, timeout_s=0.3)
        try:
            assert gap(objective) == ("timeout", "no answer within 0.3 s")
        finally:
            over.set()
            thread.join()


@pytest.mark.fault
def test_a_question_to_a_server_that_stalls_is_cut_off_from_another_thread() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        objective = parse_objective(f"prometheus:{url}?query=up", SYSTEM, timeout_s=600)
        found = []
        thread = threading.Thread(target=lambda: found.append(gap(objective)))
        thread.start()
        peer, _ = listener.accept()
        assert peer.recv(10)
        objective.cancel()
        thread.join(30)
        assert not thread.is_alive()
        assert found[0][0] == "timeout"
        peer.close()


def test_a_name_server_that_does_not_answer_in_time_is_a_gap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def late(*_: object, **__: object) -> list[object]:
        time.sleep(0.5)
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 9))]

    monkeypatch.setattr("socket.getaddrinfo", late)
    objective = parse_objective("prometheus:http://h?query=up", SYSTEM, timeout_s=0.1)
    assert gap(objective) == ("timeout", "no answer within 0.1 s")
