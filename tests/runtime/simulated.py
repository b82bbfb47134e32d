# SPDX-License-Identifier: Apache-2.0
"""An instance on a simulated agent, whose extension is not started."""

from __future__ import annotations

from pathlib import Path

from kmind.agent.sim.agent import SimAgent
from kmind.agent.types import Mode
from kmind.events import Event
from kmind.extension import find_module, parse_parameters
from kmind.guard import Journal, Policy
from kmind.runtime.instance.instance import Instance
from kmind.runtime.services import InstanceSpec, Services
from kmind.workloads.simulated_disk import make_disk_files


class Simulated:
    """``instance``, made of ``spec`` and ``services``, and the ``events`` that it tells.

    It is of the module ``name``, which is readahead by default.
    """

    def __init__(self, folder: Path, name: str = "readahead") -> None:
        self.events: list[Event] = []
        self.root = folder / "root"
        self.journal = Journal(folder / "journal.db")
        target = make_disk_files(self.root, read_ahead_kb=128)
        module = find_module(name)
        params = parse_parameters(module.manifest, ())
        agent = SimAgent(realtime=False, now_ns=10**9)
        self.spec = InstanceSpec(module, target, params, Mode.AUTO, agent)
        self.services = Services(self.journal, Policy(), self.events.append, root=self.root)
        self.instance = Instance(self.spec, self.services)

    def close(self) -> None:
        """Put everything back."""
        self.instance.stop()
        self.journal.close()
