# SPDX-License-Identifier: Apache-2.0
"""The HTTP server on the daemon's socket: uvicorn without its signals, logs and clock."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

__all__ = ["HttpServer"]

_GRACE_S = 2
_IDLE_S = 30
_HEAD_BYTES = 16 << 10
_LOOK_S = 0.002


class HttpServer:
    """Serves one application on one listening socket, which it closes at the end."""

    def __init__(self, app: ASGIApp, listener: socket.socket) -> None:
        config = uvicorn.Config(
            app,
            http="h11",
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=_IDLE_S,
            h11_max_incomplete_event_size=_HEAD_BYTES,
        )
        self._server = _Quiet(config)
        self._task = asyncio.ensure_future(self._server.serve(sockets=[listener]))

    async def close(self) -> None:
        """Finish what is being answered, for two seconds at most."""
        self._server.over.set()
        await self._task


class _Quiet(uvicorn.Server):
    # uvicorn looks ten times a second whether it should end, and then whether it has: clients of
    # a daemon that restarts would wait for nothing. This one is told, and ends once it can.

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.over = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        await self.over.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(_GRACE_S):
                while state.connections or state.tasks:
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            for task in state.tasks:
                task.cancel()
