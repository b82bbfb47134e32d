# SPDX-License-Identifier: Apache-2.0
"""Applies changes to knobs and undoes them.

Each change is checked against the policy once more, journalled, written and read
back. A knob that somebody else sets meanwhile is yielded: left as they set it,
and not written again until it is acquired anew. A sysctl is changed only under the
gate's guard, which notices the very write of somebody else; so is a file of sysfs where
the kernel has what that takes. Not safe to share between threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from kmind.errors import BusyError, JournalError, KmindError, KnobError
from kmind.guard._carry import LONG_S, SHORT_S, Carrier, end_drains_left
from kmind.guard._owner import Owner
from kmind.guard._put_back import Chain, Outcome, put_back
from kmind.guard._yielded import Yielded, refused
from kmind.guard.gate import Gate, GateEvent
from kmind.guard.journal import Change, Journal
from kmind.guard.policy import Policy
from kmind.knobs import Knob, Target, Value, get_knob, parse_target

__all__ = ["Actuator", "Outcome", "Yielded"]

_Key = tuple[str, str]

# Between the gate and the kernel's store lie microseconds. A write that shows no effect
# after that long was refused; should it come later still, reading back finds it.
_LANDS_WITHIN_NS = 20_000_000


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
        self._policy = policy
        self._root = root
        self._gate = gate or Gate.open()
        self._held: dict[_Key, list[Change]] = {}
        self._yielded: dict[_Key, Yielded] = {}
        self._guarded: dict[_Key, tuple[Knob, Target]] = {}
        self._parked: set[_Key] = set()  # hold what stood before the last change
        self._untold: list[Yielded] = []
        self._carrier = Carrier(journal)
        self._remarks: list[str] = []
        self._late: list[Callable[[], object]] = []  # to be written when nobody else writes

    @property
    def fd(self) -> int:
        """Readable when somebody else writes to what is guarded: then `check`."""
        return self._gate.fd

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
            self._let_go()

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
        if key in self._parked:
            raise KnobError(f"{knob.name} of {target} is just being measured at another value")
        if parked:
            _check_parkable(knob)
        self._write_late()
        self._carrier.still(*key)
        external = self._overruled(key)
        changes: list[Change] = []
        if external is None:
            changes, external = self._intend(knob, target, value, owner, by_admin, **record)
        if external is not None:
            self._yield(external)
            raise refused(external)
        main = changes[0]
        for change in changes:
            self._held.setdefault(change.key, []).append(change)
        if parked:
            self._parked.add(key)
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
        self._set(knob, target, main.new)
        remark = self._carrier.carry(knob, target, {main.old}, main.new, for_s=for_s)
        done = self._applied(changes, target, main.new, remark)
        for change in done:
            self._held[change.key][-1] = change
        return done[0]

    def park(self, change: Change) -> None:
        """Put back what stood before the last change to a knob, for a while; it stays held.

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
        last = self._held[key][-1] if key in self._held else None
        if last is None or last.id != change.id or last.new is None:
            raise KnobError(f"change {change.id} to {change.knob} is not the last that is held")
        if park == (key in self._parked):
            return
        knob = get_knob(change.knob)
        target = parse_target(change.target, root=self._root)
        self._carrier.still(*key)
        old, new = (last.new, last.old) if park else (last.old, last.new)
        if gone := self._overruled(key):
            self._yield(gone)
            self._untold.append(gone)
            raise refused(gone)
        if (found := knob.read(target)) != old:
            raise KnobError(f"{knob.name} of {target} was set to {found} by somebody else")
        if key in self._guarded and not self._gate.approvals.swap(knob, target, new):
            raise KnobError(f"another value for {knob.name} of {target} was approved meanwhile")
        if not park and last.state == "intended":
            self._parked.discard(key)
            try:
                self._put_in_force([last], knob, target, SHORT_S)
            except KmindError as error:
                self._fail([last], target, error)
                raise
            return
        self._set(knob, target, new)
        self._carrier.carry(knob, target, {old}, new, for_s=SHORT_S)
        if park:
            self._parked.add(key)
        else:
            self._parked.discard(key)

    def _stands(self, key: _Key) -> Value | None:
        """What a knob that is held should hold; None where that is the kernel's to say."""
        last = self._held[key][-1]
        return last.old if key in self._parked else last.new

    def set_trial(self, change: Change, trial: bool) -> None:
        """Say of a value that is held that it is measured, or that it stands by its effect.

        What is on trial is put back when this process dies, whatever the policy keeps.
        """
        self._record(lambda: self._journal.set_trial(change, trial))
        if not trial:
            self._carrier.complete(*change.key)

    def join(self, first: Change, last: Change) -> Change:
        """Make one change of two that are held, and of those between; no knob is written."""
        chain = self._held[last.key]
        now = next(each for each in chain if each.id == last.id)
        joined = replace(now, old=first.old, undo=first.undo)
        between = [each for each in chain if first.id <= each.id < last.id]
        rest = [each for each in chain if each not in between and each.id != last.id]
        self._held[last.key] = [*rest, joined]
        self._record(lambda: self._journal.join(between, joined))
        return joined

    def read(self, knob: Knob, target: Target) -> Value:
        """What a knob holds; not what leads there for a moment. Raises KnobError."""
        return self._carrier.value(knob, target)

    @property
    def unsettled(self) -> bool:
        """Whether `check` has something to close, though nothing may be held."""
        return bool(self._late) or self._carrier.busy

    def finish(self) -> None:
        """Wait until open files were told of the last changes. Not on an owner's thread."""
        self._remarks += self._carrier.finish()

    def remarks(self) -> list[str]:
        """What is to be said of changes since the last call, such as files not reached."""
        said, self._remarks = self._remarks, []
        return said

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
        since: dict[_Key, int] = {}
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
        self._let_go()

    def check(self) -> list[Yielded]:
        """Look at each knob that is held, and yield those that somebody else has set.

        Call it when ``fd`` is readable, and now and then, at least once before evidence
        is judged. What is guarded and somebody wrote our own value to is theirs too. A knob
        that ``kmind restore --force`` put back counts as set by somebody else.
        """
        self._gate.collect()
        self._write_late()
        self._remarks += self._carrier.look()
        try:
            return self._check()
        except BusyError:
            return []  # the next look finds it

    def _check(self) -> list[Yielded]:
        still_open = {change.id for change in self._journal.open_changes()}
        found, self._untold = self._untold, []
        for key, chain in list(self._held.items()):
            last = chain[-1]
            try:
                gone = self._overruled(key)
                target = parse_target(last.target, root=self._root)
                value = self._carrier.value(get_knob(last.knob), target)
            except KmindError:
                continue  # gone or unreadable: putting back says so
            ours = self._stands(key)
            if gone is None and (ours not in (None, value) or last.id not in still_open):
                gone = Yielded(last.knob, last.target, ours, value, last.rec_id)
            if gone is not None:
                found.append(gone)
                self._yield(gone)
        return found

    def acquire(self, knob: Knob, target: Target) -> None:
        """Allow changes again to a knob that was yielded."""
        self._yielded.pop((knob.name, target.name), None)

    def _intend(
        self, knob: Knob, target: Target, value: Value, owner: Owner, by_admin: bool, **record: Any
    ) -> tuple[list[Change], Yielded | None]:
        """Rows for a change and for what it disturbs, durable; or who was faster."""
        with self._journal.exclusive():
            old = knob.read(target)
            key = knob.name, target.name
            if key in self._held and self._stands(key) not in (None, old):
                ours = self._held[key][-1]
                return [], Yielded(knob.name, target.name, self._stands(key), old, ours.rec_id)
            refusal = self._policy.check(knob, target, value, old, self._others(knob, target))
            if refusal is not None:
                raise refusal
            disturbed = [
                other for name in knob.disturbs if (other := get_knob(name)).exists(target)
            ]
            for each in (knob, *disturbed):
                self._check_free(each, target, owner)
            if self._gate.covers(knob, target):
                self._admit(knob, target, value, old, by_admin)
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

    def _admit(self, knob: Knob, target: Target, value: Value, old: Value, by_admin: bool) -> None:
        """Guard a knob, and see to it that the gate lets the value through."""
        key = knob.name, target.name
        chain = self._held.get(key)
        self._gate.guard(knob, target, chain[0].old if chain else old)
        self._guarded[key] = knob, target
        if knob.read(target) != old:  # before it was guarded nobody noticed
            raise KnobError(f"{knob.name} of {target} is just being set", hint="try again")
        if by_admin or not self._gate.agents_approve:
            self._gate.approvals.approve(knob, target, value)
        elif not self._gate.approvals.claim(knob, target, value):
            found = self._gate.approvals.current(knob, target)
            raise KnobError(
                f"{value} for {knob.name} of {target} is not approved",
                hint="no agent approved anything" if found is None else f"{found} came later",
            )

    def _inherit(self, chain: list[Change]) -> None:
        """Go on guarding a knob. One that cannot be gated now can still be put back."""
        with suppress(KmindError):
            first, last = chain[0], chain[-1]
            knob, target = get_knob(first.knob), parse_target(first.target, root=self._root)
            if self._gate.covers(knob, target):
                self._gate.guard(knob, target, first.old, inherit=True)
                self._guarded[first.key] = knob, target
                if last.new is not None:
                    self._gate.approvals.claim(knob, target, last.new)

    def _reopen(self, key: _Key, value: Value) -> None:
        """Let a value of before through the gate again.

        The first value of all may always pass: what was approved last may be another's,
        who waits for this one to be put back.
        """
        if key not in self._guarded:
            return
        if value != self._held[key][0].old:
            self._gate.approvals.approve(*self._guarded[key], value)
        else:
            self._gate.allow_return(*self._guarded[key])

    def _let_go(self) -> None:
        """Gate no more what is no longer held, and again in full what is."""
        self._gate.end_returns()
        for key in self._guarded.keys() - self._held.keys():
            self._gate.release(*self._guarded.pop(key))
        self._parked &= self._held.keys()

    def _overruled(self, key: _Key) -> Yielded | None:
        """The last write of somebody else to what is guarded, if the kernel took it."""
        if key not in self._held or key not in self._guarded:
            return None
        knob, target = self._guarded[key]
        events = self._gate.events(knob, target)
        if not events and not self._gate.noticed(knob, target):
            return None
        last, began = self._held[key][-1], time.monotonic_ns()
        ours = self._stands(key)
        while (found := knob.read(target)) == ours and not _sets(events, found):
            if time.monotonic_ns() - (events[-1].time_ns if events else began) > _LANDS_WITHIN_NS:
                if not self._gate.sees_values(knob, target):
                    break  # what was written is not seen: it may be our own value
                self._gate.settle(knob, target)
                return None
            time.sleep(0.001)
            events += self._gate.events(knob, target)
        by = f"{events[-1].comm}, pid {events[-1].pid}" if events else ""
        return Yielded(*key, ours, found, last.rec_id, by)

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
                    self._reopen(change.key, change.old)
                    self._carrier.still(*change.key)
                    knob.write(target, change.old)
                    self._carrier.carry(knob, target, {change.new}, change.old)
            except KmindError:
                continue
            closed.append(change)
            self._held[change.key].remove(change)
            if not self._held[change.key]:
                del self._held[change.key]
        with suppress(JournalError):
            self._record(lambda: self._journal.finish(closed, "failed", str(error)))

    def _record(self, step: Callable[[], object]) -> None:
        """Write to the journal, or, where another process just writes, at the next `check`."""
        try:
            if not self._late:
                step()
                return
        except BusyError:
            pass
        self._late.append(step)

    def _write_late(self) -> None:
        with suppress(BusyError):
            while self._late:
                self._late[0]()
                del self._late[0]

    def _put_back(self, since: dict[_Key, int]) -> list[Outcome]:
        for change in self.held:  # what a change disturbed goes back with it
            cause = next((c for c in self.held if c.id == change.cause), None)
            if cause is not None and cause.id >= since.get(cause.key, cause.id + 1):
                since[change.key] = min(change.id, since.get(change.key, change.id))

        theirs: list[tuple[Yielded, Outcome]] = []
        for key, start in list(since.items()):
            self._carrier.still(*key)
            to = next(c.old for c in self._held[key] if c.id >= start)
            if gone := self._overruled(key):
                theirs.append((gone, Outcome("yielded", *key, gone.found, to, str(gone))))
                del since[key]
            else:
                self._reopen(key, to)

        def chains(locked: bool) -> list[Chain]:
            # Rows that another process has closed meanwhile are no longer ours to undo.
            still = {c.id for c in self._journal.open_changes()} if locked else None
            result = []
            for key, start in since.items():
                rows = [c for c in self._held[key] if still is None or c.id in still]
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
            self._parked.discard(key)
            keep = outcome is not None and outcome.state == "undone"
            self._held[key] = [c for c in self._held[key] if keep and c.id < start]
            if not self._held[key]:
                del self._held[key]
            if outcome is not None and outcome.state == "yielded" and outcome.found is not None:
                self._yielded[key] = Yielded(*key, None, outcome.found, 0)
        self._let_go()
        for gone, outcome in theirs:
            outcomes.append(outcome)
            try:
                self._yield(gone)
            except JournalError as error:
                unrecorded = error
        if unrecorded is not None:
            raise unrecorded
        return outcomes

    def _close_late(self, outcomes: list[Outcome], since: dict[_Key, int]) -> None:
        for outcome in outcomes:
            if outcome.state == "skipped":
                continue
            key = outcome.knob, outcome.target
            rows = [c for c in self._held[key] if outcome.state != "undone" or c.id >= since[key]]
            self._record(partial(self._journal.finish, rows, outcome.state, outcome.why))

    def _yield(self, yielded: Yielded) -> None:
        key = yielded.knob, yielded.target
        self._yielded[key] = yielded
        chain = self._held.pop(key)
        self._let_go()
        self._record(lambda: self._journal.finish(chain, "yielded", str(yielded)))

    def baseline(self, knob: Knob, target: Target) -> Value | None:
        """What the knob held before the first change that stands, of whomever; None without."""
        return self._journal.baseline(knob.name, target.name)

    def adopt(self, who: str) -> list[Change]:
        """Hold what an earlier process, that has ended, held for an instance; those rows.

        No knob is written, but that a change that was cut short half-way goes back.
        Raises ``JournalError`` where the journal cannot be written.
        """
        end_drains_left(self._journal, self._root)
        half: dict[_Key, int] = {}
        for change in self._journal.take_over(who):
            self._held.setdefault(change.key, []).append(change)
            if change.state == "intended":
                half.setdefault(change.key, change.id)
        for chain in self._held.values():
            self._inherit(chain)
        if half:
            self._put_back(half)
        return [change for change in self.held if change.owner.instance == who]


def _sets(events: list[GateEvent], value: Value) -> bool:
    return any(event.sets(value) for event in events)


def _check_parkable(knob: Knob) -> None:
    if knob.disturbs:
        raise KnobError(
            f"{knob.name} cannot be measured: each change of it makes the kernel reset other knobs"
        )
