# SPDX-License-Identifier: Apache-2.0
"""The disk of ``kmind run`` ends as it was, whatever happens to the process."""

import contextlib
import fcntl
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runtime.supervised import stirred
from sample_module import RECOMMENDER, knob_file, loop_disk, make_module

import kmind
from kmind.guard import Journal, restore

pytestmark = [
    pytest.mark.kernel("libbpf", "btf", "bpf_timer", "tp_btf", "tp_filemap"),
    pytest.mark.fault,
]

PATIENCE_S = 20
KILLS = int(os.environ.get("KMIND_KILLS", "24"))
BUSY = '[knob."block.read_ahead_kb"]\nrate = "6000 per minute"\nburst = 100\n'
LATE = RECOMMENDER.replace("self.at = 0.0", "self.at = self.context.now() + 1.0")


class Run:
    """A ``kmind run`` of the sample module on a disk of the test's own."""

    def __init__(self, folder: Path, disk: str) -> None:
        self.folder = folder
        self.disk = disk
        self.knob = knob_file(disk)
        self.baseline = self.knob.read_text()
        self.state = folder / "state"
        self.state.mkdir()
        self.events: list[dict[str, Any]] = []
        self.module = make_module(folder)
        self.policy = folder / "policy.toml"
        self.policy.write_text(BUSY)

    def start(self, *words: str, stdout: int = subprocess.PIPE) -> None:
        command = [sys.executable, "-m", "kmind", "run", str(self.module), self.disk, *words]
        command += ["--mode=auto", "--json", f"--policy={self.policy}"]
        self.process = subprocess.Popen(
            command,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "KMIND_STATE_DIR": str(self.state),
                "PYTHONPATH": str(Path(kmind.__file__).parent.parent),
            },
        )
        self._rest = b""

    def wait_for(self, event: str) -> dict[str, Any]:
        """Read events until one of that name comes."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            for known in self.events:
                if known["event"] == event:
                    return known
            assert time.monotonic() < deadline, f"no {event} among {self.events[-5:]}"
            self.read(0.1)

    def read(self, timeout_s: float) -> None:
        """Read what events there are."""
        assert self.process.stdout
        fd = self.process.stdout.fileno()
        if select.select([fd], [], [], timeout_s)[0]:
            *lines, self._rest = (self._rest + os.read(fd, 1 << 16)).split(b"\n")
            self.events += [json.loads(line) for line in lines]

    def finish(self) -> tuple[int, str]:
        """Wait for its end: exit code and messages."""
        deadline = time.monotonic() + PATIENCE_S
        while self.process.poll() is None and time.monotonic() < deadline:
            self.read(0.05)
        self.read(0)
        assert self.process.stderr
        return self.process.wait(PATIENCE_S), self.process.stderr.read()

    def close(self) -> None:
        if hasattr(self, "process"):
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait()
            for stream in (self.process.stdout, self.process.stderr):
                if stream:
                    stream.close()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with loop_disk(tmp_path) as disk:
        made = Run(tmp_path, disk)
        try:
            yield made
        finally:
            made.close()
            with Journal(made.state / "journal.db") as journal:
                restore(journal)


def gone(pid: int) -> bool:
    """True if a process ends before long."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.01)
    return False


@pytest.mark.slow
def test_killed_at_random_points(run: Run) -> None:
    chance = random.Random(20)
    changed = 0
    with stirred(run.disk):  # or its windows would be a second long
        for _ in range(KILLS):
            # Set and undone again and again, several times a second.
            run.start("hold_s=0.1", "every_s=0.02")
            started = None
            if chance.random() < 0.8:
                started = run.wait_for("start")
                time.sleep(chance.uniform(0, 0.4))
            else:
                time.sleep(chance.uniform(0, 0.8))
            run.process.send_signal(signal.SIGKILL)
            run.finish()
            run.close()
            if started:
                assert gone(started["extension"]["pid"])
            changed += run.knob.read_text() != run.baseline
            with Journal(run.state / "journal.db") as journal:
                restore(journal)
                assert journal.open_changes() == []
            assert run.knob.read_text() == run.baseline
            run.events.clear()
    assert changed, "no kill left anything changed: the test tests nothing"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_restores(run: Run, number: signal.Signals) -> None:
    run.start()
    run.wait_for("applied")
    assert run.knob.read_text() == "512\n"
    run.process.send_signal(number)
    assert run.finish() == (0, "")
    assert run.knob.read_text() == run.baseline
    assert run.events[-1]["restored"]


def test_stalled_extension(run: Run, record_property: Any) -> None:
    run.start()
    run.wait_for("applied")
    pid = run.wait_for("start")["extension"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    while run.knob.read_text() != run.baseline:
        assert time.monotonic() - began < 5, "the baseline never came back"
        time.sleep(0.01)
    took = time.monotonic() - began
    record_property("baseline_back_s", took)
    print(f"the baseline was back after {took:.2f} s")
    code, messages = run.finish()
    assert code == 1
    assert messages.count("\n") == 1
    assert "was silent for 1 s; everything was put back" in messages
    assert gone(pid)


def test_killed_extension(run: Run) -> None:
    run.start()
    run.wait_for("applied")
    os.kill(run.wait_for("start")["extension"]["pid"], signal.SIGKILL)
    code, messages = run.finish()
    assert code == 1
    assert "was killed by signal 9; everything was put back" in messages
    assert run.knob.read_text() == run.baseline


def test_external_change_is_left_alone(run: Run) -> None:
    run.start("every_s=0.1")
    run.wait_for("applied")
    run.knob.write_text("64")
    assert "by somebody else" in run.wait_for("yielded")["message"]
    run.process.send_signal(signal.SIGINT)
    code, _ = run.finish()
    assert code == 0
    assert run.knob.read_text() == "64\n"
    assert len([event for event in run.events if event["event"] == "applied"]) == 1
    run.knob.write_text(run.baseline)


def test_two_runs_do_not_share_a_knob(run: Run, tmp_path: Path) -> None:
    run.start()
    run.wait_for("applied")
    second = Run.__new__(Run)
    second.__dict__.update({**run.__dict__, "events": []})
    try:
        second.start("value=1024")
        assert "is held by sample@" in second.wait_for("failed")["why"]
        assert run.knob.read_text() == "512\n"
        second.process.send_signal(signal.SIGINT)
        assert second.finish()[0] == 1  # nothing that it wanted could be set
        assert run.knob.read_text() == "512\n"
    finally:
        second.close()
    run.process.send_signal(signal.SIGINT)
    assert run.finish() == (0, "")
    assert run.knob.read_text() == run.baseline


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k,mode=700", "tmpfs", folder], check=True
    )
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_disk_full_before_the_start(run: Run) -> None:
    with small_disk(run.state):
        fill(run.state)
        run.start()
        code, messages = run.finish()
        assert code == 1
        assert "the journal" in messages
        assert "no knob is changed without it" in messages
        assert messages.count("\n") == 1
        assert run.events == []
        assert run.knob.read_text() == run.baseline


def test_disk_full_later(run: Run) -> None:
    (run.module / "extension.py").write_text(LATE)
    with small_disk(run.state):
        run.start()
        run.wait_for("start")
        fill(run.state)
        code, messages = run.finish()
        assert code == 1
        assert "the journal" in messages
        assert messages.count("\n") == 1
        kinds = [event["event"] for event in run.events]
        assert "failed" in kinds
        assert "applied" not in kinds
        assert run.knob.read_text() == run.baseline
        (run.state / "filler").unlink()


def test_reader_that_goes_away(run: Run) -> None:
    run.start()
    run.wait_for("applied")
    assert run.process.stdout
    run.process.stdout.close()
    code = run.process.wait(PATIENCE_S)
    assert code == 0
    assert run.knob.read_text() == run.baseline


def test_reader_that_sleeps_delays_nothing(run: Run) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    try:
        run.start("hold_s=0.1", "every_s=0.3", stdout=writer)
        with stirred(run.disk), Journal(run.state / "journal.db") as journal:
            deadline = time.monotonic() + PATIENCE_S
            while len(journal.history()) < 8:  # the pipe is full after a few events
                assert time.monotonic() < deadline, "changes stopped"
                time.sleep(0.05)
        run.process.send_signal(signal.SIGINT)
        assert run.process.wait(PATIENCE_S) == 0
        assert run.knob.read_text() == run.baseline
    finally:
        os.close(reader)
        os.close(writer)
