# SPDX-License-Identifier: Apache-2.0
"""Notes of an extension to its owner: experiments, findings and reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from kmind.extension import Manifest
from kmind.extension.handover import NOTE_MOST
from kmind.runtime.sandbox.framing import Parts
from kmind.util.ratelimit import Allowance
from kmind.util.text import clean

__all__ = ["Handler", "Inbox"]

_BROKEN_A_MINUTE = 20
_KIND_MOST = 20  # bytes


class Handler(Protocol):
    """Handles the notes of some ``kinds``. It raises nothing: the sender is not trusted."""

    manifest: Manifest

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the kinds."""

    def handle(self, kind: str, text: bytes) -> None:
        """Check one, and keep it or leave it out."""


class Inbox:
    """Puts notes together from their parts and gives each to the handler of its kind.

    ``log`` is told why one is left out, in a line. One thread.
    """

    def __init__(
        self,
        handlers: Sequence[Handler],
        log: Callable[[str], None],
        now: Callable[[], float],
    ) -> None:
        self._handlers = handlers
        self._by_kind = {kind: handler for handler in handlers for kind in handler.kinds}
        self._log = log
        self._parts = Parts(NOTE_MOST + _KIND_MOST)
        self._broken = Allowance(now, _BROKEN_A_MINUTE, self._refuse)

    def set_manifest(self, manifest: Manifest) -> None:
        """Judge by another version of the module from now on."""
        for handler in self._handlers:
            handler.manifest = manifest

    def handle(self, lines: Iterable[bytes]) -> int:
        """Handle parts of notes, as they were printed; how many notes they completed."""
        whole = 0
        for line in lines:
            try:
                note = self._parts.add(line)
            except ValueError as error:
                if self._broken.allow():
                    self._refuse(str(error))
                continue
            if note is None:
                continue
            whole += 1
            word, _, text = note.partition(b" ")
            kind = word[:_KIND_MOST].decode("ascii", "replace")
            if handler := self._by_kind.get(kind):
                handler.handle(kind, text)
            elif self._broken.allow():
                self._refuse("its kind is unknown")
        return whole

    def _refuse(self, why: str) -> None:
        self._log(f"a message of the extension is left out: {clean(why, 200)}")
