# SPDX-License-Identifier: Apache-2.0
"""Clients in a loop get a share of the daemon's time, and no more.

The API answers on a thread beside the owner's, and the two share the interpreter: while
requests come without end, the owner waits for its lock at each system call. So the time that the
loop's thread spends is paid from a bucket, and requests wait in line until there is some.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["Pace", "Paced"]

_SHARE = 0.2
_BURST_S = 0.5


class Pace:
    """A bucket of CPU time of one thread: ``share`` seconds a second, ``burst_s`` at once."""

    def __init__(
        self,
        share: float = _SHARE,
        burst_s: float = _BURST_S,
        *,
        now: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        self._share = share
        self._burst_s = burst_s
        self._now, self._cpu = now, cpu
        self._left_s = burst_s
        self._at: tuple[float, float] | None = None

    def wait_s(self) -> float:
        """How long the next request has to wait, in seconds; on the thread that is paid for."""
        now, cpu = self._now(), self._cpu()
        then, before = self._at or (now, cpu)
        self._at = now, cpu
        earned = max(0.0, now - then) * self._share
        self._left_s = min(self._burst_s, self._left_s + earned) - (cpu - before)
        return max(0.0, -self._left_s / self._share)


class Paced:
    """An ASGI application whose requests wait in line while it has used up its share."""

    def __init__(self, app: ASGIApp, pace: Pace | None = None) -> None:
        self._app = app
        self._pace = pace or Pace()
        self._line = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, when it is its turn."""
        async with self._line:
            if wait_s := self._pace.wait_s():
                await asyncio.sleep(wait_s)
        await self._app(scope, receive, send)
