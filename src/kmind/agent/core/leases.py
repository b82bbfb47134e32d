# SPDX-License-Identifier: Apache-2.0
"""The leases of a core object: which instance may set which knob of which target."""

from __future__ import annotations

import errno

from kmind.abi import layout
from kmind.agent.core.codec import HOLDER, Claim, Lease
from kmind.agent.core.pins import Loaded
from kmind.errors import KmindError

__all__ = ["Leases"]

_FULL = -errno.ENOSPC


class Leases:
    """The table of leases; agents read and change it too, by compare-and-exchange."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded

    def all(self) -> list[Lease]:
        """All leases that are held, those among them that have expired and were not given back."""
        rows = self._loaded.leases()
        return sorted(Lease.read(row) for row in rows[rows["word"] & HOLDER != 0])

    def get(self, knob: int, target: int) -> Lease | None:
        """The lease of one knob, if it is held; it may have expired, as those of `all`."""
        matching = (each for each in self.all() if (each.knob, each.target) == (knob, target))
        return next(matching, None)

    def place(self, slot: int, knob: int, target: int) -> int:
        """Reserve the place of a lease for an instance that is granted the knob; its handle.

        An agent finds the lease by it. It is the instance's until `leave`, or until it is
        unregistered. KmindError if there is no room.
        """
        after = self._loaded.call("PLACE", slot=slot, knob=knob, target=target)
        if int(after["result"]) == _FULL:
            size = layout.LIMIT["LEASES"]
            raise KmindError(
                f"no room for one more lease: {size} knobs of all targets are granted",
                hint="unload an instance first; see: kmind status",
            )
        if int(after["result"]) < 0:
            raise KmindError(f"slot {slot} is no instance's, so it can be granted nothing")
        return int(after["lease"])

    def leave(self, slot: int, knob: int, target: int) -> None:
        """Take back what `place` gave; nothing if it gave nothing."""
        self._loaded.call("LEAVE", slot=slot, knob=knob, target=target)

    def acquire(
        self, slot: int, knob: int, target: int, *, hold_s: float, priority: int = 100
    ) -> Claim:
        """Take a lease for an instance, or hold on to it, as its agent would."""
        words = {"knob": knob, "target": target, "priority": priority}
        after = self._loaded.call("ACQUIRE", slot=slot, hold_ms=int(hold_s * 1000), **words)
        return Claim(int(after["result"]) > 0, int(after["holder"]), int(after["previous"]))

    def release(self, slot: int, knob: int | None = None, target: int | None = None) -> int:
        """Give back one lease of an instance, or all without a knob; how many it were."""
        if knob is None:
            return int(self._loaded.call("RELEASE_ALL", slot=slot)["result"])
        words = {"knob": knob, "target": target or 0}
        return int(self._loaded.call("RELEASE", slot=slot, **words)["result"])
