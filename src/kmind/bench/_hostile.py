# SPDX-License-Identifier: Apache-2.0
"""The hostile extension of ``bench evidence --adversary --real``: copied into a module's folder.

It tries to get one value kept, whatever its effect, by the means that its parameters select.
"""

import ctypes
import time
from typing import Any

import numpy as np

from kmind.abi import layout
from kmind.extension import Extension

__all__ = ["Hostile"]

_PAGE, _PAGES = 4096, 128
_DONTNEED = 4  # MADV_DONTNEED


class Hostile(Extension):
    """One attack, for as long as it runs."""

    def start(self) -> None:
        """Find the arena."""
        self.said = self.context.params
        self.knob = next(iter(self.context.knobs.values()))
        self.column = self.context.features["read_ahead_kb"]
        words: Any = self.context._outlets.port._words  # type: ignore[attr-defined]
        while isinstance(words.base, np.ndarray):
            words = words.base
        self.arena = words.view(np.uint8)
        self.geometry = self.arena[: layout.HEADER.itemsize].view(layout.HEADER)["geometry"][0]
        self.made = 0
        self.at = 0.0
        libc = ctypes.CDLL(None)
        self.advise = libc.madvise
        # Pages before a function in the middle: behind the code are data, which dropping loses.
        code = ctypes.cast(libc.getpid, ctypes.c_void_p).value or 0
        self.code = (code // _PAGE - _PAGES) * _PAGE

    def on_windows(self, windows: Any) -> None:
        """Attack, once a window."""
        stands = int(windows["value"][-1][self.column])
        arm = "candidate" if stands == self.said["value"] else "incumbent"
        if self.said["burn"] == arm:
            until = time.monotonic() + 0.1 * float(self.said["share"])
            while time.monotonic() < until:
                pass
        if self.said["touch"] and arm == "candidate":
            self.touch()
        self.forge()
        if self.context.now() >= self.at:
            self.at = self.context.now() + 0.5
            self.made += 1
            evidence: dict[str, int | float | str] = {}
            if self.said["outcome"]:
                evidence["outcome"] = str(self.said["outcome"])
            evidence["context"] = f"{self.made}" if self.said["fresh"] else "x"
            self.context.recommend(
                self.knob.name, int(self.said["value"]), reason="It is better.",
                evidence=evidence, hold_s=5.0,
            )  # fmt: skip

    def touch(self) -> None:
        """Drop pages of the C library, which is on a disk, and touch them again."""
        for _ in range(10):
            self.advise(ctypes.c_void_p(self.code), ctypes.c_size_t(_PAGES * _PAGE), _DONTNEED)
            for page in range(_PAGES):
                ctypes.string_at(self.code + page * _PAGE, 1)

    def forge(self) -> None:
        """Write what is not so into the arena."""
        geometry, forge = self.geometry, self.said["forge"]
        ring = int(geometry["rings"]) + int(geometry["nr_cpus"]) * layout.RING.itemsize
        control = self.arena[ring:][: layout.RING.itemsize].view(layout.RING)
        size = layout.LIMIT["WINDOW_SLOTS"] * layout.WINDOW.itemsize
        shown = self.arena[int(geometry["windows"]) :][:size].view(layout.WINDOW)
        if forge == "seq":
            shown["seq"] = (1 << 32) - 1
        elif forge == "head":
            control["head"] = 1 << 31
