# SPDX-License-Identifier: Apache-2.0
"""Protocol of the supervisor, for the daemon. `kmind.runtime.supervisor.supervisor` implements it.

Everything but ``submit`` belongs to the supervisor's own thread. ``submit`` may be
called from any: it has the call run there, between two steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, TypeVar

from kmind.agent.types import Mode
from kmind.events import Emit
from kmind.extension import Value
from kmind.runtime.findings.keeper import Findings
from kmind.runtime.supervisor.turn_times import TurnTimes

__all__ = ["Advices", "Requests", "Supervisor"]

T = TypeVar("T")


class Advices(Protocol):
    """Advice by its id. All raise UsageError for an id that there is not."""

    def list(self) -> list[dict[str, Any]]:
        """All advice, newest first."""

    def get(self, id: str) -> dict[str, Any]:
        """One, with its reason, evidence and the command that does the same."""

    def apply(self, id: str) -> dict[str, Any]:
        """Do what it says, through the journal."""

    def reject(self, id: str) -> dict[str, Any]:
        """Close it without doing it."""

    def undo(self, id: str) -> dict[str, Any]:
        """Put back what ``apply`` changed."""


class Requests(Protocol):
    """Requests of an admin. All raise KmindError if they cannot be fulfilled."""

    def load(
        self,
        module: str,
        target: str,
        parameters: Mapping[str, Value],
        *,
        mode: Mode | None,
        dry_run: bool = False,
        asker: int = 0,
    ) -> dict[str, Any]:
        """Make an instance, as the user ``asker`` may; what was done, or would be."""

    def unload(self, name: str, *, force: bool = False) -> dict[str, Any]:
        """End an instance, ``force`` of a driver's used device too; what it had changed."""

    def reload(self, name: str) -> dict[str, Any]:
        """Upgrade the agent in place, and start the extension anew."""

    def set_mode(self, name: str, mode: Mode) -> dict[str, Any]:
        """Move an instance to a mode."""

    def models(self, name: str) -> list[dict[str, Any]]:
        """The models in an instance's slots."""

    def deploy_model(self, name: str, data: bytes) -> dict[str, Any]:
        """Have an instance decide by the model of this model file."""

    def rollback_model(self, name: str) -> dict[str, Any]:
        """Have an instance decide by the model that it decided by before."""


class Supervisor(Protocol):
    """Many instances, owned by one thread."""

    @property
    def requests(self) -> Requests:
        """Requests of an admin."""

    @property
    def advice(self) -> Advices:
        """Recommendations that wait for an operator."""

    @property
    def evidence_path(self) -> Path:
        """The file that holds the experiments; from any thread."""

    @property
    def findings(self) -> Findings:
        """Findings of detectors and reports of reporters."""

    @property
    def turns(self) -> TurnTimes:
        """Durations of the supervisor's turns; may be called from any thread."""

    def start(self) -> None:
        """Take over, or restore, what an earlier daemon left."""

    def status(self, name: str | None = None) -> list[dict[str, Any]]:
        """All instances, or the one of that name."""

    def names(self) -> list[str]:
        """The names of all instances."""

    def leases(self) -> list[dict[str, Any]]:
        """Leases that are held: knob, target, holder, priority, seconds until they expire."""

    def fill(self) -> dict[str, dict[str, int]]:
        """Return the fill levels of the tables that all instances share."""

    def step(self, timeout_s: float) -> None:
        """Do what there is to do, waiting for it at most that long."""

    def submit(self, call: Callable[[], T], *, reads: bool = False) -> Future[T]:
        """Have a call run on the supervisor's thread, and wake it; ``reads``: it only reads."""

    def subscribe(self, callback: Emit) -> Callable[[], None]:
        """Call back with each event, on the supervisor's thread; returns the call that ends it."""

    def close(self, *, keep: bool) -> None:
        """Put everything back; with ``keep`` agents and extensions go on instead."""
