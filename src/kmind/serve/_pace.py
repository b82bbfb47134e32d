# SPDX-License-Identifier: Apache-2.0
"""Clients in a loop get a share of the daemon's time, and no more.

The API answers on threads beside the owner's, and they share the interpreter: while
requests come without end, the owner waits for its lock at each system call. So the CPU time that
the API's threads spend is paid from a bucket, and requests wait in line until there is some.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["Pace", "Paced"]

_SHARE = 0.2
_BURST_S = 0.5


class Pace:
    """A bucket of CPU time: ``share`` seconds a second, ``burst_s`` at once.

    It belongs to the loop's thread. What that spends is paid for by itself; what others do for it
    is to be run by ``run``.
    """

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
        self._line = asyncio.Lock()
        self._busy: defaultdict[Callable[..., Any], asyncio.Lock] = defaultdict(asyncio.Lock)

    def wait_s(self) -> float:
        """Return the seconds that the next request has to wait.

        Call it on the thread that is charged.
        """
        now, cpu = self._now(), self._cpu()
        then, before = self._at or (now, cpu)
        self._at = now, cpu
        earned = max(0.0, now - then) * self._share
        self._left_s = min(self._burst_s, self._left_s + earned) - (cpu - before)
        return max(0.0, -self._left_s / self._share)

    async def queue(self) -> None:
        """Wait in line until something may be spent."""
        async with self._line:
            if wait_s := self.wait_s():
                await asyncio.sleep(wait_s)

    async def run(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call it on another thread, when something may be spent, and pay for it.

        Not twice at once: many such threads would leave the owner but a part of the interpreter.
        """
        async with self._busy[call]:
            await self.queue()
            result, error, took_s = await asyncio.to_thread(self._measured, call, args)
            self._left_s -= took_s
        if error:
            raise error
        return result

    def _measured(
        self, call: Callable[..., Any], args: tuple[Any, ...]
    ) -> tuple[Any, Exception | None, float]:
        began = self._cpu()
        try:
            return call(*args), None, self._cpu() - began
        except Exception as error:
            return None, error, self._cpu() - began


class Paced:
    """An ASGI application whose requests wait in line while it has used up its share."""

    def __init__(self, app: ASGIApp, pace: Pace) -> None:
        self._app = app
        self._pace = pace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, when it is its turn."""
        await self._pace.queue()
        await self._app(scope, receive, send)
