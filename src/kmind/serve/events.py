# SPDX-License-Identifier: Apache-2.0
"""The event stream: from the supervisor's thread to any number of readers.

Nothing here waits for a reader. Each has room for a number of events; what does not
fit is dropped and counted, and the reader is told in the next line that it takes.
One that takes nothing for a while is cut off.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from kmind.events import Event, Lost
from kmind.serve._problem import HttpError
from kmind.serve.schema import EVENT_SCHEMA, LINES

__all__ = ["EventStream", "Hub", "Reader", "encode"]

_ROOM = 2000
_READERS = 16
_STUCK_S = 30.0
_AT_ONCE = 256


def encode(event: Event) -> bytes:
    """One line of the stream."""
    line = {"schema": EVENT_SCHEMA, "event": event.name, "ts": time.time(), **event.fields()}
    return msgspec.json.encode(line, enc_hook=str) + b"\n"


class Reader:
    """One reader of the stream. ``take`` is for the loop, ``put`` for any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, room: int, instance: str) -> None:
        self.instance = instance
        self._loop = loop
        self._room = room
        self._lines: deque[bytes] = deque()
        self._lost = 0
        self._closed = False
        self._ready = asyncio.Event()
        self._lock = threading.Lock()

    def put(self, line: bytes) -> None:
        """Keep a line for the reader, or count it as lost."""
        with self._lock:
            if len(self._lines) >= self._room:
                self._lost += 1
                return
            wake = not self._lines
            self._tell_lost()
            self._lines.append(line)
        if wake:
            self._wake()

    def close(self) -> None:
        """Let ``take`` say that it is over."""
        self._closed = True
        self._wake()

    async def take(self) -> bytes | None:
        """Wait for lines, and take some of them; None once it is over."""
        while True:
            await self._ready.wait()
            with self._lock:
                lines = [self._lines.popleft() for _ in range(min(_AT_ONCE, len(self._lines)))]
                if not self._lines:
                    self._tell_lost()
                    if not self._lines and not self._closed:
                        self._ready.clear()
            if lines:
                return b"".join(lines)
            if self._closed:
                return None

    def _tell_lost(self) -> None:
        # It stands where the lines would have stood.
        if self._lost:
            self._lines.append(encode(Lost(lost=self._lost)))
            self._lost = 0

    def _wake(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody reads any more
            self._loop.call_soon_threadsafe(self._ready.set)


class Hub:
    """Hands each event to all readers that want it."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, room: int = _ROOM, readers: int = _READERS
    ) -> None:
        self._loop = loop
        self._room = room
        self._most = readers
        self._readers: tuple[Reader, ...] = ()
        self._closed = False

    def publish(self, event: Event) -> None:
        """Tell all readers; from any thread, and without waiting."""
        instance = getattr(event, "instance", None)
        readers = [r for r in self._readers if r.instance in ("", instance)]
        if readers:
            line = encode(event)
            for reader in readers:
                reader.put(line)

    @contextmanager
    def reader(self, instance: str = "") -> Iterator[Reader]:
        """A reader of all events, or of one instance's. Raises HttpError if there are many."""
        if self._closed or len(self._readers) >= self._most:
            raise HttpError(
                503,
                f"{len(self._readers)} readers follow the events already",
                hint="end one of them",
            )
        reader = Reader(self._loop, self._room, instance)
        self._readers = (*self._readers, reader)
        try:
            yield reader
        finally:
            self._readers = tuple(other for other in self._readers if other is not reader)

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        for reader in self._readers:
            reader.close()


class EventStream:
    """The answer to one who follows the events: lines, until they go or the daemon ends."""

    def __init__(self, hub: Hub, instance: str = "", *, stuck_s: float = _STUCK_S) -> None:
        self._hub = hub
        self._instance = instance
        self._stuck_s = stuck_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Speak ASGI."""
        with self._hub.reader(self._instance) as reader:
            headers = [(b"content-type", LINES.encode()), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            gone = asyncio.ensure_future(_gone(receive))
            try:
                await self._lines(reader, send, gone)
            finally:
                gone.cancel()

    async def _lines(self, reader: Reader, send: Send, gone: asyncio.Future[None]) -> None:
        # An empty part, so that the head goes out before the first event comes.
        body: bytes | None = b""
        while body is not None:
            part = {"type": "http.response.body", "body": body, "more_body": True}
            await asyncio.wait_for(send(part), self._stuck_s)
            take = asyncio.ensure_future(reader.take())
            both: set[asyncio.Future[Any]] = {take, gone}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                take.cancel()
                return
            body = take.result()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
