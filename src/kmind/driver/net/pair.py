# SPDX-License-Identifier: Apache-2.0
"""Two network namespaces joined by a driver: an interface in each, and what passes between them."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Self

from kmind.driver.net.batch import NetDriver
from kmind.driver.net.namespace import Namespace
from kmind.driver.net.server import NetServer
from kmind.driver.net.tap import Address, Tap
from kmind.errors import KmindError

__all__ = ["End", "Pair"]

_STOP_S = 5.0


class End:
    """One end: an interface ``name`` in ``namespace``, with an address if one is given."""

    def __init__(self, namespace: Namespace, name: str, address: Address | None = None) -> None:
        self.namespace, self.name, self.address = namespace, name, address


class Pair:
    """Interface 0 at the ``left`` end, 1 at the ``right`` one, served from a thread.

    Opened as a context; the interfaces are gone after it. ``errors`` is what the driver raised, the
    last hundred. Raises what `Tap.open` does.
    """

    def __init__(
        self, driver: NetDriver, left: End, right: End, *, offload: bool = True, depth: int = 0
    ) -> None:
        self._driver, self._ends = driver, (left, right)
        self._offload, self._depth = offload, depth
        self._stack = ExitStack()
        self.errors: list[Exception] = []
        self.taps: list[Tap] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for end in self._ends:
                tap = Tap.open(end.name, end.namespace, offload=self._offload)
                self.taps.append(stack.enter_context(tap))
            self.server = NetServer(
                self._driver, self.taps, depth=self._depth, report=self._remember
            )
            self._thread = threading.Thread(target=self._run, daemon=True, name="link")
            self._thread.start()
            stack.callback(self._stop)
            for end, tap in zip(self._ends, self.taps, strict=True):
                tap.up(end.namespace, end.address)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _run(self) -> None:
        try:
            self.server.run()
        except KmindError as error:
            self._remember(error)

    def _remember(self, error: Exception) -> None:
        self.errors = [*self.errors[-99:], error]

    def _stop(self) -> None:
        self.server.stop()
        self._thread.join(_STOP_S)
        if self._thread.is_alive():
            raise KmindError("the driver does not come back", hint="see what it waits for")
