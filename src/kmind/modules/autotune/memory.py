# SPDX-License-Identifier: Apache-2.0
"""Memory over restarts: each phase, its best values, and the points tried in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .phases import MOST_PHASES, Phase, place_of
from .search import Search
from .space import Codes

__all__ = ["recall", "remember"]

_VERSION = 1
_MOST_TRIALS = 60  # of a phase, where there is room
_ROOM = 48 << 10  # bytes for the trials of all phases
_DIGITS = 11  # of a code, and of a score; few take so many


def remember(
    key: Mapping[str, Any], phases: Sequence[Phase], counts: Mapping[str, float]
) -> dict[str, Any]:
    """Return a record for ``recall``, as plain JSON.

    ``key`` identifies the task, ``counts`` is the cost of the search so far.
    """
    phases = phases[:MOST_PHASES]
    each = max((_DIGITS * (len(phase.best) + 1) for phase in phases), default=1)
    most = max(1, min(_MOST_TRIALS, _ROOM // (each * max(1, len(phases)))))
    return {
        "version": _VERSION,
        "key": key,
        "counts": dict(counts),
        "phases": [
            {
                "place": [round(float(x), 4) for x in phase.place],
                "best": phase.best,
                "gain": phase.gain,
                "tries": phase.tries,
                "radius": phase.search.radius,
                "converged_s": phase.converged_s,
                "trials": [
                    (codes, round(score, 4)) for codes, score in phase.search.trials[-most:]
                ],
            }
            for phase in phases
        ],
    }


def recall(
    memory: Any, key: Mapping[str, Any], search: Callable[[int], Search], baseline: Codes
) -> list[Phase]:
    """The phases of an earlier run, none where it asked another question or left nonsense."""
    try:
        if memory is None or memory["version"] != _VERSION or memory["key"] != key:
            return []
        return [
            _phase(each, search(number), len(baseline))
            for number, each in enumerate(memory["phases"][:MOST_PHASES])
        ]
    except (KeyError, TypeError, ValueError, IndexError):
        return []


def _phase(each: Mapping[str, Any], search: Search, count: int) -> Phase:
    place = place_of(each["place"])
    if place is None:
        raise ValueError("no place")
    trials = [(_codes(codes, count), _number(score)) for codes, score in each["trials"]]
    search.recall(trials, min(1.0, max(0.0, _number(each["radius"]))))
    converged = each["converged_s"]
    return Phase(
        place,
        search,
        _codes(each["best"], count),
        gain=_number(each["gain"]),
        tries=int(each["tries"]),
        converged_s=None if converged is None else _number(converged),
    )


def _codes(words: Any, count: int) -> Codes:
    codes = tuple(int(word) for word in words)
    if len(codes) != count:
        raise ValueError("other knobs")
    return codes


def _number(word: Any) -> float:
    if not math.isfinite(number := float(word)):
        raise ValueError("no number")
    return number
