# SPDX-License-Identifier: Apache-2.0
"""The ring of a core object in which agents tell the owner: verdicts and modes, by slot."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from kmind.abi import layout
from kmind.agent.types import Action
from kmind.bpf import RingBuffer

__all__ = ["ActionRing"]

_MOST_WAITING = 4096  # actions that wait for an instance to be taken over

_Decode = Callable[[bytes], Action]


class ActionRing:
    """Actions of all instances, in order, handed out by slot.

    ``ring_fd`` is the map that agents write; ``since`` says when the instance in each slot began
    (CLOCK_MONOTONIC), as an earlier one may have left actions behind.
    """

    def __init__(self, ring_fd: int, since: Mapping[int, int]) -> None:
        self._decode: dict[int, _Decode] = {}
        self._waiting: dict[int, list[bytes]] = {}
        self._ready: dict[int, list[Action]] = {}
        self._since = dict(since)
        self._ring = RingBuffer(ring_fd, self._receive)

    @property
    def fd(self) -> int:
        """Readable when `poll` has something; for a selector."""
        return self._ring.fd

    def begin(self, slot: int, started_ns: int) -> None:
        """Take the actions of an instance that begins now."""
        self._since[slot] = started_ns

    def end(self, slot: int) -> None:
        """Forget an instance, and what waits for it."""
        self.detach(slot)
        self._since.pop(slot, None)
        self._waiting.pop(slot, None)

    def attach(self, slot: int, decode: _Decode) -> None:
        """Send a slot's actions through ``decode``; those that waited for it come first."""
        self._decode[slot] = decode
        for packed in self._waiting.pop(slot, []):
            self._ready.setdefault(slot, []).append(decode(packed))

    def detach(self, slot: int) -> None:
        """Forget how to decode a slot's actions: from now on they wait."""
        self._decode.pop(slot, None)
        self._ready.pop(slot, None)

    def poll(self, timeout_s: float) -> dict[int, list[Action]]:
        """Wait for actions at most that long; all that came, in order, by slot."""
        self.wait(timeout_s)
        ready, self._ready = self._ready, {}
        return ready

    def receive(self, slot: int, timeout_s: float) -> list[Action]:
        """As `poll`, for one slot; those of others are kept for them."""
        self.wait(0 if self._ready.get(slot) else timeout_s)
        return self._ready.pop(slot, [])

    def wait(self, timeout_s: float) -> None:
        """Read what is in the ring, waiting for it at most that long."""
        if not self._ring.consume():  # hooks do not wake: the tick does, a little later
            self._ring.poll(max(0, int(timeout_s * 1000)))

    def close(self) -> None:
        """Let go of the ring. Safe to repeat."""
        self._ring.close()

    def _receive(self, packed: bytes) -> None:
        words = np.frombuffer(packed, layout.ACTION)[0]
        slot = int(words["instance"])
        # Actions of an earlier instance in the same slot belong to nobody.
        if int(words["time_ns"]) < self._since.get(slot, 1 << 64):
            return
        if decode := self._decode.get(slot):
            self._ready.setdefault(slot, []).append(decode(packed))
        elif len(waiting := self._waiting.setdefault(slot, [])) < _MOST_WAITING:
            waiting.append(packed)
