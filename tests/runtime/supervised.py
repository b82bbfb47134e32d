# SPDX-License-Identifier: Apache-2.0
"""A supervisor of the test's own: with its own pins, journal, run folder and cgroups."""

from __future__ import annotations

import contextlib
import json
import mmap
import multiprocessing
import os
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sample_module import MANIFEST, RECOMMENDER, knob_file, make_module

from kmind.agent.core.core import Core
from kmind.agent.types import Mode
from kmind.events import Event
from kmind.extension.discovery.conf import ModuleConf
from kmind.guard import Journal, Policy
from kmind.runtime.supervisor.supervisor import Options, Supervisor
from kmind.util.words import split_words

PATIENCE_S = 30
QUICK = ("hold_s=30", "every_s=0.05")
OTHER = RECOMMENDER.replace("The test says so.", "The other says so.")
BUSY = '[knob."block.read_ahead_kb"]\nrate = "6000 per minute"\nburst = 100\n'


class Rig:
    """Environment of a supervisor, made below one folder; it may be made again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Of this folder alone: another run of the tests may be at the same one.
        mark = f"t{zlib.crc32(str(folder).encode())}"
        self.root = Path(f"/sys/fs/bpf/kmind-test-{mark}")
        self.cgroups = f"{mark}."
        self.events: list[dict[str, Any]] = []
        self.supervisor: Supervisor | None = None
        self.policy = folder / "policy.toml"
        if not self.policy.exists():
            self.policy.write_text(BUSY)

    def module(
        self, name: str = "sample", extension: str = RECOMMENDER, manifest: str = MANIFEST
    ) -> str:
        """Write a module of that name; what ``load`` takes."""
        home = self.folder / name
        home.mkdir()
        return str(make_module(home, extension, manifest.replace('"sample"', f'"{name}"', 1)))

    def make(
        self,
        *,
        take_over: bool = True,
        core: Core | None = None,
        conf: ModuleConf | None = None,
        devices: bool = False,
    ) -> Supervisor:
        """A supervisor that has not started."""
        options = Options(
            run_dir=self.folder / "run",
            conf=conf or ModuleConf(),
            take_over=take_over,
            devices=devices,
            cgroups=self.cgroups,
        )
        self.supervisor = Supervisor(
            core or Core.open(self.root),
            Journal(self.folder / "journal.db"),
            Policy.load(self.policy),
            lambda event: None,
            options,
        )
        self.supervisor.subscribe(self._note)
        return self.supervisor

    def _note(self, event: Event) -> None:
        self.events.append({"event": event.name, "ts": time.time(), **event.fields()})

    def start(self, *, take_over: bool = True) -> Supervisor:
        """One that has."""
        supervisor = self.make(take_over=take_over)
        supervisor.start()
        return supervisor

    def load(self, module: str, disk: str, *words: str, mode: str = "auto") -> str:
        """Load a module; the instance's name."""
        assert self.supervisor
        result = self.supervisor.requests.load(
            module, disk, split_words(words), mode=Mode[mode.upper()]
        )
        return str(result["name"])

    def of(self, event: str, instance: str = "") -> list[dict[str, Any]]:
        """The events of that name so far."""
        return [
            each
            for each in self.events
            if each["event"] == event and instance in ("", each.get("instance"))
        ]

    def run_until(self, done: Callable[[], object]) -> None:
        """Step until something is so; fail if it never is."""
        assert self.supervisor
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            told = [event for event in self.events if event["event"] != "window"]
            assert time.monotonic() < deadline, f"it never came: {told[-5:]}"
            self.supervisor.step(0.05)

    def run_for(self, seconds: float) -> None:
        """Step for some time."""
        assert self.supervisor
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.supervisor.step(0.05)

    def close(self) -> None:
        """Put back whatever is left."""
        if self.supervisor:
            self.supervisor.close(keep=False)
        if self.root.exists() or (self.folder / "run/state").exists():
            self.start().close(keep=False)


@contextlib.contextmanager
def stirred(*disks: str) -> Iterator[None]:
    """Read from disks all the time, so that windows close as often as they can."""
    done = threading.Event()

    def read() -> None:
        fds = [os.open(f"/dev/{disk}", os.O_RDONLY | os.O_DIRECT) for disk in disks]
        page = mmap.mmap(-1, 4096)
        while not done.wait(0.01):
            for fd in fds:
                os.preadv(fd, [page], 0)
        for fd in fds:
            os.close(fd)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def value_of(disk: str) -> int:
    """Return the value of the sample's knob."""
    return int(knob_file(disk).read_text())


def serve(folder: Path, loads: list[str]) -> None:
    """In a process of its own: take over, load what is not there, and go on until killed."""
    rig = Rig(folder)
    supervisor = rig.make()
    supervisor.subscribe(_say)
    supervisor.start()
    for line in loads:
        module, disk, *words = line.split()
        if f"{Path(module).parent.name}@{disk}" not in supervisor.members:
            rig.load(module, disk, *words)
    _write({"event": "serving", "members": {n: m.slot for n, m in supervisor.members.items()}})
    while True:
        supervisor.step(0.5)
        rig.events.clear()


def _say(event: Event) -> None:
    if event.name != "window":
        _write({"event": event.name, **event.fields()})


def _write(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line, default=str) + "\n")
    sys.stdout.flush()


class Daemon:
    """A process that runs ``serve``: forked, so that nothing has to be imported first."""

    def __init__(self, folder: Path, *loads: str) -> None:
        self.output = (folder / f"out-{time.monotonic_ns()}").open("w+")
        self.process = multiprocessing.get_context("fork").Process(
            target=self._run, args=(folder, list(loads))
        )
        self.process.start()

    def _run(self, folder: Path, loads: list[str]) -> None:
        for fd in (1, 2):
            os.dup2(self.output.fileno(), fd)
        sys.stdout = sys.stderr = self.output
        serve(folder, loads)

    def said(self) -> list[dict[str, Any]]:
        """Its events so far."""
        text, _, _ = Path(self.output.name).read_text().rpartition("\n")  # whole lines
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def wait_for(self, event: str) -> dict[str, Any]:
        """The first event of that name."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            for each in self.said():
                if each["event"] == event:
                    return each
            text = Path(self.output.name).read_text()
            assert self.process.is_alive(), text[-2000:]
            assert time.monotonic() < deadline, text[-2000:]
            time.sleep(0.005)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.join()
        self.process.close()
        self.output.close()


def alive(pid: int) -> bool:
    """True if that process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
