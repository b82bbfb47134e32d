# SPDX-License-Identifier: Apache-2.0
"""Put back all that the journal shows as ours; run at each start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kmind.errors import BusyError, JournalError, KmindError
from kmind.guard._carry import Carrier, end_drains_left
from kmind.guard._owner import Owner
from kmind.guard._put_back import Chain, Outcome, by_key, put_back
from kmind.guard.journal import Change, Journal
from kmind.guard.policy import Policy
from kmind.knobs import get_knob, parse_target

__all__ = ["Restored", "restore"]


@dataclass(frozen=True)
class Restored:
    """Result of a restore.

    ``restored`` knobs hold their first value now; ``skipped`` ones do not, each with a reason
    (yielded, its device gone, its owner alive, or the kernel refused). ``kept`` are left as they
    are by the policy. ``unrecorded`` is the reason why the journal could not be updated, or None:
    then changes that it lists as open are closed in truth.
    """

    restored: tuple[Outcome, ...]
    skipped: tuple[Outcome, ...]
    kept: tuple[Outcome, ...]
    unrecorded: JournalError | BusyError | None = None


def restore(
    journal: Journal,
    policy: Policy | None = None,
    *,
    force: bool = False,
    is_abandoned: Callable[[Owner], bool] = lambda owner: False,
    root: Path = Path("/"),
) -> Restored:
    """Return each knob that a process left changed to its first value of this boot.

    Knobs whose owner is alive are skipped, unless ``force``; ``is_abandoned`` says that an owner
    is of an instance that has ended, though its process goes on. Those that the
    policy says to keep on a daemon's death are kept, but for a value that was on trial. Safe
    to run at any time, by several at once, and again after it was interrupted.
    """
    unrecorded = journal.unwritable
    kept: dict[tuple[str, str], Outcome] = {}
    alive: list[Outcome] = []
    carrier = Carrier(journal)

    def holder(changes: list[Change]) -> str:
        # The living holder of the knob, or "".
        owners = (change.owner for change in changes)
        return next((str(o) for o in owners if o.alive() and not is_abandoned(o)), "")

    try:
        end_drains_left(journal, root, force=force)
        journal.expire()
    except (JournalError, BusyError) as error:
        unrecorded = unrecorded or error

    def chains(locked: bool) -> list[Chain]:
        alive.clear()
        result = []
        for changes in by_key(journal.open_changes()).values():
            owner = "" if force else holder(changes)
            if owner:
                alive.append(_left(changes, f"held by {owner}, which is running"))
                continue
            # What is kept stood before the value that was on trial: that alone goes back.
            since = changes[0].id
            if policy is not None and _keeps(policy, changes, root):
                since = _on_trial(changes, root)
                if not since and not holder(changes):
                    kept[changes[0].key] = _left(changes, "kept by the policy")
                    continue
            result.append(Chain(tuple(changes), since or changes[0].id))
        return result

    outcomes, unwritten = put_back(journal, chains, root, carrier)
    try:
        for changes in by_key(journal.open_changes()).values():
            stands = policy is not None and _keeps(policy, changes, root)
            if stands and not holder(changes) and not _on_trial(changes, root):
                kept[changes[0].key] = _left(changes, "kept by the policy")
                journal.finish(changes, "kept", "by policy: on_daemon_death")
        carrier.finish()
    except (JournalError, BusyError) as error:
        unwritten = unwritten or error
    return Restored(
        tuple(o for o in outcomes if o.state == "undone"),
        tuple([o for o in outcomes if o.state != "undone"] + alive),
        tuple(kept.values()),
        unrecorded or unwritten,
    )


def _on_trial(changes: list[Change], root: Path) -> int:
    """The first row from which on a value was being measured when its owner died, or 0.

    A value that was on trial, or that is replaced by the previous one: then it
    was compared once more.
    """
    number = next((change.id for change in changes if change.trial or change.new is None), 0)
    if number:
        return number
    last = changes[-1]
    try:
        current = get_knob(last.knob).read(parse_target(last.target, root=root))
    except KmindError:
        return 0
    return last.id if current == last.old != last.new else 0


def _keeps(policy: Policy, changes: list[Change], root: Path) -> bool:
    try:
        knob = get_knob(changes[0].knob)
        return policy.on_daemon_death(knob, parse_target(changes[0].target, root=root)) == "keep"
    except KmindError:
        return False


def _left(changes: list[Change], why: str) -> Outcome:
    return Outcome(
        "skipped", changes[0].knob, changes[0].target, changes[-1].new, changes[0].old, why
    )
