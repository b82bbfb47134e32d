# SPDX-License-Identifier: Apache-2.0
"""The ring in which a simulated agent tells its owner: ``km_actions``, and its budgets."""

from __future__ import annotations

import os
import select
from collections import deque

import numpy as np

from kmind.abi import layout

__all__ = ["SimActions"]

# km_actions: 256 KiB, a header of 8 bytes on each, and never quite full.
_RING_SIZE = 256 * 1024
_ACTION_SIZE = layout.ACTION.itemsize + 8
_MOST_ACTIONS = (_RING_SIZE - 1) // _ACTION_SIZE
# KM_TELL_NS, KM_REFUSE_NS and their bursts.
_TELL_NS, _TELL_BURST = 5_000_000, 64
_REFUSE_NS, _REFUSE_BURST = 50_000_000, 32


class SimActions:
    """Actions that wait for the owner.

    An agent with a ``slot`` shares the ring, so it may tell so much a second and no more; without
    one the ring is its own. ``fd`` is readable while there are actions, ``lost`` counts those
    that found no room. Its caller holds the agent's lock.
    """

    def __init__(self, slot: int) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.lost = 0
        self._slot = slot
        self._tell_tat_ns = self._refuse_tat_ns = 0
        self._actions: deque[bytes] = deque()

    def may_tell(self, now_ns: int) -> bool:
        """Take the room for one verdict, if there is any: no more by the agent's own budget."""
        if self._is_fuller(3):
            return False
        if self._slot:
            if self._tell_tat_ns > now_ns + _TELL_BURST * _TELL_NS:
                return False
            self._tell_tat_ns = max(self._tell_tat_ns, now_ns) + _TELL_NS
        return True

    def may_tell_refusal(self, now_ns: int) -> bool:
        """Take the room for one refusal; of those fewer are told."""
        if self._slot:
            if self._refuse_tat_ns > now_ns + _REFUSE_BURST * _REFUSE_NS or self._is_fuller(2):
                return False
            self._refuse_tat_ns = max(self._refuse_tat_ns, now_ns) + _REFUSE_NS
        return True

    def notify(self, **words: int) -> None:
        """Put one ``struct kmind_action`` into the ring, and wake the owner."""
        if len(self._actions) >= _MOST_ACTIONS:
            self.lost += 1
            return
        action = np.zeros((), layout.ACTION)
        action["instance"] = self._slot
        for name, word in words.items():
            action[name] = word
        self._actions.append(action.tobytes())
        os.eventfd_write(self.fd, 1)

    def wait(self, timeout_s: float) -> bool:
        """Wait at most that long; true if there are actions. Without the agent's lock."""
        ready = select.poll()
        ready.register(self.fd, select.POLLIN)
        return bool(ready.poll(max(0, int(timeout_s * 1000))))

    def pop_all(self) -> list[bytes]:
        """Take out all actions, in order."""
        os.eventfd_read(self.fd)
        taken = list(self._actions)
        self._actions.clear()
        return taken

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)

    def _is_fuller(self, quarters: int) -> bool:
        return len(self._actions) * _ACTION_SIZE > _RING_SIZE // 4 * quarters
