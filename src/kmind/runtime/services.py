# SPDX-License-Identifier: Apache-2.0
"""Parts of an instance: its own, and the services that all instances of an owner share.

``kmind run``, the daemon and the simulated demo make ``Services`` once each, and an
``InstanceSpec`` for each instance; `kmind.runtime.instance.instance` puts both together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from kmind.agent.core.core import Core
from kmind.agent.protocol import OwnedAgent
from kmind.agent.types import Mode
from kmind.events import Emit, Log
from kmind.extension import Manifest, Module, Value
from kmind.guard import Actuator, Gate, Journal, Policy
from kmind.knobs import Target
from kmind.paths import run_folder
from kmind.runtime.evidence_store import EvidenceStore
from kmind.runtime.findings.keeper import Findings

__all__ = ["InstanceSpec", "Sandbox", "Services"]


@dataclass(frozen=True)
class Sandbox:
    """Surroundings of an extension's process, besides those of its manifest.

    ``cgroup`` is the name of its cgroup ("": none). ``log`` is the path of a FIFO that it prints
    to; with one it outlives its owner, without one it dies when its owner does.
    """

    cgroup: str = ""
    log: str = ""


@dataclass(frozen=True)
class InstanceSpec:
    """A module bound to a target, with its loaded agent.

    ``slot`` is the place in the core object, ``deadline_s`` the agent's watchdog deadline.
    """

    module: Module
    target: Target
    params: Mapping[str, Value]
    mode: Mode
    agent: OwnedAgent
    slot: int = 0
    sandbox: Sandbox = field(default_factory=Sandbox)
    deadline_s: float = 1.0

    @property
    def name(self) -> str:
        """Name of the instance, such as ``readahead@vda``."""
        return f"{self.module.manifest.name}@{self.target.name}"

    @property
    def manifest(self) -> Manifest:
        """The module's manifest."""
        return self.module.manifest


@dataclass(frozen=True)
class Services:
    """Services that the instances of one owner share. The owner closes each part.

    ``evidence`` keeps experiments, ``findings`` findings and reports, the folder ``memory`` the
    memories of extensions; by default all are forgotten with the process. ``devices`` is the
    folder of the locks that stand for drivers' devices. ``root`` is the folder
    that knobs' files are below. ``announce`` is called with knob, target and value, by number, when
    one was set or put back; ``name_of`` names the holder of a slot. ``now`` is in seconds.
    """

    journal: Journal
    policy: Policy
    emit: Emit
    evidence: EvidenceStore = field(default_factory=lambda: EvidenceStore(None))
    findings: Findings | None = None
    memory: Path | None = None
    devices: Path = field(default_factory=lambda: run_folder() / "devices")
    core: Core | None = None
    gate: Gate | None = None
    root: Path = Path("/")
    announce: Callable[[int, int, int], None] = lambda knob, target, value: None
    name_of: Callable[[int], str] = str
    now: Callable[[], float] = time.monotonic

    def actuator(self) -> Actuator:
        """Return a new actuator, that of one instance."""
        return Actuator(self.journal, self.policy, root=self.root, gate=self.gate)

    def logger(self, instance: str, source: str = "kmind") -> Callable[[str], None]:
        """Return what tells a line about an instance."""
        return lambda message: self.emit(Log(instance=instance, source=source, message=message))

    def release(self, slot: int) -> Callable[[int, int], None]:
        """Return what frees the lease of a slot on a knob of a target, both by number."""
        return partial(self.core.free, slot) if self.core else lambda knob, target: None
