# SPDX-License-Identifier: Apache-2.0
"""Compare the knobs' values with those that the journal says we set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kmind.errors import KmindError
from kmind.guard.journal import Change, Journal
from kmind.knobs import Value, get_knob, parse_target

__all__ = ["Standing", "find_standing"]


@dataclass(frozen=True)
class Standing:
    """One knob that we set in this boot, and what it holds.

    ``same``: what we set. ``measured``: the previous value, while its owner runs, who
    measures both in turn or is about to undo it. ``left``: what we set, but its owner has
    ended. ``drifted``: something else, or it cannot be read (``found`` is None then, and
    ``why`` says why).
    """

    state: Literal["same", "measured", "left", "drifted"]
    change: Change
    found: Value | None
    why: str = ""


def find_standing(journal: Journal, *, root: Path = Path("/")) -> list[Standing]:
    """Each knob that stands at what we set, as far as the journal knows; reads each file."""
    drains = {(drain.knob, drain.target) for drain in journal.drains()}
    return [_standing(change, root, change.key in drains) for change in journal.standing()]


def _standing(change: Change, root: Path, drained: bool) -> Standing:
    try:
        target = parse_target(change.target, root=root)
        knob = get_knob(change.knob)
        if knob.identity(target) != change.identity:
            return Standing("drifted", change, None, f"{change.target} is another device now")
        current = knob.read(target)
    except KmindError as error:
        return Standing("drifted", change, None, str(error))
    running = change.state != "kept" and change.owner.alive()
    if current == change.new:
        left = change.state != "kept" and not running
        return Standing("left" if left else "same", change, current)
    if running and (current == change.old or (drained and current == knob.drain)):
        return Standing("measured", change, current)
    return Standing("drifted", change, current)
