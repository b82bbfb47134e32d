# SPDX-License-Identifier: Apache-2.0
"""The extension's process: started, kept, taken over and ended, with real processes."""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from extension_process import QUIET, Running, config_for, running

from kmind.agent.sim.agent import SimAgent
from kmind.agent.types import Mode
from kmind.errors import KmindError
from kmind.runtime.sandbox import process
from kmind.runtime.sandbox.confine import own_root
from kmind.runtime.sandbox.exit_codes import EXIT_MODULE, EXIT_SETUP
from kmind.runtime.sandbox.process import ENDED_UNSEEN, ExtensionProcess
from kmind.util import procfs

pytestmark = pytest.mark.kernel()

TALKER = """\
from kmind.extension import Extension


class Sample(Extension):
    def start(self):
        for number in range(20000):
            print(f"line {number} " + "x" * 100)
        self.context.log("all said")

    def status(self):
        return {}
"""

# Starts one extension that is kept, says its id, and then ends as it is told.
OWNER = """\
import os, sys
from pathlib import Path
sys.path[:0] = {path!r}
from extension_process import Running, config_for
from kmind.agent.types import Mode
from kmind.agent.sim.agent import SimAgent
from kmind.runtime.sandbox.process import ExtensionProcess
agent = SimAgent(realtime=False)
config = config_for(agent, Path({folder!r}), keep={keep}, log={log!r})
process = ExtensionProcess(config)
print(process.pid, process.start_time, flush=True)
Running(agent, process).alive()
print("alive", flush=True)
sys.stdin.read()
"""


def test_runs_and_is_killed(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        run.alive()
        assert procfs.start_time(run.process.pid) == run.process.start_time
        run.process.close()
        assert run.process.ended() == -signal.SIGKILL
        assert procfs.start_time(run.process.pid) is None
        assert run.process.close() == []
        with pytest.raises(ProcessLookupError):
            os.kill(run.process.pid, 0)  # not even a zombie


def test_says_how_it_ended(tmp_path: Path) -> None:
    with running(tmp_path, "1 / 0\n") as run:
        run.until(lambda: run.process.ended() is not None)
        assert run.process.ended() == EXIT_MODULE
        run.until(lambda: run.said("ZeroDivisionError"))
        assert run.said("sample/extension.py")


def test_what_it_cannot_start_with(tmp_path: Path) -> None:
    with running(tmp_path, imports=("no_such_thing",)) as run:
        run.until(lambda: run.process.ended() is not None)
        assert run.process.ended() == EXIT_SETUP
        run.until(lambda: run.said("no_such_thing cannot be imported"))


def test_owner_that_dies_while_it_tells(tmp_path: Path) -> None:
    # The pipe ends in the middle of the configuration.
    here, there = os.pipe()
    os.write(there, b'{"package": "sam')
    os.close(there)
    done = subprocess.run(
        [sys.executable, "-m", "kmind.runtime.sandbox.child", str(here)],
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
        pass_fds=(here,),
        capture_output=True,
        text=True,
    )
    os.close(here)
    assert done.returncode == EXIT_SETUP
    assert "the extension cannot start" in done.stderr
    assert "Traceback" not in done.stderr


def test_ids_go_on(tmp_path: Path) -> None:
    source = QUIET.replace(
        "    def status",
        "    def start(self):\n"
        "        port = self.context._outlets.port\n"
        "        one = port.submit(1, 2, 3, type=0, expires_ns=0, hold_ms=0)\n"
        "        self.context.log(f'id {one}')\n\n"
        "    def status",
    )
    with running(tmp_path, source, first_id=4711) as run:
        run.until(lambda: run.said("id "))
        assert run.said("id ") == "id 4711"


@pytest.mark.parametrize("kept", [False, True])
def test_full_log_stops_nobody(tmp_path: Path, kept: bool) -> None:
    log = str(tmp_path / "log") if kept else ""
    with running(tmp_path, TALKER, keep=kept, log=log) as run:
        beats = run.beats
        run.until(lambda: run.beats >= beats + 3, reading=False)
        first = run.process.read_log()
        assert first[0].startswith("line 0 ")


def test_a_later_line_says_what_was_dropped(tmp_path: Path) -> None:
    source = TALKER.replace(
        "    def status(self):",
        "    def on_mode(self, mode):\n        print('still here')\n\n    def status(self):",
    )
    with running(tmp_path, source) as run:
        # It beats for the first time when it has said all: by then its pipe is full.
        run.until(lambda: run.beats, reading=False)
        while select.select([run.process.log_fd], [], [], 0)[0]:
            run.lines += run.process.read_log()
        time.sleep(0.5)  # the owner's limit of lines a second lets another through; later too
        run.agent.set_mode(Mode.ADVISE)
        run.until(lambda: run.said("lines dropped: nobody read the log"))


def owner(tmp_path: Path, *, keep: bool) -> tuple["subprocess.Popen[str]", int, int]:
    log = str(tmp_path / "log") if keep else ""
    path = [*sys.path, str(Path(__file__).parents[2])]
    text = OWNER.format(path=path, folder=str(tmp_path), keep=keep, log=log)
    started = subprocess.Popen(
        [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert started.stdout
    pid, start = map(int, started.stdout.readline().split())
    return started, pid, start


def test_dies_with_its_owner(tmp_path: Path) -> None:
    started, pid, start = owner(tmp_path, keep=False)
    time.sleep(1.0)  # past its setup or not: it has to die either way
    started.kill()
    started.wait()
    deadline = time.monotonic() + 10
    while procfs.start_time(pid) == start:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_outlives_its_owner_and_is_taken_over(tmp_path: Path) -> None:
    started, pid, start = owner(tmp_path, keep=True)
    process = None
    try:
        assert started.stdout
        assert started.stdout.readline() == "alive\n"
        started.kill()
        started.wait()
        time.sleep(0.5)  # were it to die with its owner, it would have by then
        process = ExtensionProcess.adopt(pid, start, str(tmp_path / "log"))
        assert process.ended() is None
        assert procfs.start_time(pid) == start
        process.close()
        assert process.ended() == ENDED_UNSEEN
        assert procfs.start_time(pid) is None
        assert not tmp_path.joinpath("log").exists()
    finally:
        if process is None:
            os.kill(pid, signal.SIGKILL)


def test_released_and_taken_over_by_the_same_owner(tmp_path: Path) -> None:
    agent = SimAgent(realtime=False)
    log = str(tmp_path / "log")
    source = QUIET + "\n    def on_mode(self, mode):\n        print('tick')\n"
    first = ExtensionProcess(config_for(agent, tmp_path, source, keep=True, log=log))
    run = Running(agent, first)
    try:
        run.alive()
        first.release()
        assert first.release() == []
        second = ExtensionProcess.adopt(first.pid, first.start_time, log)
        run = Running(agent, second)
        run.alive()
        agent.set_mode(Mode.ADVISE)
        run.until(lambda: run.said("tick"))
        second.close()
        assert second.ended() == -signal.SIGKILL  # a child still: its status is known
    finally:
        run.process.close()
        agent.close()


def test_only_that_very_process_is_taken_over(tmp_path: Path) -> None:
    pid, start = os.getpid(), procfs.start_time(os.getpid())
    assert start
    with pytest.raises(KmindError, match="another has its id"):
        ExtensionProcess.adopt(pid, start + 1, str(tmp_path / "log"))
    with pytest.raises(KmindError, match="log"):
        ExtensionProcess.adopt(pid, start, str(tmp_path / "log"))
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(KmindError, match="has ended"):
        ExtensionProcess.adopt(gone.pid, 1, str(tmp_path / "log"))


def test_a_file_in_place_of_the_log_is_left_alone(tmp_path: Path) -> None:
    tmp_path.joinpath("log").write_text("mine")
    with (
        pytest.raises(KmindError, match="is not a FIFO"),
        running(tmp_path, keep=True, log=str(tmp_path / "log")),
    ):
        pass
    assert tmp_path.joinpath("log").read_text() == "mine"


def test_nothing_is_imported_from_where_the_owner_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a folder may be the root: an extension would see the whole file system."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/", "", str(tmp_path), *sys.path])
    assert not {"/", "", str(tmp_path)} & set(process._import_folders())
    assert "/" not in own_root.library_folders()


def test_nothing_that_packages_put_beside_themselves_runs_as_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python itself would run it at its start, before any privilege is dropped."""
    site, found = tmp_path / "site", tmp_path / "found"
    site.mkdir()
    for name in ("sitecustomize", "usercustomize"):
        site.joinpath(f"{name}.py").write_text(f"open({str(found)!r}, 'a').write({name!r})\n")
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    with running(tmp_path) as run:
        run.alive()
    assert not found.exists()
