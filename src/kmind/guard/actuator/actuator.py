# SPDX-License-Identifier: Apache-2.0
"""Applies changes to knobs and undoes them.

Each change is checked against the policy once more, journalled, written and read
back. A knob that somebody else sets meanwhile is yielded: left as they set it,
and not written again until it is acquired anew. A sysctl is changed only under the
gate's guard, which notices the very write of somebody else; so is a file of sysfs where
the kernel has what that takes. Not safe to share between threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from kmind.errors import BusyError, JournalError, KmindError, KnobError
from kmind.guard._carry import LONG_S, SHORT_S, Carrier, end_drains_left
from kmind.guard._owner import Owner
from kmind.guard._put_back import Chain, Outcome, put_back
from kmind.guard.actuator._gated import GatedKnobs
from kmind.guard.actuator._held import Held, Key
from kmind.guard.actuator._intend import Intents
from kmind.guard.actuator._late import LateWrites
from kmind.guard.actuator._yielded import Yielded, refused
from kmind.guard.gate.gate import Gate
from kmind.guard.journal import Change, Journal
from kmind.guard.policy import Policy
from kmind.knobs import Knob, Target, Value, get_knob, parse_target

__all__ = ["Actuator", "Outcome", "Yielded"]


class Actuator:
    """Holds the knobs that this process changes.

    ``root`` is where the targets' files are found again when they are put back.
    ``gate`` guards what it covers; by default one of its own. A gate may serve several
    actuators.
    """

    def __init__(
        self,
        journal: Journal,
        policy: Policy,
        *,
        root: Path = Path("/"),
        gate: Gate | None = None,
    ) -> None:
        self._journal = journal
        self._root = root
        self._gated = GatedKnobs(gate or Gate.open(), root)
        self._held = Held()
        self._intents = Intents(journal, policy, self._held, self._gated)
        self._yielded: dict[Key, Yielded] = {}
        self._untold: list[Yielded] = []
        self._carrier = Carrier(journal)
        self._remarks: list[str] = []
        self._late = LateWrites()

    @property
    def fd(self) -> int:
        """Readable when somebody else writes to what is guarded: then `check`."""
        return self._gated.fd

    @property
    def held(self) -> list[Change]:
        """The changes that are in force, oldest first."""
        return list(self._held)

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
        by_admin: bool = False,
        parked: bool = False,
        trial: bool = False,
    ) -> Change:
        """Set a knob for an instance (``who``, such as "readahead@vda").

        With ``parked`` it is only checked and put on record, on trial: `resume` sets it.
        ``trial``: it is on trial as well, and never kept if this process dies. Otherwise it
        returns once the change is in force, read back and on record. Raises ``PolicyError``
        (``RefusedError``) where the policy forbids it, ``JournalError`` where it cannot be
        recorded, ``KnobError`` where the kernel takes another value or none, where the knob
        is yielded or held by another process, or is to be gated and cannot be, or where no
        agent approved the value (``by_admin``: the admin did). In each case the knob is as
        it was.
        """
        try:
            return self._apply(
                knob, target, value, Owner.me(who), by_admin, parked,
                why=why, evidence=evidence, rec_id=rec_id, trial=parked or trial,
            )  # fmt: skip
        finally:
            self._gated.let_go(self._held.keys)

    def _apply(
        self,
        knob: Knob,
        target: Target,
        value: Value,
        owner: Owner,
        by_admin: bool,
        parked: bool,
        **record: Any,
    ) -> Change:
        key = knob.name, target.name
        if key in self._yielded:
            raise refused(self._yielded[key])
        if self._held.is_parked(key):
            raise KnobError(f"{knob.name} of {target} is being measured at another value")
        if parked:
            _check_parkable(knob)
        self._late.catch_up()
        self._carrier.still(*key)
        external = self._overruled(key)
        changes: list[Change] = []
        if external is None:
            changes, external = self._intents.intend(knob, target, value, owner, by_admin, **record)
        if external is not None:
            self._yield(external)
            raise refused(external)
        main = changes[0]
        for change in changes:
            self._held.add(change)
        if parked:
            self._held.park(key)
            return main
        try:
            return self._put_in_force(changes, knob, target)
        except KmindError as error:
            self._fail(changes, target, error)
            raise

    def _put_in_force(
        self, changes: list[Change], knob: Knob, target: Target, for_s: float = LONG_S
    ) -> Change:
        main = changes[0]
        assert main.new is not None
        _set(knob, target, main.new)
        remark = self._carrier.carry(knob, target, {main.old}, main.new, for_s=for_s)
        done = self._applied(changes, target, main.new, remark)
        for change in done:
            self._held.replace_last(change)
        return done[0]

    def park(self, change: Change) -> None:
        """Put back the value from before the last change, for a while; the knob stays held.

        For measuring both in turn: `resume` sets it again, at the cost of one write and
        none to the journal, for a row that is open covers either value. Raises KnobError
        where the kernel does not take it, or somebody else has set the knob meanwhile;
        `check` tells of it then. A knob that disturbs others cannot be parked.
        """
        self._swap(change, park=True)

    def resume(self, change: Change) -> None:
        """Set a knob again that was parked; as `park`."""
        self._swap(change, park=False)

    def _swap(self, change: Change, *, park: bool) -> None:
        key = change.key
        last = next(reversed(self._held.chain(key)), None)
        if last is None or last.id != change.id or last.new is None:
            raise KnobError(f"change {change.id} to {change.knob} is not the last that is held")
        if park == self._held.is_parked(key):
            return
        knob = get_knob(change.knob)
        target = parse_target(change.target, root=self._root)
        self._carrier.still(*key)
        old, new = (last.new, last.old) if park else (last.old, last.new)
        if gone := self._overruled(key):
            self._yield(gone)
            self._untold.append(gone)
            raise refused(gone)
        if (current := knob.read(target)) != old:
            raise KnobError(f"{knob.name} of {target} was set to {current} by somebody else")
        if not self._gated.swap(key, new):
            raise KnobError(f"another value for {knob.name} of {target} was approved meanwhile")
        if not park and last.state == "intended":
            self._held.park(key, False)
            try:
                self._put_in_force([last], knob, target, SHORT_S)
            except KmindError as error:
                self._fail([last], target, error)
                raise
            return
        _set(knob, target, new)
        self._carrier.carry(knob, target, {old}, new, for_s=SHORT_S)
        self._held.park(key, park)

    def set_trial(self, change: Change, trial: bool) -> None:
        """Say of a value that is held that it is measured, or that it stands by its effect.

        A value on trial is put back when this process dies, whatever the policy keeps.
        """
        self._late.record(lambda: self._journal.set_trial(change, trial))
        if not trial:
            self._carrier.complete(*change.key)

    def join(self, first: Change, last: Change) -> Change:
        """Make one change of two that are held, and of those between; no knob is written."""
        chain = self._held.chain(last.key)
        now = next(change for change in chain if change.id == last.id)
        joined = replace(now, old=first.old, undo=first.undo)
        between = [change for change in chain if first.id <= change.id < last.id]
        rest = [change for change in chain if change not in between and change.id != last.id]
        self._held.set_chain(last.key, [*rest, joined])
        self._late.record(lambda: self._journal.join(between, joined))
        return joined

    def read(self, knob: Knob, target: Target) -> Value:
        """Return a knob's value, ignoring short intermediate ones. Raises KnobError."""
        return self._carrier.value(knob, target)

    @property
    def unsettled(self) -> bool:
        """True if `check` has something to close, even if nothing is held."""
        return bool(self._late) or self._carrier.busy

    def finish(self) -> None:
        """Wait until open files were told of the last changes. Not on an owner's thread."""
        self._remarks += self._carrier.finish()

    def remarks(self) -> list[str]:
        """Return remarks on changes since the last call, such as files not reached."""
        remarks, self._remarks = self._remarks, []
        return remarks

    def undo(self, change: Change) -> Outcome:
        """Return the knob to what it held before a change; later changes to it go too.

        A ``JournalError`` says that this is done, but could not be recorded.
        """
        held = any(other.id == change.id for other in self._held.chain(change.key))
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
        since: dict[Key, int] = {}
        for change in self.held:
            if who is None or change.owner.instance == who:
                since.setdefault(change.key, change.id)
        return self._put_back(since) if since else []

    def keep(self, change: Change) -> None:
        """Leave the knob as it is for good: what it holds is its first value from now on."""
        keys = {c.key for c in self.held if c.key == change.key or c.cause == change.id}
        self._journal.finish([c for key in keys for c in self._held.chain(key)], "kept")
        for key in keys:
            self._held.pop(key)
        self._gated.let_go(self._held.keys)

    def check(self) -> list[Yielded]:
        """Look at each knob that is held, and yield those that somebody else has set.

        Call it when ``fd`` is readable, and now and then, at least once before evidence
        is judged. What is guarded and somebody wrote our own value to is theirs too. A knob
        that ``kmind restore --force`` put back counts as set by somebody else.
        """
        self._gated.collect()
        self._late.catch_up()
        self._remarks += self._carrier.look()
        try:
            return self._check()
        except BusyError:
            return []  # the next look finds it

    def _check(self) -> list[Yielded]:
        still_open = {change.id for change in self._journal.open_changes()}
        yielded, self._untold = self._untold, []
        for key in list(self._held.keys):
            last = self._held.chain(key)[-1]
            try:
                gone = self._overruled(key)
                target = parse_target(last.target, root=self._root)
                value = self._carrier.value(get_knob(last.knob), target)
            except KmindError:
                continue  # gone or unreadable: putting back says so
            ours = self._held.wanted(key)
            if gone is None and (ours not in (None, value) or last.id not in still_open):
                gone = Yielded(last.knob, last.target, ours, value, last.rec_id)
            if gone is not None:
                yielded.append(gone)
                self._yield(gone)
        return yielded

    def acquire(self, knob: Knob, target: Target) -> None:
        """Allow changes again to a knob that was yielded."""
        self._yielded.pop((knob.name, target.name), None)

    def _overruled(self, key: Key) -> Yielded | None:
        if key not in self._held:
            return None
        return self._gated.overruled(self._held.chain(key)[-1], self._held.wanted(key))

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
                    self._gated.reopen(change.key, change.old, self._held.baseline(change.key))
                    self._carrier.still(*change.key)
                    knob.write(target, change.old)
                    self._carrier.carry(knob, target, {change.new}, change.old)
            except KmindError:
                continue
            closed.append(change)
            rest = [other for other in self._held.chain(change.key) if other != change]
            self._held.set_chain(change.key, rest)
        with suppress(JournalError):
            self._late.record(lambda: self._journal.finish(closed, "failed", str(error)))

    def _put_back(self, since: dict[Key, int]) -> list[Outcome]:
        for change in self.held:  # what a change disturbed goes back with it
            cause = next((c for c in self.held if c.id == change.cause), None)
            if cause is not None and cause.id >= since.get(cause.key, cause.id + 1):
                since[change.key] = min(change.id, since.get(change.key, change.id))

        theirs: list[tuple[Yielded, Outcome]] = []
        for key, start in list(since.items()):
            self._carrier.still(*key)
            to = next(c.old for c in self._held.chain(key) if c.id >= start)
            if gone := self._overruled(key):
                theirs.append((gone, Outcome("yielded", *key, gone.found, to, str(gone))))
                del since[key]
            else:
                self._gated.reopen(key, to, self._held.baseline(key))

        def chains(locked: bool) -> list[Chain]:
            # Rows that another process has closed meanwhile are no longer ours to undo.
            still = {c.id for c in self._journal.open_changes()} if locked else None
            result = []
            for key, start in since.items():
                rows = [c for c in self._held.chain(key) if still is None or c.id in still]
                if rows and rows[-1].id >= start:
                    result.append(Chain(tuple(rows), start))
            return result

        outcomes, unrecorded = put_back(self._journal, chains, self._root, self._carrier)
        if isinstance(unrecorded, BusyError):
            self._close_late(outcomes, since)
            unrecorded = None
        states = {(o.knob, o.target): o for o in outcomes}
        for key, start in since.items():
            outcome = states.get(key)
            if outcome is not None and outcome.state == "skipped":
                continue
            self._held.park(key, False)
            keep = outcome is not None and outcome.state == "undone"
            self._held.set_chain(key, [c for c in self._held.chain(key) if keep and c.id < start])
            if outcome is not None and outcome.state == "yielded" and outcome.found is not None:
                self._yielded[key] = Yielded(*key, None, outcome.found, 0)
        self._gated.let_go(self._held.keys)
        for gone, outcome in theirs:
            outcomes.append(outcome)
            try:
                self._yield(gone)
            except JournalError as error:
                unrecorded = error
        if unrecorded is not None:
            raise unrecorded
        return outcomes

    def _close_late(self, outcomes: list[Outcome], since: dict[Key, int]) -> None:
        for outcome in outcomes:
            if outcome.state == "skipped":
                continue
            key = outcome.knob, outcome.target
            chain = self._held.chain(key)
            rows = [c for c in chain if outcome.state != "undone" or c.id >= since[key]]
            self._late.record(partial(self._journal.finish, rows, outcome.state, outcome.why))

    def _yield(self, yielded: Yielded) -> None:
        key = yielded.knob, yielded.target
        self._yielded[key] = yielded
        chain = self._held.pop(key)
        self._gated.let_go(self._held.keys)
        self._late.record(lambda: self._journal.finish(chain, "yielded", str(yielded)))

    def baseline(self, knob: Knob, target: Target) -> Value | None:
        """Return the knob's value before the first open change by any owner; None without one."""
        return self._journal.baseline(knob.name, target.name)

    def adopt(self, who: str) -> list[Change]:
        """Hold what an earlier process, that has ended, held for an instance; those rows.

        No knob is written, but that a change that was cut short half-way goes back.
        Raises ``JournalError`` where the journal cannot be written.
        """
        end_drains_left(self._journal, self._root)
        half: dict[Key, int] = {}
        for change in self._journal.take_over(who):
            self._held.add(change)
            if change.state == "intended":
                half.setdefault(change.key, change.id)
        for key in self._held.keys:
            self._gated.inherit(self._held.chain(key))
        if half:
            self._put_back(half)
        return [change for change in self.held if change.owner.instance == who]


def _set(knob: Knob, target: Target, value: Value) -> None:
    if knob.read(target) != value:
        knob.write(target, value)
    current = knob.read(target)
    if current != value:
        raise KnobError(
            f"{knob.name} of {target} reads {current} after {value} was written",
            hint="the kernel rounds or limits it: recommend a value that it takes",
        )


def _check_parkable(knob: Knob) -> None:
    if knob.disturbs:
        raise KnobError(
            f"{knob.name} cannot be measured: each change of it makes the kernel reset other knobs"
        )
