# SPDX-License-Identifier: Apache-2.0
"""Base class of extensions: an author writes one subclass of ``Extension``.

It runs in a process of its own, without privileges, and is called from one thread. Arrays handed to
it are views of shared memory that the kernel side overwrites when the call returns: copy what must
last. An exception that leaves a method ends the process, and with it the instance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from kmind.extension.context import Context

__all__ = ["ChangeEvent", "Extension", "ObjectiveEvent", "VerdictEvent"]


@dataclass(frozen=True)
class VerdictEvent:
    """The agent's answer to a recommendation.

    ``verdict`` is a name of ``enum kmind_verdict`` in lower case: ``"approved"``,
    ``"renewed"``, ``"shadowed"``, ``"advised"``, or the reason of a refusal.
    """

    id: int
    verdict: str
    knob: str
    value: int | str


@dataclass(frozen=True)
class ChangeEvent:
    """Fate of an approved recommendation; ``value`` is the knob's current value.

    ``applied``: it is set. ``undone``: its hold ended. ``yielded``: somebody else set the knob, and
    further recommendations for it are refused. ``failed``: it was not set. ``kept``: an experiment
    measured a gain, so it stays while it is renewed. ``dropped``: after an experiment the previous
    value is back; ``value`` is then the recommended one, and ``outcome`` the result of the
    experiment.
    """

    kind: Literal["applied", "undone", "yielded", "failed", "kept", "dropped"]
    id: int
    knob: str
    value: int | str
    outcome: Literal["", "gain", "loss", "no change", "aborted"] = ""


@dataclass(frozen=True)
class ObjectiveEvent:
    """One measurement of the objective by the owner, or the reason why it failed.

    ``value`` is None if it failed; ``gap`` is then the reason: ``failed``, ``timeout``, ``empty``,
    ``text`` or ``range``. It covers the time from ``start_s`` to ``end_s``, in seconds of
    CLOCK_MONOTONIC, as does ``context.now``.
    """

    value: float | None
    start_s: float
    end_s: float
    gap: Literal["", "failed", "timeout", "empty", "text", "range"] = ""


class Extension:
    """Base class of all extensions. All methods are optional."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def start(self) -> None:
        """Called once, before all other methods."""

    def on_windows(self, windows: npt.NDArray[np.void]) -> None:
        """Handle closed feature windows, oldest first: ``layout.WINDOW``, shape (n,).

        ``windows["value"][:, context.features["x"]]`` is the column of feature x.
        """

    def on_records(self, records: npt.NDArray[np.void]) -> None:
        """Handle records of the module's own kinds from one CPU: ``layout.RECORD``, shape (n,)."""

    def on_verdict(self, verdict: VerdictEvent) -> None:
        """Handle the agent's verdict on a recommendation."""

    def on_change(self, change: ChangeEvent) -> None:
        """Handle a change of a knob that followed from a recommendation."""

    def on_objective(self, objective: ObjectiveEvent) -> None:
        """Handle a reading of the objective; for a module with ``[objective]``."""

    def on_measuring(self, active: bool) -> None:
        """Handle the begin or end of the owner's comparison of the setting with the baseline.

        For modules with ``[evidence] by = "module"``. In between the knobs hold both by turns, with
        no event for each: windows and readings of that time are of neither alone.
        """

    def on_mode(self, mode: str) -> None:
        """Handle a change of mode; ``context.mode`` has the new one.

        Called again after an answer that only an earlier mode gives.
        """

    def status(self) -> Mapping[str, Any]:
        """Return a small status for the admin, as plain JSON; called about once a second."""
        return {}
