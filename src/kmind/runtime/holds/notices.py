# SPDX-License-Identifier: Apache-2.0
"""Telling of what becomes of knobs: to the agent, the extension, other instances and the admin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kmind import events
from kmind.agent.types import Kind
from kmind.guard import Outcome
from kmind.knobs import Value
from kmind.runtime.holds.granted_knobs import GrantedKnobs
from kmind.runtime.holds.grants import Granted
from kmind.runtime.holds.held import Held
from kmind.runtime.services import InstanceSpec, Services

__all__ = ["Notices", "result_of"]


class Notices:
    """Notices of one instance: ``notify`` for its agent and extension, the others as events."""

    def __init__(self, spec: InstanceSpec, services: Services, knobs: GrantedKnobs) -> None:
        self._who = spec.name
        self._agent = spec.agent
        self._emit = services.emit
        self._announce = services.announce
        self._knobs = knobs

    def notify(
        self, granted: Granted, kind: str, rec_id: int, *, number: int | None = None
    ) -> Value | None:
        """Let agents know what a knob holds now, and the extension what became of it.

        The extension's record has the knob's value, or ``number``. Returns the value, None where it
        is not known.
        """
        value = self._knobs.read(granted)
        code = granted.knob.encode(granted.baseline if value is None else value)
        self._agent.admission.set_current(*granted.key, code)
        self._announce(*granted.key, code)
        self._agent.notify(Kind[kind], rec_id, code if number is None else number)
        return value

    def applied(
        self,
        granted: Granted,
        held: Held,
        old: Value,
        reason: str,
        evidence: Mapping[str, Any],
        measured: str,
    ) -> None:
        """A value was set; ``measured`` says what is known of its effect."""
        self._emit(
            events.Applied(
                instance=self._who,
                id=held.rec_id,
                knob=granted.knob.name,
                old=old,
                value=held.value,
                reason=reason,
                evidence=evidence,
                hold_s=held.hold_s,
                measured=measured,
                undo=held.first.undo,
            )
        )

    def kept(
        self,
        granted: Granted,
        held: Held,
        reason: str,
        evidence: Mapping[str, Any],
        experiment: int,
    ) -> None:
        """A value has shown its worth in an experiment, and stands."""
        self._emit(
            events.Kept(
                instance=self._who,
                id=held.rec_id,
                knob=granted.knob.name,
                old=held.last.old,
                value=held.value,
                reason=reason,
                evidence=evidence,
                undo=held.first.undo,
                experiment=experiment,
            )
        )

    def dropped(
        self,
        granted: Granted,
        held: Held,
        value: Value | None,
        outcome: str,
        why: str,
        experiment: int,
    ) -> None:
        """A value has not shown its worth, and ``value`` stands again."""
        self._emit(
            events.Dropped(
                instance=self._who,
                id=held.rec_id,
                knob=granted.knob.name,
                old=held.value,
                value=value,
                outcome=outcome,
                why=why,
                experiment=experiment,
            )
        )

    def undone(self, granted: Granted, held: Held, value: Value | None, why: str) -> None:
        """A value is held no longer, and ``value`` stands again."""
        self._emit(
            events.Undone(
                instance=self._who,
                id=held.rec_id,
                knob=granted.knob.name,
                old=held.value,
                value=value,
                why=why,
            )
        )

    def yielded(self, granted: Granted, rec_id: int, value: Value | None, message: str) -> None:
        """A knob is left to somebody else, at ``value``."""
        self._emit(
            events.Yielded(
                instance=self._who, id=rec_id, knob=granted.knob.name, value=value, message=message
            )
        )

    def failed(self, granted: Granted, rec_id: int, why: str, *, tried: bool) -> None:
        """An approved value is not set, though it was ``tried`` or not even that."""
        self._emit(
            events.Failed(
                instance=self._who, id=rec_id, knob=granted.knob.name, why=why, tried=tried
            )
        )


def result_of(outcome: Outcome, why: str) -> str:
    """Return why a value was put back, or why it could not be."""
    return why if outcome.state == "undone" else f"{outcome.state}: {outcome.why}"
