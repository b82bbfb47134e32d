# SPDX-License-Identifier: Apache-2.0
"""An instance of the sample module on a disk of its own, run step by step."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from runtime.measured import Make, Owner, Speed
from runtime.supervised import Rig, stirred, value_of
from sample_module import RECOMMENDER, loop_disk, make_module

from kmind.agent.types import Mode
from kmind.events import Event
from kmind.extension import find_module, parse_parameters
from kmind.guard import Journal, Policy
from kmind.knobs import parse_target
from kmind.runtime.instance.agent_factory import make_bpf_agent
from kmind.runtime.instance.instance import Instance
from kmind.runtime.sandbox.cgroup.cgroup import list_cgroups
from kmind.runtime.services import InstanceSpec, Services

PATIENCE_S = 20


class Bench:
    """One instance, the events that it told, and the journal behind it."""

    def __init__(self, folder: Path, disk: str) -> None:
        self.folder = folder
        self.disk = disk
        self.knob = Path(f"/sys/block/{disk}/queue/read_ahead_kb")
        self.baseline = self.knob.read_text()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.journal = Journal(folder / "journal.db")
        self.instance: Instance | None = None
        self.stopped = False

    def start(self, mode: str, *words: str, extension: str = RECOMMENDER, policy: str = "") -> None:
        """Make the sample module and start an instance of it."""
        module = find_module(str(make_module(self.folder, extension)))
        params = parse_parameters(module.manifest, words)
        target = parse_target(self.disk)
        rules = Policy()
        if policy:
            file = self.folder / "policy.toml"
            file.write_text(policy)
            rules = Policy.load(file)
        agent = make_bpf_agent(module, target, params, deadline_s=1.0)
        spec = InstanceSpec(module, target, params, Mode[mode.upper()], agent)
        services = Services(self.journal, rules, self._note, memory=self.folder / "memory")
        self.instance = Instance(spec, services)
        self.instance.start()

    def _note(self, event: Event) -> None:
        self.events.append((event.name, event.fields()))

    def of(self, event: str) -> list[dict[str, Any]]:
        """The events of that name so far."""
        return [fields for name, fields in self.events if name == event]

    def run_until(self, done: Callable[[], object]) -> None:
        """Step until something is so; fail if it never is."""
        assert self.instance is not None
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            told = [event for event in self.events if event[0] != "window"]
            assert time.monotonic() < deadline, f"it never came: {told[-5:]}"
            self.instance.step(0.05)

    def run_for(self, seconds: float) -> None:
        """Step for some time."""
        assert self.instance is not None
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.instance.step(0.05)

    def stop(self) -> dict[str, Any]:
        """Stop the instance."""
        assert self.instance is not None
        self.stopped = True
        return self.instance.stop()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A disk with nothing running on it yet; what is started is stopped."""
    with loop_disk(tmp_path) as disk:
        made = Bench(tmp_path, disk)
        try:
            with stirred(disk):
                yield made
        finally:
            if made.instance and not made.stopped:
                made.stop()
            made.journal.close()
            assert made.knob.read_text() == made.baseline


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[str]:
    with loop_disk(tmp_path) as name:
        yield name


@pytest.fixture
def second(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "second"
    folder.mkdir()
    with loop_disk(folder) as name:
        yield name


@pytest.fixture
def rig(tmp_path: Path, disk: str) -> Iterator[Rig]:
    made = Rig(tmp_path)
    before = value_of(disk)
    try:
        with stirred(disk):
            yield made
    finally:
        made.close()
        assert value_of(disk) == before
        assert not made.root.exists()
        assert not list((tmp_path / "run").rglob("*@*"))
        assert not [name for name in list_cgroups() if name.startswith(made.cgroups)]


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Make]:
    """Owners on a load of their own, whose speed under a value the test says."""
    made: list[Owner] = []

    def make(speed: Speed, **options: Any) -> Owner:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Owner(folder, speed, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()
