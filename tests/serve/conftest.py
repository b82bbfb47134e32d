# SPDX-License-Identifier: Apache-2.0
"""The API on a real socket, around a supervisor in memory."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from serve.memory import DISK, MemorySupervisor

from kmind.cli.client import Client
from kmind.serve.api import Api
from kmind.serve.events import Hub
from kmind.serve.peers import PeerSocket, listen
from kmind.serve.routes import Context
from kmind.serve.server import HttpServer
from kmind.serve.worker import Worker


@dataclass
class Served:
    """The API in threads of this process."""

    path: Path
    client: Client
    supervisor: MemorySupervisor
    hub: Hub
    api: Api
    listener: PeerSocket
    audit: list[dict[str, Any]] = field(default_factory=list)

    def do(self, call: Callable[[], Any]) -> Any:
        """Run something on the supervisor's thread."""
        return self.supervisor.submit(call).result(10)


@contextlib.contextmanager
def serve(folder: Path, **options: Any) -> Iterator[Served]:
    """Serve until the end of the block; ``options`` are the Api's."""
    worker = Worker(lambda: MemorySupervisor(folder), ended=lambda: None)
    supervisor = worker.started.result(10)
    assert isinstance(supervisor, MemorySupervisor)
    ready: list[Served] = []
    up, over = threading.Event(), threading.Event()

    async def run() -> None:
        loop = asyncio.get_running_loop()
        hub = Hub(loop, room=options.pop("room", 2000))
        path = folder / "api.sock"
        audit: list[dict[str, Any]] = []
        api = Api(
            Context(supervisor, hub, lambda: {"ok": True, "version": "1", "pid": 1,
                    "started": 1.0, "step_age_s": worker.step_age_s,
                    "owner": supervisor.turns.describe()}),
            audit=lambda event: audit.append({"event": event.name, **event.fields()}),
            **options,
        )  # fmt: skip
        await asyncio.wrap_future(supervisor.submit(lambda: supervisor.subscribe(hub.publish)))
        listener = listen(path)
        server = HttpServer(api.app, listener)
        await asyncio.sleep(0)
        ready.append(Served(path, Client(path), supervisor, hub, api, listener, audit))
        up.set()
        await asyncio.to_thread(over.wait)
        hub.close()
        await server.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        assert up.wait(10)
        yield ready[0]
    finally:
        over.set()
        thread.join()
        worker.stop(keep=False)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """The API, with nothing loaded."""
    with serve(tmp_path) as it:
        yield it


@pytest.fixture
def disk() -> str:
    return DISK
