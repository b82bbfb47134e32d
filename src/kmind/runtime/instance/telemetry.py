# SPDX-License-Identifier: Apache-2.0
"""Looking at what agent and extension show of themselves in the arena."""

from __future__ import annotations

from dataclasses import dataclass, field

from kmind import events
from kmind.agent.protocol import OwnedAgent
from kmind.agent.types import Mode
from kmind.events import Emit
from kmind.extension import Manifest
from kmind.extension import Value as Parameter
from kmind.knobs import Value
from kmind.queue import peek_windows, read_status
from kmind.runtime.budget import OwnerBudget
from kmind.runtime.experiment.experiments import Experiments
from kmind.runtime.experiment.no_experiments import NoExperiments
from kmind.runtime.instance.extension.service import ExtensionService
from kmind.runtime.instance.hook_gating import HookGating
from kmind.runtime.instance.notes import parse_status
from kmind.runtime.service import Service
from kmind.runtime.services import InstanceSpec, Services
from kmind.util.grid import next_on_grid

__all__ = ["Seen", "Telemetry", "View", "Watcher"]

_WINDOWS_AT_ONCE = 64
# How often; less often where nothing happens.
_POLL_S, _IDLE_POLL_S = 0.5, 1.0
# So many windows' worth of time with traffic, between two polls.
_BUSY_WINDOWS = 3


@dataclass
class View:
    """Data of a live display, besides the events: cheap to read."""

    features: dict[str, int] = field(default_factory=dict)
    status: dict[str, Parameter] = field(default_factory=dict)
    mode: str = ""
    knobs: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """Traffic since the last look, by the agent's own count.

    ``busy`` counts how often a window was due and some counter had moved. Windows can be missing
    although there is traffic: an extension that reads none leaves no room for them.
    """

    windows: int
    busy: int


class Watcher:
    """Tells of each window once, and keeps a ``View`` of the last one and of the status.

    What lies in the arena is shown, and decides nothing: how many windows there are, and whether
    there is traffic, says the agent's account, which no extension can reach. ``told`` is how
    many windows there were at the last look.
    """

    def __init__(
        self,
        who: str,
        manifest: Manifest,
        agent: OwnedAgent,
        view: View,
        emit: Emit,
        budget: OwnerBudget,
    ) -> None:
        self.told = 0
        self._who = who
        self._columns = manifest.columns
        self._agent = agent
        self._view = view
        self._emit = emit
        self._budget = budget
        self._status = b""
        self._busy = 0

    def poll(self) -> Seen:
        """Tell what is new; how much of it there was."""
        arena, geometry = self._agent.arena, self._agent.geometry
        account = self._agent.account()
        new, self.told = max(0, account["windows"] - self.told), account["windows"]
        busy, self._busy = account["busy"] - self._busy, account["busy"]
        windows = peek_windows(arena, geometry, self.told, min(new, _WINDOWS_AT_ONCE))
        for seq, window in enumerate(windows, self.told - len(windows)):
            values = window["value"].tolist()
            self._view.features = {name: values[c] for name, c in self._columns.items()}
            self._emit(
                events.Window(
                    instance=self._who,
                    seq=seq,
                    end=int(window["end_ns"]) / 1e9,
                    seconds=(int(window["end_ns"]) - int(window["start_ns"])) / 1e9,
                    dropped=int(window["dropped"]),
                    features=self._view.features,
                )
            )
        if self._budget.room:
            with self._budget.spend("status"):
                status = read_status(arena, geometry)
                if status != self._status:
                    self._status = status
                    self._view.status = parse_status(status)
        return Seen(new, busy)


class Telemetry(Service):
    """Polls what the agent saw. So hooks are attached, and experiments know whether there is load.

    ``told`` is how many windows there were at the last poll. What the extension wants to remember
    is kept at the same pace.
    """

    def __init__(
        self,
        spec: InstanceSpec,
        services: Services,
        view: View,
        budget: OwnerBudget,
        experiments: Experiments | NoExperiments,
        extension: ExtensionService,
    ) -> None:
        self.told = 0
        self._spec = spec
        self._emit = services.emit
        self._now = services.now
        self._view = view
        self._budget = budget
        self._experiments = experiments
        self._extension = extension
        self._mode = spec.mode
        self._at = 0.0
        self.configure(spec.manifest)

    def configure(self, manifest: Manifest) -> None:
        """Use another version of the module from now on."""
        spec = self._spec
        self._watcher = Watcher(
            spec.name, manifest, spec.agent, self._view, self._emit, self._budget
        )
        self._hooks = HookGating(manifest, spec.agent)

    @property
    def due(self) -> float:
        """Time of the next poll."""
        return self._at

    def run_due(self) -> None:
        """Poll, attach and detach hooks, and say whether there is a load."""
        now = self._now()
        if now < self._at:
            return
        seen = self.poll()
        self._hooks.poll(now, quiet=not seen.busy, keep=self._experiments.running)
        busy = seen.busy >= _BUSY_WINDOWS
        self._experiments.poll(busy=busy)
        self._extension.keep_memory()
        self._at = next_on_grid(now, _POLL_S if busy else _IDLE_POLL_S)
        self._view.mode = self._mode.name.lower()

    def poll(self) -> Seen:
        """Tell of the windows that are new."""
        self._watcher.told = self.told
        seen = self._watcher.poll()
        self.told = self._watcher.told
        return seen

    def set_mode(self, mode: Mode) -> None:
        """Show another mode."""
        self._mode = mode
