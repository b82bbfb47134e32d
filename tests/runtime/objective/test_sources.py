# SPDX-License-Identifier: Apache-2.0
"""What is to become better: the kernel's figures, Prometheus, a command, and their faults."""

import http.server
import os
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kmind.errors import UsageError
from kmind.knobs import Target
from kmind.runtime.objective.sources import BUILT_IN, GapError, Objective, parse_objective

SYSTEM = Target.system()


def never() -> bool:
    return False


def gap(objective: Objective, cancelled: Callable[[], bool] = never) -> tuple[str, str]:
    with pytest.raises(GapError) as caught:
        objective.ask(cancelled)
    assert "\n" not in str(caught.value)
    return caught.value.kind, str(caught.value)


# Built in


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    pressure = tmp_path / "proc/pressure"
    pressure.mkdir(parents=True)
    for name in ("cpu", "io", "memory"):
        (pressure / name).write_text(
            "some avg10=0.00 avg60=0.00 avg300=0.00 total=1000000\n"
            "full avg10=0.00 avg60=0.00 avg300=0.00 total=500000\n"
        )
    disk = tmp_path / "sys/block/sda"
    disk.mkdir(parents=True)
    (disk / "dev").write_text("8:0\n")
    (disk / "stat").write_text("100 0 800 250 20 0 160 50 0 0 0\n")
    return tmp_path


def test_pressure_is_the_share_of_the_time_since_the_last_look(machine: Path) -> None:
    objective = parse_objective("psi.io.some", SYSTEM, root=machine)
    assert objective.better == "lower"
    assert objective.ask(never) is None
    began = time.monotonic()
    file = machine / "proc/pressure/io"
    file.write_text(file.read_text().replace("total=1000000", "total=1000000000"))
    value = objective.ask(never)
    assert value is not None
    assert value > 999 / (time.monotonic() - began + 5)


def test_a_disks_figures_come_from_its_counters(machine: Path) -> None:
    disk = Target.block("sda", root=machine)
    latency = parse_objective("block.latency", disk)
    named = parse_objective("block.bytes:sda", SYSTEM, root=machine)
    assert latency.ask(never) is None
    assert named.ask(never) is None
    stat_file = machine / "sys/block/sda/stat"
    stat_file.write_text("110 0 1600 350 30 0 320 150 0 0 0\n")
    assert latency.ask(never) == 10  # 200 ms more for 20 requests
    value = named.ask(never)
    assert value is not None
    assert value > 0
    assert (latency.better, named.better) == ("lower", "higher")
    assert gap(latency)[0] == "empty"  # no request since
    stat_file.write_text("?\n")
    assert gap(latency)[0] == "failed"
    stat_file.write_text("110 0 1600 350 30 0 320 150 0 0 0\n")
    assert latency.ask(never) is None  # begins anew


def test_a_disks_clock_of_32_bits_wraps(machine: Path) -> None:
    disk, stat_file = Target.block("sda", root=machine), machine / "sys/block/sda/stat"
    latency = parse_objective("block.latency", disk)
    looks = [
        "1000 0 8000 4294967200 1000 0 8000 4294967290 0 1 1",
        "1100 0 8800 4294967290 1050 0 8400 14 0 1 1",  # the writes' time wraps alone
        "1200 0 9600 104 1100 0 8800 34 0 1 1",
    ]
    found = []
    for look in looks:
        stat_file.write_text(look + "\n")
        found.append(latency.ask(never))
    assert found == [None, pytest.approx(110 / 150), pytest.approx(130 / 150)]


@pytest.mark.parametrize(
    ("name", "later", "why"),
    [
        ("block.latency", "90 0 700 250 20 0 160 50 0 0 0", "begun again"),
        ("block.latency", "900 0 800 5 20 0 160 50 0 0 0", "begun again"),
        ("block.requests", "90 0 800 250 20 0 160 50 0 0 0", "begun again"),
        ("block.bytes", "100 0 700 250 20 0 160 50 0 0 0", "begun again"),
    ],
)
def test_totals_that_fell_are_a_gap_and_no_rate(
    machine: Path, name: str, later: str, why: str
) -> None:
    objective = parse_objective(name, Target.block("sda", root=machine))
    assert objective.ask(never) is None
    (machine / "sys/block/sda/stat").write_text(later + "\n")
    assert why in gap(objective)[1]
    (machine / "sys/block/sda/stat").write_text("1900 0 9800 950 20 0 160 50 0 0 0\n")
    value = objective.ask(never)
    assert value is not None
    assert value > 0


def test_another_disk_of_the_same_name_is_a_gap(machine: Path) -> None:
    disk = machine / "sys/block/sda"
    (disk / "diskseq").write_text("7\n")
    latency = parse_objective("block.latency", Target.block("sda", root=machine))
    assert latency.ask(never) is None
    (disk / "diskseq").write_text("8\n")
    (disk / "stat").write_text("200 0 1600 350 30 0 320 150 0 0 0\n")
    assert "another disk" in gap(latency)[1]


def test_pressure_that_fell_is_a_gap(machine: Path) -> None:
    objective = parse_objective("psi.io.some", SYSTEM, root=machine)
    assert objective.ask(never) is None
    file = machine / "proc/pressure/io"
    file.write_text(file.read_text().replace("total=1000000", "total=999"))
    assert gap(objective)[0] == "failed"


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_built_in_objective_is_there(name: str, machine: Path) -> None:
    objective = parse_objective(name, Target.block("sda", root=machine), root=machine)
    assert objective.better in BUILT_IN[name]
    assert objective.ask(never) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "unknown objective ''"),
        ("latency", "take one of psi.cpu.some"),
        ("psi.io", "unknown objective"),
        ("psi.io.some:vda", "unknown objective"),
        ("block.latency", "needs a disk"),
        ("block.latency:nosuch", "unknown block device"),
        ("prometheus:", "names no server or no query"),
        ("prometheus:http://127.0.0.1:9090", "names no server or no query"),
        ("prometheus:file:///etc/passwd?query=up", "names no server or no query"),
        ("prometheus:http://127.0.0.1:port?query=up", "names no server or no query"),
        ("prometheus:http://[::1:9090?query=up", "names no server or no query"),
        ("prometheus:http://a b/?query=up", "names no server or no query"),
        ("prometheus:http://h/?x=1&query=up", "names no server or no query"),
        ("prometheus:http://h/#x?query=up", "names no server or no query"),
        (f"prometheus:http://{'a' * 64}.org?query=up", "names no server or no query"),
        ("prometheus:http://h?query= ", "cannot be printed"),
        ("prometheus:http://h?query=up%0a", "cannot be printed"),
        ("prometheus:http://h?query=x%10", "write the operator % as %25"),
        ("prometheus:http://h?query=up&time=1", "only query= is taken"),
        ("prometheus:http://h/api/v1/query_range?query=up", "name the server alone"),
        ("prometheus:http://h/graph?query=up", "name the server alone"),
        ("psi.\x1b[2J", "cannot be printed"),
        ("command:/bin/echo \x1b[2J", "cannot be printed"),
        ("command:", "names no program"),
        ("command:rate --now", "names no program"),
        ("command:/nosuch/program", "there is no /nosuch/program"),
        ("command:/bin/echo 'x", "No closing quotation"),
    ],
)
def test_what_names_nothing_is_refused_in_one_line(text: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_objective(text, SYSTEM)
    assert why in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "url",
    [
        "http://tuner:s3cret@127.0.0.1?query=up",
        "https://tuner:s3cret@[::1]:9090/p/api/v1/query?query=up",
        "http://s3cret@host?query=up",
        "http://tuner:s3/cr@s3cret@host?query=up",
        "http://tuner%3As3cret%40host?query=up",
        "http://tuner:s3cret@host",
        "//tuner:s3cret@host?query=up",
        "tuner:s3cret@host?query=up",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_shown(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_objective(f"prometheus:{url}", SYSTEM)
    assert "s3cret" not in str(caught.value)
    known = "://" in url and "@" in url and "query" in url and "s3/" not in url
    assert ("credentials are not taken from a URL" in str(caught.value)) == known


def test_a_kernel_without_pressure_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="this kernel does not tell it"):
        parse_objective("psi.io.some", SYSTEM, root=tmp_path)


# Prometheus


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


# Commands


@pytest.fixture
def script() -> Iterator[Callable[[str], Objective]]:
    def make(text: str, *, timeout_s: float = 10.0) -> Objective:
        path = Path(place) / "measure"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        return parse_objective(f"command:/bin/sh {path} one 'a b'", SYSTEM, timeout_s=timeout_s)

    # pytest's own folder is closed to the one whom the command runs as.
    with tempfile.TemporaryDirectory(prefix="kmind-test-") as place:
        Path(place).chmod(0o755)
        yield make


Script = Callable[..., Objective]


def test_a_command_prints_a_number(script: Script) -> None:
    assert script('[ "$1/$2/$#" = "one/a b/2" ] && echo " 12.5 "').ask(never) == 12.5
    assert script("echo 3e2").ask(never) == 300
    assert script("echo 0").ask(never) == 0
    assert script("echo -0.0").ask(never) == 0


@pytest.mark.parametrize(
    ("text", "kind", "why"),
    [
        ("true", "empty", "it printed nothing"),
        ("echo", "empty", "it printed nothing"),
        ("echo fast", "text", "this is no number: 'fast'"),
        ("echo 1 2", "text", "this is no number"),
        ("echo 1; echo 2", "text", "this is no number"),
        ("echo -70", "range", "'-70': an objective is compared by ratio and cannot be negative"),
        ("echo 1_000", "text", "this is no number"),
        ("echo nan", "range", "no finite number"),
        ("echo inf", "range", "no finite number"),
        ("echo 5; exit 3", "failed", "it ended with status 3"),
        ("kill -9 $$", "failed", "it was killed by signal 9"),
        ("exec yes", "text", "it printed more than 4096 bytes"),
        ("printf '\\377\\033[2J'", "text", "this is no number"),
    ],
)
def test_a_command_that_prints_no_number_is_a_gap(
    script: Script, text: str, kind: str, why: str
) -> None:
    found = gap(script(text))
    assert found[0] == kind
    assert why in found[1]
    assert found[1].isprintable()


@pytest.mark.fault
@pytest.mark.parametrize("text", ["sleep 600", "sleep 600 &", "exec >&-; sleep 600"])
def test_a_command_that_hangs_is_killed_with_all_of_its_group(script: Script, text: str) -> None:
    assert gap(script(text, timeout_s=0.3)) == ("timeout", "it did not end within 0.3 s")


def test_a_command_is_killed_from_another_thread(script: Script) -> None:
    objective = script("sleep 600 & echo; sleep 600", timeout_s=600)
    found = []
    thread = threading.Thread(target=lambda: found.append(gap(objective)))
    thread.start()
    until = time.monotonic() + 30
    while not (children := Path(f"/proc/self/task/{thread.native_id}/children").read_text()):
        assert time.monotonic() < until
        time.sleep(0.01)
    # Between its start and the moment that its number is known, only the flag ends it.
    while thread.is_alive() and time.monotonic() < until:
        objective.cancel()
        thread.join(0.05)
    assert not thread.is_alive()
    assert found[0][1] == "it was killed by signal 9"
    assert not Path(f"/proc/{children.split()[0]}").exists()


def test_a_command_is_not_waited_for_at_the_end(script: Script) -> None:
    assert gap(script("sleep 600", timeout_s=600), lambda: True)[0] == "timeout"


@pytest.mark.kernel
def test_a_command_has_no_privileges(script: Script) -> None:
    if os.getuid():
        pytest.skip("needs root")
    assert script("id -u").ask(never) == 65534
    assert script("id -G | wc -w").ask(never) == 1
    caps = "grep -c 'CapEff:.*0000000000000000' /proc/self/status"
    assert script(caps).ask(never) == 1
    assert script("env | wc -l").ask(never) <= 5
    assert script("ls /proc/$$/fd | wc -l").ask(never) <= 4
