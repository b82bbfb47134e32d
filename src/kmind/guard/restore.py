# SPDX-License-Identifier: Apache-2.0
"""Put back all that the journal shows as ours; run at each start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kmind.errors import JournalError, KmindError
from kmind.guard._put_back import Chain, Outcome, by_key, put_back
from kmind.guard.journal import Change, Journal
from kmind.guard.policy import Policy
from kmind.knobs import get_knob, parse_target

__all__ = ["Restored", "restore"]


@dataclass(frozen=True)
class Restored:
    """What a restore did.

    ``restored`` knobs hold their first value now; ``skipped`` ones do not, and
    each says why (yielded, its device gone, its owner alive, or the kernel
    refused). ``kept`` are left as they are by the policy. ``unrecorded`` is why
    the journal could not be brought up to date, or None.
    """

    restored: tuple[Outcome, ...]
    skipped: tuple[Outcome, ...]
    kept: tuple[Outcome, ...]
    unrecorded: JournalError | None = None


def restore(
    journal: Journal,
    policy: Policy | None = None,
    *,
    force: bool = False,
    root: Path = Path("/"),
) -> Restored:
    """Return each knob that a process left changed to its first value of this boot.

    Knobs whose owner is alive are skipped, unless ``force``. Those that the
    policy says to keep on a daemon's death are kept. Safe to run at any time, by
    several at once, and again after it was interrupted.
    """
    unrecorded: JournalError | None = None
    kept: list[Outcome] = []
    alive: list[Outcome] = []
    try:
        journal.expire()
        for changes in by_key(journal.open_changes()).values():
            if policy is not None and _keeps(policy, changes, root) and not _owner(changes):
                journal.finish(changes, "kept", "by policy: on_daemon_death")
                kept.append(_left(changes, "kept by the policy"))
    except JournalError as error:
        unrecorded = error

    def chains(locked: bool) -> list[Chain]:
        alive.clear()
        result = []
        for changes in by_key(journal.open_changes()).values():
            owner = "" if force else _owner(changes)
            if owner:
                alive.append(_left(changes, f"held by {owner}, which is running"))
            else:
                result.append(Chain(tuple(changes), changes[0].id))
        return result

    outcomes, unwritten = put_back(journal, chains, root)
    return Restored(
        tuple(o for o in outcomes if o.state == "undone"),
        tuple([o for o in outcomes if o.state != "undone"] + alive),
        tuple(kept),
        unwritten or unrecorded,
    )


def _owner(changes: list[Change]) -> str:
    """Who holds the knob and is alive, or ""."""
    return next((str(c.owner) for c in changes if c.owner.alive()), "")


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
