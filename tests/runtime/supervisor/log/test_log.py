# SPDX-License-Identifier: Apache-2.0
"""The structured log: rotated, never in the way, and heard by the journal."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sample_events import make

from kmind.events import Log
from kmind.runtime.supervisor.log.log import LOG_SCHEMA, DaemonLog, StructuredLog

NOWHERE = Path("/nonexistent/socket")


def made(*, message: str) -> Log:
    """A line of kmind's own."""
    return Log(message=message)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_one_object_a_line(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "kmind.log"
    log = StructuredLog(path, journald=NOWHERE)
    before = time.time()
    log.emit(make("start", instance="a@b", how="two\nlines \x1b[2J", target=Path("/x")))
    log.emit(make("stop", instance="a@b"))
    log.close()
    first, second = lines(path)
    assert first["schema"] == "kmind.log/1"
    assert before <= first["ts"] <= time.time()
    assert (first["event"], first["how"], first["target"]) == ("start", "two\nlines \x1b[2J", "/x")
    assert second["event"] == "stop"
    assert b"\x1b" not in path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o640


def test_lines_of_other_versions_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "kmind.log"
    others = '{"schema": "kmind.log/0", "old": 1}\n{"schema": "kmind.log/99", "what": {}}\n'
    path.write_text(others)
    log = StructuredLog(path, journald=NOWHERE)
    log.emit(make("start", instance="a@b"))
    log.close()
    assert path.read_text().startswith(others)
    assert lines(path)[-1]["schema"] == LOG_SCHEMA


def test_it_is_rotated_and_five_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "kmind.log"
    log = StructuredLog(path, max_bytes=2000, journald=NOWHERE)
    for number in range(400):
        log.emit(made(message=str(number)))
    log.close()
    files = [path] + [tmp_path / f"kmind.log.{n}" for n in range(1, 5)]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    numbers = [int(line["message"]) for file in reversed(files) for line in lines(file)]
    assert numbers == list(range(numbers[0], 400))
    assert all(file.stat().st_size <= 2000 for file in files)
    assert log.lost == 0


def test_it_goes_on_with_the_file_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "kmind.log"
    for turn in range(2):
        log = StructuredLog(path, max_bytes=10_000, journald=NOWHERE)
        log.emit(made(message=str(turn)))
        log.close()
        log.emit(made(message="too late"))
    assert [line["message"] for line in lines(path)] == ["0", "1"]
    assert log.lost == 1


@pytest.mark.kernel
@pytest.mark.fault
def test_a_full_disk_is_counted_and_then_told(small: Path) -> None:
    path = small / "kmind.log"
    ballast = small / "ballast"
    log = StructuredLog(path, journald=NOWHERE)
    log.emit(made(message="before"))
    assert log.flush()
    free = os.statvfs(small).f_bavail * os.statvfs(small).f_frsize
    ballast.write_bytes(bytes(free))
    for _ in range(50):
        log.emit(made(message="x" * 500))
    assert log.flush()
    lost = log.lost
    assert 30 < lost <= 50  # the file's last page had room for some
    ballast.unlink()
    log.emit(made(message="after"))
    log.close()
    found = lines(path)
    assert found[0]["message"] == "before"
    assert (found[-1]["message"], found[-1]["lost"]) == ("after", lost)
    assert len(found) == 2 + 50 - lost
    assert log.lost == lost


def test_no_place_to_write_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    log = StructuredLog(tmp_path / "file" / "kmind.log", journald=NOWHERE)
    log.emit(made(message="one"))
    assert log.flush()
    assert log.lost == 1
    log.close()
    log.close()


def test_who_emits_never_waits(tmp_path: Path) -> None:
    fifo = tmp_path / "kmind.log"
    os.mkfifo(fifo)  # opening it for writing waits for a reader, for ever
    log = StructuredLog(fifo, journald=NOWHERE)
    began = time.monotonic()
    for _ in range(30_000):
        log.emit(made(message="nobody reads"))
    assert time.monotonic() - began < 5
    assert log.lost >= 10_000
    # So that the thread can end.
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    os.close(reader)


def test_line_is_bounded_whatever_an_event_holds(tmp_path: Path) -> None:
    path = tmp_path / "kmind.log"
    log = StructuredLog(path, journald=NOWHERE)
    loop: list[Any] = []
    loop.append(loop)
    log.emit(make("verdict", evidence={"loop": loop}))
    log.emit(make("verdict", reason="1" * 1_000_000))
    log.emit(make("verdict", evidence={"number": 10**1_000_000, "one": 1}))
    log.emit(make("verdict", evidence={"many": list(range(100_000)), "deep": {"a": "c" * 100_000}}))
    log.emit(make("log"))
    log.close()
    found = lines(path)
    assert len(found) == 5
    assert log.lost == 0
    assert max(map(len, path.read_bytes().splitlines())) < 10_000
    assert (found[2]["evidence"]["number"], found[2]["evidence"]["one"]) == (
        "a number of more than 64 bits",
        1,
    )


def test_flood_of_one_instance_pushes_nothing_out(tmp_path: Path) -> None:
    """Refusals at the rate that is told of, for what would be a day."""
    path, audit = tmp_path / "kmind.log", tmp_path / "audit.log"
    log = DaemonLog(path, audit)
    log.emit(make("start", instance="good@b"))
    log.emit(make("request", peer="user 0", pid=1, method="PUT", path="/v1/x", result="done"))
    sent = 0
    for _ in range(20):
        for _ in range(5000):
            sent += 1
            log.emit(make("verdict", instance="bad@a", verdict="rate", reason="x" * 400))
        while not log.flush():
            pass
        log.emit(make("verdict", instance="good@b", verdict="approved"))
    log.emit(make("applied", instance="bad@a", value=1))
    log.emit(make("stop", instance="bad@a"))
    log.close()
    assert not (tmp_path / "kmind.log.1").exists()
    found = lines(path)
    bad = [line for line in found if line.get("instance") == "bad@a"]
    assert sum(line.get("left_out", 0) + (line["event"] == "verdict") for line in bad) == sent
    assert [line["event"] for line in bad[-2:]] == ["applied", "stop"]
    assert sum(line["event"] == "verdict" for line in found if line not in bad) == 20
    told = [line["event"] for line in lines(audit)]
    assert told == ["start", "request", "applied", "stop"]


def test_flood_of_a_clients_requests_is_counted_too(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    log = StructuredLog(path, journald=None, burst=2000, rate=0)
    for _ in range(100):
        log.emit(make("request", peer="user 1000", pid=1, result="no"))
    log.emit(make("request", peer="user 0", pid=1, result="done"))
    log.emit(make("applied", instance="a@b", value=1))
    log.close()
    found = lines(path)
    assert 2 < len(found) < 40
    assert [line["event"] for line in found[-2:]] == ["request", "applied"]
    assert found[-2]["peer"] == "user 0"


def test_the_journal_hears_of_it(tmp_path: Path) -> None:
    journald = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(journald))
        server.settimeout(5)
        log = StructuredLog(tmp_path / "kmind.log", journald=journald)
        log.emit(make("mode", instance="a@b", why="first\nsecond"))
        fields = server.recv(65536).decode().splitlines()
        assert fields[1:] == ["PRIORITY=4", "SYSLOG_IDENTIFIER=kmind", "KMIND_EVENT=mode"]
        assert json.loads(fields[0].removeprefix("MESSAGE="))["why"] == "first\nsecond"
        # It stops listening: the socket's buffer fills up, and the file has every line.
        for number in range(2000):
            log.emit(made(message=str(number)))
        assert log.flush(20)
    log.emit(made(message="nobody is there"))
    log.close()
    assert len(lines(tmp_path / "kmind.log")) == 2002
    assert log.lost == 0
