# SPDX-License-Identifier: Apache-2.0
"""Between the agent's structs and Python: actions out, grants in."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kmind.abi import layout
from kmind.agent.types import Action, Cause, Grant, Mode, Verdict
from kmind.queue import Geometry, read_note

__all__ = ["decode_action", "pack_grant"]

_RULE_OPS = {"<": "LT", "<=": "LE", ">": "GT", ">=": "GE"}
_LONGEST_NS = 1 << 62  # the rate limiter adds this to the time in 64 bits


def decode_action(packed: bytes, arena: npt.NDArray[np.uint8], geometry: Geometry) -> Action:
    """One ``struct kmind_action``, with the note that its slot holds now."""
    words = np.frombuffer(packed, layout.ACTION)[0]
    mode = Mode(int(words["mode"])) if int(words["mode"]) else Mode.EMERGENCY
    if int(words["kind"]) == layout.ACTION_KIND["MODE"]:
        return Action(
            "mode",
            int(words["time_ns"]),
            mode,
            cause=Cause(int(words["verdict"])),
            instance=int(words["instance"]),
        )
    return Action(
        "verdict",
        int(words["time_ns"]),
        mode,
        verdict=Verdict(int(words["verdict"])),
        id=int(words["id"]),
        knob=int(words["knob"]),
        target=int(words["target"]),
        value=int(words["value"]),
        current=int(words["current"]),
        hold_ms=int(words["hold_ms"]),
        model=int(words["model"]),
        note=read_note(arena, geometry, int(words["slot"]), int(words["note"])),
        instance=int(words["instance"]),
        holder=int(words["holder"]),
        previous=int(words["previous"]),
    )


def pack_grant(grant: Grant) -> bytes:
    """A grant as ``struct kmind_grant``, its rate limiter fresh.

    Raises ValueError for one that the agent cannot compute with.
    """
    if grant.step < 0 or not 0 <= grant.interval_ns * max(grant.burst, 1) < _LONGEST_NS:
        raise ValueError(f"step, interval or burst out of range: {grant}")
    if not (0 <= grant.priority <= 255 and 0 <= grant.hold_ms < 1 << 32):
        raise ValueError(f"priority or hold out of range: {grant}")
    words = np.zeros((), layout.GRANT)
    for name in ("minimum", "maximum", "step", "step_percent", "grid", "choices"):
        words[name] = getattr(grant, name)
    words["interval_ns"] = grant.interval_ns
    words["burst"] = grant.burst
    words["priority"] = grant.priority
    words["hold_ms"] = grant.hold_ms
    words["type"] = layout.TYPE[grant.type.upper()]
    words["current"] = grant.current
    if len(grant.rules) > layout.LIMIT["RULES"]:
        raise ValueError(f"{len(grant.rules)} rules: a grant holds {layout.LIMIT['RULES']}")
    words["nr_rules"] = len(grant.rules)
    for slot, rule in zip(words["rules"], grant.rules, strict=False):
        slot["op"] = layout.RULE_OP[_RULE_OPS[rule.op]]
        slot["knob"] = rule.knob
        slot["offset"] = rule.offset
    return words.tobytes()
