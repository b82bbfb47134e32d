# SPDX-License-Identifier: Apache-2.0
"""Putting knobs back: the one routine that undo, restore and a clean exit share.

It writes only where the knob holds a value that the journal shows as ours. A
journal that cannot be written does not stop it: to have the machine as it was
matters more than to have that on record, and the next restore closes the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kmind.errors import BusyError, JournalError, KmindError, UsageError
from kmind.guard._carry import Carrier
from kmind.guard.journal import Change, Journal
from kmind.knobs import Knob, Target, Value, get_knob, parse_target

__all__ = ["Chain", "Outcome", "by_key", "put_back"]


@dataclass(frozen=True)
class Chain:
    """Open rows of one knob on one target, oldest first; those from ``since`` on go back."""

    changes: tuple[Change, ...]
    since: int

    @property
    def closing(self) -> tuple[Change, ...]:
        """The rows that putting back closes."""
        return tuple(change for change in self.changes if change.id >= self.since)

    def ours(self, value: Value) -> bool:
        """True if we wrote the value, or found it before our first write."""
        last = self.changes[-1]
        if last.new is None:  # cut short: the kernel may have reset it to anything
            return True
        return any(value in (change.old, change.new) for change in self.changes)


@dataclass(frozen=True)
class Outcome:
    """Result of putting one knob back.

    ``undone``: it holds ``to`` now, and ``found`` before. ``yielded``: somebody else set it to
    ``found``, and it was left so. ``expired``: the device is gone. ``skipped``: it could not be put
    back, and is still held. ``why`` is the reason, or another remark.
    """

    state: Literal["undone", "yielded", "expired", "skipped"]
    knob: str
    target: str
    found: Value | None
    to: Value
    why: str = ""


@dataclass(frozen=True)
class _Step:
    chain: Chain
    knob: Knob
    target: Target
    found: Value | None


def by_key(changes: Iterable[Change]) -> dict[tuple[str, str], list[Change]]:
    """Rows by (knob, target), each list in their order."""
    groups: dict[tuple[str, str], list[Change]] = {}
    for change in changes:
        groups.setdefault(change.key, []).append(change)
    return groups


def put_back(
    journal: Journal,
    chains: Callable[[bool], list[Chain]],
    root: Path,
    carrier: Carrier,
) -> tuple[list[Outcome], JournalError | BusyError | None]:
    """Put knobs back and close their rows; ``carrier`` tells open files.

    ``chains`` says which; it is called with True while the journal is locked, and
    with False where that is not possible. Also returns why the journal could not
    be written, if so.
    """
    outcomes: list[Outcome] = []
    try:
        _unsettle(journal, chains(True), root)
        with journal.exclusive():
            todo = chains(True)
            outcomes = _put_all_back(todo, root, carrier)
            for chain, outcome in zip(_ordered(todo), outcomes, strict=True):
                if outcome.state == "undone":
                    journal.finish(list(chain.closing), "undone", outcome.why)
                elif outcome.state != "skipped":
                    journal.finish(list(chain.changes), outcome.state, outcome.why)
    except (JournalError, BusyError) as error:
        return outcomes or _put_all_back(chains(False), root, carrier), error
    return outcomes, None


def _unsettle(journal: Journal, chains: list[Chain], root: Path) -> None:
    # Putting a scheduler back resets its neighbours. Killed right after that, they hold
    # neither our values nor the first ones: say beforehand that any value may be ours.
    disturbed = [chain for chain in chains if any(c.cause is not None for c in chain.changes)]
    ours = [chain for chain in disturbed if isinstance(_plan(chain, root), _Step)]
    if ours:
        with journal.exclusive():
            journal.unsettle([chain.changes[-1] for chain in ours])


def _ordered(chains: list[Chain]) -> list[Chain]:
    # A knob whose change makes the kernel reset others goes first, then the latest.
    def order(chain: Chain) -> tuple[bool, int]:
        try:
            disturbs = bool(get_knob(chain.changes[0].knob).disturbs)
        except UsageError:
            disturbs = False
        return not disturbs, -chain.changes[-1].id

    return sorted(chains, key=order)


def _put_all_back(chains: list[Chain], root: Path, carrier: Carrier) -> list[Outcome]:
    # Look at all before the first write: that may make the kernel reset others.
    looks = [_plan(chain, root) for chain in _ordered(chains)]
    return [look if isinstance(look, Outcome) else _write(look, carrier) for look in looks]


def _plan(chain: Chain, root: Path) -> _Step | Outcome:
    first = chain.closing[0]

    def outcome(state: Literal["yielded", "expired", "skipped"], why: str) -> Outcome:
        return Outcome(state, first.knob, first.target, current, first.old, why)

    current: Value | None = None
    try:
        knob = get_knob(first.knob)
    except UsageError as error:
        return outcome("skipped", str(error))
    try:
        target = parse_target(first.target, root=root)
    except KmindError:
        return outcome("expired", f"{first.target} is gone")
    try:
        identity = knob.identity(target)
    except KmindError as error:
        return outcome("skipped", str(error))
    if identity != first.identity:
        return outcome("expired", f"{first.target} is another device now")
    try:
        current = knob.read(target)
    except KmindError:
        pass  # it may be readable once the knob that disturbed it is put back
    else:
        if not chain.ours(current):
            ours = chain.changes[-1].new
            return outcome("yielded", f"set to {current} by somebody else; we had set {ours}")
    return _Step(chain, knob, target, current)


def _write(step: _Step, carrier: Carrier) -> Outcome:
    knob, target = step.knob, step.target
    to = step.chain.closing[0].old
    state: Literal["undone", "skipped"] = "undone"
    why = ""
    try:
        if knob.read(target) != to:
            knob.write(target, to)
        now = knob.read(target)
        if now != to:
            state, why = "skipped", f"the kernel made {now} of {to}"
        news = {change.new for change in step.chain.closing}
        why = why or carrier.carry(knob, target, news, to)
    except KmindError as error:
        state, why = "skipped", str(error)
    return Outcome(state, knob.name, target.name, step.found, to, why)
