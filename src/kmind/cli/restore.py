# SPDX-License-Identifier: Apache-2.0
"""``kmind restore``: put back what dead instances left changed."""

from __future__ import annotations

import os
from typing import Any

from kmind.cli.output import json_line, write
from kmind.errors import BusyError, JournalError, KmindError, PolicyError, PrivilegeError
from kmind.guard import Journal, Outcome, Policy, Restored, restore
from kmind.paths import journal_path
from kmind.util.sqlite import is_database_there

__all__ = ["SCHEMA", "restore_command"]

SCHEMA = "kmind.restore/1"


def restore_command(*, json: bool, force: bool, dry_run: bool) -> int:
    """Restore, and say what was done; 1 if a knob could not be put back.

    ``force`` takes knobs from running instances too; ``dry_run`` writes nothing, not even to
    the journal. Raises PrivilegeError without root, and JournalError if the journal cannot be read.
    Once all is put back: JournalError or BusyError if that could not be put on record, and
    PolicyError for a policy that cannot be read: what it says to keep is unknown then, and
    nothing is kept.
    """
    if not is_database_there(journal_path(), what="journal"):
        _say(json, {"restored": [], "skipped": [], "kept": []}, ["nothing to restore"])
        return 0
    if dry_run:
        with Journal(read_only=True) as journal:
            return _show_open(journal, json=json)
    if os.geteuid() != 0:
        raise PrivilegeError("restoring writes kernel settings", hint="run as root")
    with Journal.rescue() as journal:
        policy, wrong = _policy()
        done = restore(journal, policy, force=force)
    lines = [f"{o.knob} of {o.target}: {o.found} -> {o.to}" for o in done.restored]
    lines += [f"{o.knob} of {o.target} not put back: {o.why}" for o in done.skipped]
    lines += [f"{o.knob} of {o.target} left at {o.found}: {o.why}" for o in done.kept]
    report = {
        "restored": [_outcome(o) for o in done.restored],
        "skipped": [_outcome(o) for o in done.skipped],
        "kept": [_outcome(o) for o in done.kept],
    }
    _say(json, report, lines or ["nothing to restore"])
    if done.unrecorded:
        raise _unrecorded(journal, done, done.unrecorded)
    if wrong:
        raise wrong
    return 1 if any(o.state == "skipped" for o in done.skipped) else 0


def _unrecorded(journal: Journal, done: Restored, error: JournalError | BusyError) -> KmindError:
    # The knobs are as printed; only the record of it is missing.
    why = error.args[0]
    if journal.unread:
        numbers = ", ".join(map(str, sorted(journal.unread)))
        why = f"{why}; not understood, and left alone: change {numbers}"
    hint = error.hint.removeprefix("no knob is changed without it; ")
    hint = f"{hint}; then run kmind restore again".removeprefix("; ")
    if journal.is_later:
        hint = "use the kmind that wrote it, or move the file away"
    what = "the journal could not be brought up to date"
    if done.restored or done.kept:
        what = "the knobs are as said above, but the journal still shows them as changed"
    return type(error)(f"{what}: {why}", hint=hint)


def _policy() -> tuple[Policy | None, KmindError | None]:
    # No mistake in a policy may stop an undo, whatever comes of reading it.
    try:
        return Policy.load(), None
    except KmindError as error:
        return None, error
    except Exception as error:
        return None, PolicyError(f"cannot read the policy: {type(error).__name__}: {error}")


def _show_open(journal: Journal, *, json: bool) -> int:
    first: dict[tuple[str, str], Any] = {}
    for change in journal.open_changes():
        first.setdefault(change.key, change)
    lines = [
        f"would set {c.knob} of {c.target} to {c.old} (changed by {c.owner}): {c.undo}"
        for c in first.values()
    ]
    lines += [f"change {number} is not understood" for number in sorted(journal.unread)]
    report = [
        {
            "knob": c.knob,
            "target": c.target,
            "to": c.old,
            "owner": str(c.owner),
            "running": c.owner.alive(),
            "undo": c.undo,
        }
        for c in first.values()
    ]
    _say(json, {"would_restore": report}, lines or ["nothing to restore"])
    return 0


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "knob": outcome.knob,
        "target": outcome.target,
        "state": outcome.state,
        "found": outcome.found,
        "to": outcome.to,
        "why": outcome.why,
    }


def _say(json: bool, report: dict[str, Any], lines: list[str]) -> None:
    text = json_line(SCHEMA, report) if json else "\n".join(lines)
    write(text + "\n")
