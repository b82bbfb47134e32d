# SPDX-License-Identifier: Apache-2.0
"""Between the core object's structs and Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from kmind.abi import layout
from kmind.errors import KmindError

__all__ = [
    "HOLDER",
    "Approved",
    "Claim",
    "CoreInstance",
    "Fill",
    "Lease",
    "counters",
    "grant_key",
    "text",
]

HOLDER = layout.LIMIT["INSTANCES"] - 1
"""Bits of a lease's word that name its holder; 0: nobody."""

_MODES = {code: name.lower() for name, code in layout.MODE.items()}


@dataclass(frozen=True)
class CoreInstance:
    """One instance as the core object knows it.

    ``account`` is what its agent published last, at ``published_ns`` (CLOCK_MONOTONIC):
    at most 100 ms old while the agent ticks. ``held`` counts its leases, ``places`` the
    knobs that it is granted.
    """

    slot: int
    name: str
    module: str
    class_: str
    pid: int
    uid: int
    generation: int
    mode: str
    held: int
    places: int
    started_ns: int
    published_ns: int
    account: Mapping[str, int]

    @classmethod
    def read(cls, words: Any) -> CoreInstance:
        """From one ``struct kmind_instance``."""
        return cls(
            slot=int(words["slot"]),
            name=words["name"].decode(errors="replace"),
            module=words["module"].decode(errors="replace"),
            class_=words["class_name"].decode(errors="replace"),
            pid=int(words["pid"]),
            uid=int(words["uid"]),
            generation=int(words["generation"]),
            mode=_MODES.get(int(words["mode"]), ""),
            held=int(words["held"]),
            places=int(words["places"]),
            started_ns=int(words["started_ns"]),
            published_ns=int(words["published_ns"]),
            account=counters(words["account"]),
        )


class Fill(NamedTuple):
    """Fill level of a table of the core: entries in use, and its capacity."""

    used: int
    size: int


class Lease(NamedTuple):
    """The right of one instance to one knob on one target.

    ``expires_s`` is in the seconds of CLOCK_MONOTONIC (``time.monotonic``); ``denied``
    counts the requests that were refused, whoever held it.
    """

    knob: int
    target: int
    slot: int
    priority: int
    expires_s: float
    denied: int

    @classmethod
    def read(cls, words: Any) -> Lease:
        """From one ``struct kmind_lease`` that somebody holds."""
        key, word = ~int(words["key"]), int(words["word"])
        return cls(
            knob=key & 0xFFFFFFFF,
            target=key >> 32 & 0xFFFFFFFF,
            slot=word & HOLDER,
            priority=word >> 16 & 0xFF,
            expires_s=(word >> 24) / 1000,
            denied=int(words["denied"]),
        )


class Claim(NamedTuple):
    """Result of a request for a lease; it is true if the lease was taken.

    ``holder`` is the slot that has it now, ``previous`` the slot that it was taken from, whose
    change may still be in place; 0 is none.
    """

    taken: bool
    holder: int
    previous: int

    def __bool__(self) -> bool:
        """Return True if the lease was taken."""
        return self.taken


class Approved(NamedTuple):
    """Values that the owner may write to a knob: the approved one, or the baseline."""

    value: int
    baseline: int
    instance: int
    id: int
    time_ns: int

    @classmethod
    def read(cls, packed: bytes) -> Approved:
        """From one ``struct kmind_approved``."""
        return cls(*np.frombuffer(packed, layout.APPROVED)[0].item())


def counters(words: Any) -> dict[str, int]:
    """One ``struct kmind_account`` by name; its verdicts as ``verdict_NAME``."""
    names = layout.ACCOUNT.names or ()
    counts = {name: int(words[name]) for name in names if name != "verdicts"}
    return counts | {
        f"verdict_{name.lower()}": int(words["verdicts"][code])
        for name, code in layout.VERDICT.items()
        if code
    }


def grant_key(knob: int, target: int) -> bytes:
    """As ``struct kmind_grant_key``."""
    return np.array([(knob, target)], layout.GRANT_KEY).tobytes()


def text(value: str, size: int, what: str) -> bytes:
    """A name for a field of that size, with a zero behind it; KmindError if it is too long."""
    data = value.encode()
    if not data or len(data) >= size or b"\0" in data:
        raise KmindError(
            f"{what} {value!r} cannot be kept", hint=f"give 1 to {size - 1} bytes of text"
        )
    return data
