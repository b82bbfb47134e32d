# SPDX-License-Identifier: Apache-2.0
"""The hostile extension of ``bench admission --attack``: copied into a module's folder.

It costs its owner as much time as it can, in the way that its parameter names.
"""

import contextlib
import os
import sys
import time
from typing import Any, cast

import numpy as np

from kmind.abi import layout
from kmind.extension import Extension

__all__ = ["Hostile"]

_NEWLINES = b"\n" * 4096


class Hostile(Extension):
    """One attack, from the first window on, for as long as it runs."""

    def start(self) -> None:
        """Find the arena, for the heart has to beat on, and where lines go."""
        self.port = cast(Any, self.context._outlets.port)
        words: Any = self.port._words
        while isinstance(words.base, np.ndarray):
            words = words.base
        self.header = words.view(np.uint8)[: layout.HEADER.itemsize].view(layout.HEADER)
        self.out: Any = sys.stdout

    def on_windows(self, windows: Any) -> None:
        """Attack without an end."""
        attack = self.context.params["attack"]
        while attack != "none":
            if attack == "print":
                self.print_newlines()
            else:
                self.ask_for_refusals()
            self.header["heartbeat"] += 1

    def print_newlines(self) -> None:
        """Lines of nothing, as many as the pipe takes."""
        for _ in range(64):
            with contextlib.suppress(OSError):
                os.write(self.out._fd, _NEWLINES)
        time.sleep(0.001)

    def ask_for_refusals(self) -> None:
        """A queue full of recommendations that can only be refused, and are told of."""
        (knob,) = self.context.knobs.values()
        self.port.answers()
        for _ in range(layout.LIMIT["CQ_SLOTS"]):
            self.port.submit(
                knob.id, knob.target_id, knob.maximum + 4, type=1,
                expires_ns=time.monotonic_ns() + 10**9, hold_ms=1000,
                note=b'{"reason": "' + b"x" * 400 + b'", "evidence": {}}',
            )  # fmt: skip
        time.sleep(0.001)
