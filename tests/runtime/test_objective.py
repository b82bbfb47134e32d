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
from kmind.runtime.objective import BUILT_IN, GapError, Objective, parse_objective

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
    assert "\n" not in str(caught.value)


def test_a_kernel_without_pressure_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="this kernel does not tell it"):
        parse_objective("psi.io.some", SYSTEM, root=tmp_path)


# Prometheus


class Server:
    """A server on loopback that answers what the test says, and what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.text = ""
        self.paths: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.paths.append(self.path)
                self.send_response(outer.status)
                if outer.status == 302:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(outer.text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def objective(self) -> Objective:
        return parse_objective(f"prometheus:{self.url}?query=rate(x[10s])", SYSTEM)


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
@pytest.mark.parametrize("trickle", [False, True])
def test_a_server_that_hangs_is_given_up(trickle: bool) -> None:
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                while not over.wait(0.05):
                    try:
                        peer.send(b"H" if trickle else b"")
                    except OSError:
                        return

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        objective = parse_objective(f"prometheus:{url}?query=up", SYSTEM, timeout_s=0.3)
        try:
            assert gap(objective) == ("timeout", "no answer within 0.3 s")
        finally:
            over.set()
            thread.join()


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
    assert script("echo -3e2").ask(never) == -300


@pytest.mark.parametrize(
    ("text", "kind", "why"),
    [
        ("true", "empty", "it printed nothing"),
        ("echo", "empty", "it printed nothing"),
        ("echo fast", "text", "this is no number: 'fast'"),
        ("echo 1 2", "text", "this is no number"),
        ("echo 1; echo 2", "text", "this is no number"),
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
