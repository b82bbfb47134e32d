# SPDX-License-Identifier: Apache-2.0
"""Applies changes to knobs and undoes them.

Each change is checked against the policy once more, journalled, written and read
back. A knob that somebody else sets meanwhile is yielded: left as they set it,
and not written again until it is acquired anew. Not safe to share between
threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmind.errors import JournalError, KmindError, KnobError
from kmind.guard._owner import Owner
from kmind.guard._propagate import propagate
from kmind.guard._put_back import Chain, Outcome, put_back
from kmind.guard.journal import Change, Journal
from kmind.guard.policy import Policy
from kmind.knobs import Knob, Target, Value, get_knob, parse_target

__all__ = ["Actuator", "Outcome", "Yielded"]


@dataclass(frozen=True)
class Yielded:
    """A knob that was ours and that somebody else has set since."""

    knob: str
    target: str
    ours: Value | None
    found: Value
    rec_id: int

    def __str__(self) -> str:
        return (
            f"{self.knob} of {self.target} was set to {self.found} by somebody else "
            f"(we had set {self.ours}): left as it is"
        )


class Actuator:
    """Holds the knobs that this process changes.

    ``root`` is where the targets' files are found again when they are put back.
    """

    def __init__(self, journal: Journal, policy: Policy, *, root: Path = Path("/")) -> None:
        self._journal = journal
        self._policy = policy
        self._root = root
        self._held: dict[tuple[str, str], list[Change]] = {}
        self._yielded: dict[tuple[str, str], Yielded] = {}

    @property
    def held(self) -> list[Change]:
        """The changes that are in force, oldest first."""
        return sorted((c for chain in self._held.values() for c in chain), key=lambda c: c.id)

    def apply(
        self,
        knob: Knob,
        target: Target,
        value: Value,
        *,
        who: str,
        why: str,
        evidence: Mapping[str, Any] | None = None,
        rec_id: int = 0,
    ) -> Change:
        """Set a knob for an instance (``who``, such as "readahead@vda").

        Returns once the change is in force, read back and on record. Raises
        ``PolicyError`` (``RefusedError``) where the policy forbids it,
        ``JournalError`` where it cannot be recorded, ``KnobError`` where the
        kernel takes another value or none, or where the knob is yielded or held
        by another process. In each case the knob is as it was.
        """
        key = knob.name, target.name
        if key in self._yielded:
            raise _yielded(self._yielded[key])
        changes, external = self._intend(
            knob, target, value, Owner.me(who), why=why, evidence=evidence, rec_id=rec_id
        )
        if external is not None:
            self._yield(external)
            raise _yielded(external)
        main = changes[0]
        for change in changes:
            self._held.setdefault(change.key, []).append(change)
        try:
            self._set(knob, target, value)
            remark = propagate(knob, target, {main.old}, value)
            done = self._applied(changes, target, value, remark)
        except KmindError as error:
            self._fail(changes, target, error)
            raise
        for change in done:
            self._held[change.key][-1] = change
        return done[0]

    def undo(self, change: Change) -> Outcome:
        """Return the knob to what it held before a change; later changes to it go too.

        A ``JournalError`` says that this is done, but could not be recorded.
        """
        held = any(each.id == change.id for each in self._held.get(change.key, ()))
        outcomes = self._put_back({change.key: change.id}) if held else []
        for outcome in outcomes:
            if (outcome.knob, outcome.target) == change.key:
                return outcome
        raise KnobError(
            f"change {change.id} to {change.knob} of {change.target} is not held here",
            hint="it was undone, kept or yielded before",
        )

    def undo_all(self, who: str | None = None) -> list[Outcome]:
        """Return all knobs that are held, or those of one instance, to their first values.

        A ``JournalError`` says that this is done, but could not be recorded.
        """
        since: dict[tuple[str, str], int] = {}
        for change in self.held:
            if who is None or change.owner.instance == who:
                since.setdefault(change.key, change.id)
        return self._put_back(since) if since else []

    def keep(self, change: Change) -> None:
        """Leave the knob as it is for good: what it holds is its first value from now on."""
        keys = {c.key for c in self.held if c.key == change.key or c.cause == change.id}
        self._journal.finish([c for key in keys for c in self._held[key]], "kept")
        for key in keys:
            del self._held[key]

    def check(self) -> list[Yielded]:
        """Look at each knob that is held, and yield those that somebody else has set.

        Call it now and then, at least once before evidence is judged. A knob that
        ``kmind restore --force`` put back counts as set by somebody else.
        """
        still_open = {change.id for change in self._journal.open_changes()}
        found = []
        for chain in list(self._held.values()):
            last = chain[-1]
            try:
                value = get_knob(last.knob).read(parse_target(last.target, root=self._root))
            except KmindError:
                continue  # gone or unreadable: putting back says so
            if last.new not in (None, value) or last.id not in still_open:
                found.append(Yielded(last.knob, last.target, last.new, value, last.rec_id))
                self._yield(found[-1])
        return found

    def acquire(self, knob: Knob, target: Target) -> None:
        """Allow changes again to a knob that was yielded."""
        self._yielded.pop((knob.name, target.name), None)

    def _intend(
        self, knob: Knob, target: Target, value: Value, owner: Owner, **record: Any
    ) -> tuple[list[Change], Yielded | None]:
        """Rows for a change and for what it disturbs, durable; or who was faster."""
        with self._journal.exclusive():
            old = knob.read(target)
            chain = self._held.get((knob.name, target.name))
            if chain and chain[-1].new not in (None, old):
                ours = chain[-1]
                return [], Yielded(knob.name, target.name, ours.new, old, ours.rec_id)
            refusal = self._policy.check(knob, target, value, old, self._others(knob, target))
            if refusal is not None:
                raise refusal
            disturbed = [
                other for name in knob.disturbs if (other := get_knob(name)).exists(target)
            ]
            for each in (knob, *disturbed):
                self._check_free(each, target, owner)
            main = self._journal.intend(knob, target, old, value, owner, **record)
            parts = []
            for other in disturbed:
                with suppress(KnobError):  # a knob that cannot be read cannot be restored
                    parts.append(
                        self._journal.intend(
                            other, target, other.read(target), None, owner,
                            why=f"the kernel may reset it with {knob.name}", cause=main.id,
                        )
                    )  # fmt: skip
            return [main, *parts], None

    def _check_free(self, knob: Knob, target: Target, owner: Owner) -> None:
        for change in self._journal.open_changes(knob.name, target.name):
            if change.owner.same_process(owner):
                continue
            state = "held" if change.owner.alive() else "left behind"
            hint = "stop it first" if change.owner.alive() else "run: kmind restore"
            raise KnobError(f"{knob.name} of {target} is {state} by {change.owner}", hint=hint)

    def _others(self, knob: Knob, target: Target) -> dict[str, Value]:
        values: dict[str, Value] = {}
        for rule in self._policy.bound(knob, target).rules:
            with suppress(KnobError):
                values[rule.other] = get_knob(rule.other).read(target)
        return values

    def _set(self, knob: Knob, target: Target, value: Value) -> None:
        if knob.read(target) != value:
            knob.write(target, value)
        found = knob.read(target)
        if found != value:
            raise KnobError(
                f"{knob.name} of {target} reads {found} after {value} was written",
                hint="the kernel rounds or limits it: recommend a value that it takes",
            )

    def _applied(
        self, changes: list[Change], target: Target, value: Value, remark: str
    ) -> list[Change]:
        main, *parts = changes
        with self._journal.exclusive():
            self._journal.applied(main, value, remark)
            for part in parts:
                with suppress(KnobError):
                    self._journal.applied(part, get_knob(part.knob).read(target))
            return [self._journal.get(change.id) for change in changes]

    def _fail(self, changes: list[Change], target: Target, error: KmindError) -> None:
        """Put back what a failed change may have done; what resists stays held."""
        closed = []
        for change in changes:
            knob = get_knob(change.knob)
            try:
                if knob.read(target) != change.old:
                    knob.write(target, change.old)
                    propagate(knob, target, {change.new}, change.old)
            except KmindError:
                continue
            closed.append(change)
            self._held[change.key].remove(change)
            if not self._held[change.key]:
                del self._held[change.key]
        with suppress(JournalError):
            self._journal.finish(closed, "failed", str(error))

    def _put_back(self, since: dict[tuple[str, str], int]) -> list[Outcome]:
        for change in self.held:  # what a change disturbed goes back with it
            cause = next((c for c in self.held if c.id == change.cause), None)
            if cause is not None and cause.id >= since.get(cause.key, cause.id + 1):
                since[change.key] = min(change.id, since.get(change.key, change.id))

        def chains(locked: bool) -> list[Chain]:
            # Rows that another process has closed meanwhile are no longer ours to undo.
            still = {c.id for c in self._journal.open_changes()} if locked else None
            result = []
            for key, start in since.items():
                rows = [c for c in self._held[key] if still is None or c.id in still]
                if rows and rows[-1].id >= start:
                    result.append(Chain(tuple(rows), start))
            return result

        outcomes, unrecorded = put_back(self._journal, chains, self._root)
        states = {(o.knob, o.target): o for o in outcomes}
        for key, start in since.items():
            outcome = states.get(key)
            if outcome is not None and outcome.state == "skipped":
                continue
            keep = outcome is not None and outcome.state == "undone"
            self._held[key] = [c for c in self._held[key] if keep and c.id < start]
            if not self._held[key]:
                del self._held[key]
            if outcome is not None and outcome.state == "yielded" and outcome.found is not None:
                self._yielded[key] = Yielded(*key, None, outcome.found, 0)
        if unrecorded is not None:
            raise unrecorded
        return outcomes

    def _yield(self, yielded: Yielded) -> None:
        key = yielded.knob, yielded.target
        self._yielded[key] = yielded
        self._journal.finish(self._held.pop(key), "yielded", str(yielded))


def _yielded(yielded: Yielded) -> KnobError:
    return KnobError(str(yielded), hint="it stays so until the instance is started anew")
