# SPDX-License-Identifier: Apache-2.0
"""The daemon as a process: signals, restarts, the watchdog; its supervisor is in memory."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from serve.memory import DISK

from kmind.cli.client import Client
from kmind.errors import KmindError
from kmind.serve.process import replace

ROOT = Path(__file__).parents[2]


class Process:
    """One daemon and what it tells its service manager."""

    def __init__(
        self, folder: Path, *words: str, watchdog_s: float = 0, python: str | Path = sys.executable
    ) -> None:
        self.folder = folder
        self.client = Client(folder / "api.sock")
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = folder / f"notify{time.monotonic_ns()}"
        self.manager.bind(str(address))
        self.manager.settimeout(30)
        environment = {
            **os.environ,
            "PYTHONPATH": ":".join(
                [str(ROOT / "src"), str(ROOT / "tests"), *filter(None, sys.path)]
            ),
            "NOTIFY_SOCKET": str(address),
        }
        if watchdog_s:
            environment["WATCHDOG_USEC"] = str(int(watchdog_s * 1e6))
        self.process = subprocess.Popen(
            [python, Path(__file__).parent / "memory.py", folder, *words],
            env=environment, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def told(self, word: str) -> str:
        """Wait until the service manager is told something."""
        while True:
            text = self.manager.recv(4096).decode()
            if word in text:
                return text

    def up(self) -> "Process":
        self.told("READY=1")
        return self

    def started(self) -> float:
        return float(self.client.get("/v1/health")["started"])

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.send(number)
        code = self.process.wait(30)
        self.manager.close()
        if self.process.stderr and not self.process.stderr.closed:
            self.said = self.process.stderr.read()
            self.process.stderr.close()
        return code


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path).up()
    yield process
    process.end(signal.SIGKILL)


LOAD = {"module": "readahead", "target": DISK}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_by_signal(daemon: Process, number: int) -> None:
    daemon.client.call("POST", "/v1/instances", LOAD)
    daemon.send(number)
    assert "putting everything back" in daemon.told("STOPPING=1")
    daemon.process.wait(30)  # a second signal would find it without handlers, at its very end
    assert daemon.end() == 0
    assert daemon.said == ""
    assert not (daemon.folder / "api.sock").exists()
    assert not (daemon.folder / "instances.json").exists()


def test_a_full_collection_looks_through_little(daemon: Process) -> None:
    daemon.client.call("POST", "/v1/instances", LOAD)
    for _ in range(100):
        daemon.client.get("/v1/instances")
    assert daemon.end() == 0
    over = json.loads((daemon.folder / "log").read_text().splitlines()[-1])
    assert over["left"] < over["frozen"] / 10


def test_keeps_if_it_is_told_to(tmp_path: Path) -> None:
    first = Process(tmp_path, "--keep").up()
    first.client.call("POST", "/v1/instances", LOAD)
    assert first.end() == 0
    second = Process(tmp_path, "--keep").up()
    assert len(second.client.get("/v1/instances")["instances"]) == 1
    assert second.end() == 0


def test_restarts_in_place(daemon: Process) -> None:
    """The same pid, the same instances, and clients that come meanwhile wait in line."""
    daemon.client.call("POST", "/v1/instances", LOAD)
    stop = threading.Event()
    answers: list[int] = []
    failures: list[str] = []

    def ask() -> None:
        while not stop.is_set():
            try:
                answers.append(len(daemon.client.get("/v1/instances")["instances"]))
            except KmindError as error:
                failures.append(str(error))

    asking = threading.Thread(target=ask)
    asking.start()
    for _ in range(3):
        before = daemon.started()
        assert replace(daemon.process.pid, daemon.started) > 0
        assert daemon.started() > before
        daemon.told("RELOADING=1")
        assert f"MAINPID={daemon.process.pid}" in daemon.told("READY=1")
    stop.set()
    asking.join()
    assert set(answers) == {1}
    # One that was let in by an image that then ended may be cut off. None is turned away.
    assert not [failure for failure in failures if "not running" in failure]
    assert len(failures) <= 3, failures
    assert (daemon.folder / "log").read_text().count('"restarted"') == 3


def test_signals_while_it_restarts_do_not_kill_it(tmp_path: Path) -> None:
    process = Process(tmp_path, "--slow-start").up()
    for _ in range(20):
        process.send(signal.SIGUSR2)
        time.sleep(0.05)
    process.told("READY=1")
    assert process.client.get("/v1/health")["ok"]
    assert process.end() == 0


def test_rereads_by_a_restart_and_only_if_all_is_right(daemon: Process) -> None:
    before = daemon.started()
    (daemon.folder / "wrong").touch()
    daemon.send(signal.SIGHUP)
    while "the policy is wrong" not in (daemon.folder / "log").read_text():
        time.sleep(0.01)
    assert daemon.started() == before
    (daemon.folder / "wrong").unlink()
    daemon.send(signal.SIGHUP)
    daemon.told("RELOADING=1")
    daemon.told("READY=1")
    assert daemon.started() > before


def test_goes_on_where_its_interpreter_has_gone(tmp_path: Path) -> None:
    """As in the middle of an upgrade of packages: nothing is let go of for an exec that fails."""
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    daemon = Process(tmp_path, python=python).up()
    daemon.client.call("POST", "/v1/instances", LOAD)
    before = daemon.started()
    python.rename(tmp_path / "aside")
    for number in (signal.SIGUSR2, signal.SIGHUP):
        log = (tmp_path / "log").read_text()
        daemon.send(number)
        while "cannot be executed" not in (tmp_path / "log").read_text()[len(log) :]:
            time.sleep(0.01)
    assert daemon.started() == before
    assert len(daemon.client.get("/v1/instances")["instances"]) == 1
    (tmp_path / "aside").rename(python)
    assert replace(daemon.process.pid, daemon.started) > 0
    assert len(daemon.client.get("/v1/instances")["instances"]) == 1
    assert daemon.end() == 0


def test_a_second_one_is_refused(daemon: Process) -> None:
    second = Process(daemon.folder)
    assert second.end(0) == 1
    assert second.said.count("\n") == 1
    assert f"a daemon runs already: pid {daemon.process.pid}" in second.said
    assert daemon.client.get("/v1/health")["pid"] == daemon.process.pid


@pytest.mark.fault
def test_after_a_kill_the_next_one_takes_the_socket(daemon: Process) -> None:
    daemon.end(signal.SIGKILL)
    assert (daemon.folder / "api.sock").exists()
    with pytest.raises(KmindError) as caught:
        daemon.client.get("/v1/health")
    assert caught.value.exit_code == 3
    second = Process(daemon.folder).up()
    assert second.client.get("/v1/health")["pid"] == second.process.pid
    assert second.end() == 0


def test_one_that_cannot_start_says_why(tmp_path: Path) -> None:
    process = Process(tmp_path, "--broken")
    assert process.end(0) == 1
    assert process.said == "kmind: it cannot start; do not ask it to\n"


def test_the_watchdog_is_fed_while_the_supervisor_steps(tmp_path: Path) -> None:
    process = Process(tmp_path, watchdog_s=4).up()
    for _ in range(3):
        process.told("WATCHDOG=1")
    assert process.end() == 0


@pytest.mark.fault
def test_the_watchdog_is_not_fed_by_a_stuck_supervisor(tmp_path: Path) -> None:
    process = Process(tmp_path, "--stuck", watchdog_s=2).up()
    process.manager.settimeout(6)
    while fed(process):
        pass
    # It serves still: that is not what is asked of it.
    assert process.client.get("/v1/health")["step_age_s"] > 4
    assert process.process.poll() is None
    process.end(signal.SIGKILL)


def fed(process: Process) -> bool:
    try:
        return bool(process.told("WATCHDOG=1"))
    except TimeoutError:
        return False
