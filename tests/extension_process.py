# SPDX-License-Identifier: Apache-2.0
"""One extension's process on a simulated agent: all of its sandbox, and no BPF."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kmind.abi import layout
from kmind.agent.protocol import OwnedAgent
from kmind.agent.sim.agent import SimAgent
from kmind.runtime.sandbox.config import ChildConfig
from kmind.runtime.sandbox.process import ExtensionProcess
from kmind.runtime.sandbox.uids import free_uid

PATIENCE_S = 30

QUIET = """\
from kmind.extension import Extension


class Sample(Extension):
    def status(self):
        return {}
"""


class Running:
    """The process, its agent, and what it printed so far."""

    def __init__(self, agent: OwnedAgent, process: ExtensionProcess) -> None:
        self.agent = agent
        self.process = process
        self.lines: list[str] = []

    @property
    def beats(self) -> int:
        """Heartbeats so far."""
        return int(self.agent.arena[: layout.HEADER.itemsize].view(layout.HEADER)["heartbeat"][0])

    def until(self, done: Callable[[], object], *, reading: bool = True) -> None:
        """Wait for something, ``reading`` its log meanwhile or not; fail if it never comes."""
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            ended = self.process.ended() is not None
            if reading:
                self.lines += self.process.read_log()
            if ended and not done():
                raise AssertionError(f"it ended: {self.lines[-5:]}")
            assert time.monotonic() < deadline, f"it never came: {self.lines[-5:]}"
            time.sleep(0.01)

    def said(self, text: str) -> str:
        """The first line with that in it, or ""."""
        return next((line for line in self.lines if text in line), "")

    def alive(self) -> None:
        """Wait for a heartbeat more."""
        beats = self.beats
        self.until(lambda: self.beats != beats or self.process.ended() is not None)
        assert self.process.ended() is None, self.lines + self.process.close()


def config_for(agent: OwnedAgent, folder: Path, source: str = QUIET, **more: Any) -> ChildConfig:
    """Return the process's configuration to run ``source``, which is written below ``folder``."""
    module = folder / "sample"
    module.mkdir(exist_ok=True)
    module.joinpath("extension.py").write_text(source)
    fields: dict[str, Any] = {
        "package": "sample",
        "folder": str(module),
        "entry": "extension:Sample",
        "imports": (),
        "module": "sample",
        "target": "here",
        "params": {},
        "features": {},
        "knobs": {},
        "arena": agent.arena_fd,
        "address": 0,
        "size": agent.arena_size,
        "doorbell": agent.doorbell_fd,
        "beat_s": 0.1,
        "uid": free_uid(str(folder)) if os.geteuid() == 0 else None,
        "parent": os.getpid(),
    }
    return ChildConfig(**fields | more)


@contextmanager
def running(folder: Path, source: str = QUIET, **more: Any) -> Iterator[Running]:
    """Start it, and kill it in the end."""
    agent = SimAgent(realtime=False)
    try:
        process = ExtensionProcess(config_for(agent, folder, source, **more))
        try:
            yield Running(agent, process)
        finally:
            process.close()
    finally:
        agent.close()
