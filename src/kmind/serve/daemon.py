# SPDX-License-Identifier: Apache-2.0
"""The daemon: the supervisor on its thread, the API on the loop, and the signals between.

SIGTERM and SIGINT end it. SIGUSR2 restarts it in place: agents and extensions go on,
the process keeps its id and its listening socket, and clients wait a moment longer.
SIGHUP does the same once what is read at the start is known to be right.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import kmind
from kmind import events
from kmind.events import Emit
from kmind.serve._base import Supervisor
from kmind.serve.api import Api
from kmind.serve.events import Hub
from kmind.serve.notify import Notifier
from kmind.serve.peers import PeerSocket
from kmind.serve.routes import Context
from kmind.serve.server import HttpServer
from kmind.serve.worker import Worker

__all__ = ["Daemon", "Ending"]

_STALLED_S = 10.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)

Ending: TypeAlias = Literal["stopped", "restart"]
"""End of a run of the daemon: for good, or to be restarted by the caller."""


@dataclass
class Daemon:
    """One run. ``emit`` is told what happens, from any thread.

    ``make`` makes the supervisor, on that thread. ``check`` raises KmindError where what
    is read at the start is wrong now. ``keep`` leaves agents and extensions running at
    the end.
    """

    make: Callable[[], Supervisor]
    check: Callable[[], object]
    emit: Emit
    keep: bool = False
    notifier: Notifier = field(default_factory=Notifier)

    def run(self, listener: PeerSocket) -> Ending:
        """Serve until a signal; raise what made the supervisor fail."""
        return asyncio.run(self._run(listener))

    async def _run(self, listener: PeerSocket) -> Ending:
        loop = asyncio.get_running_loop()
        self._wanted: asyncio.Queue[signal.Signals | None] = asyncio.Queue()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._wanted.put_nowait, number)
        # Blocked since before an exec, so that none hit an image without handlers.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

        def ended() -> None:
            with suppress(RuntimeError):  # the loop is over as well
                loop.call_soon_threadsafe(self._wanted.put_nowait, None)

        self._started = time.time()
        worker = self._worker = Worker(self.make, ended=ended)
        supervisor = self._supervisor = await asyncio.wrap_future(worker.started)
        # A full collection looks through all that was imported, 38 ms in which no other thread
        # runs, the owner's neither; clients in a loop had one made every few seconds.
        gc.freeze()
        hub = Hub(loop)
        await asyncio.wrap_future(supervisor.submit(lambda: supervisor.subscribe(hub.publish)))
        context = Context(supervisor, hub, self._health)
        server = HttpServer(Api(context, audit=self.emit).app, listener)
        feeding = asyncio.ensure_future(self._feed_watchdog())
        self.notifier.ready("serving")
        self._tell(f"serving: pid {os.getpid()}")
        try:
            ending = await self._until_told()
        finally:
            hub.close()
            await server.close()
        # The watchdog is fed as long as the supervisor's last step is young, at the end too.
        await asyncio.to_thread(worker.stop, keep=self.keep or ending == "restart")
        feeding.cancel()
        if ending == "restart":
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        return ending

    async def _until_told(self) -> Ending:
        while True:
            number = await self._wanted.get()
            if number == signal.SIGHUP:
                try:
                    await asyncio.to_thread(self.check)
                except Exception as error:  # a file that is wrong ends no daemon
                    text = f"not reloaded, the old configuration stays in effect: {error}"
                    self._tell(text)
                    continue
            if number in (signal.SIGHUP, signal.SIGUSR2):
                # Before anything is let go of: there is no way back from where an exec fails.
                if not os.access(sys.executable, os.X_OK):
                    why = f"{sys.executable} cannot be executed"
                    self._tell(f"not restarted, the daemon goes on: {why}")
                    continue
                self.notifier.reloading()
                self._tell("restarting in place")
                return "restart"
            what = "leaving everything as it is" if self.keep else "putting everything back"
            self.notifier.stopping(what)
            self._tell(f"ending: {what}")
            return "stopped"

    def _tell(self, message: str) -> None:
        self.emit(events.Log(message=message))

    async def _feed_watchdog(self) -> None:
        period = self.notifier.watchdog_s
        while period:
            if self._worker.alive and self._worker.step_age_s < period / 2:
                self.notifier.alive()
            await asyncio.sleep(period / 4)

    def _health(self) -> dict[str, Any]:
        age = self._worker.step_age_s
        return {
            "ok": self._worker.alive and age < _STALLED_S,
            "version": kmind.__version__,
            "pid": os.getpid(),
            "started": self._started,
            "step_age_s": round(age, 3),
            "owner": self._supervisor.turns.describe(),
        }
