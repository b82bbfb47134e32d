# SPDX-License-Identifier: Apache-2.0
"""The static extension: recommends one value, and recommends it again before it runs out.

It measures nothing and decides nothing: the operator has. What it adds to writing the
kernel's file by hand is that the value is checked by policy, stands in the journal,
yields to other instances by priority, and goes when the module does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kmind.extension import ChangeEvent, Context, Extension, KnobInfo, VerdictEvent

__all__ = ["Static"]

_HOLD_S = 5.0
_RENEW_S = 2.0  # less than half of it: one renewal may get lost
_RETRY_S = 5.0  # after a refusal: leases run out, rates recover
_NEVER = float("inf")


class Static(Extension):
    """One knob of one disk, at one value."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._name = f"block.{context.params['knob']}"
        self._value = int(context.params["value"])
        self._next = 0.0  # when to recommend, by the context's clock
        self._yielded = False
        self._doing = "not yet asked"
        self._rates = {"requests_per_s": 0.0, "mean_us": 0.0}

    def start(self) -> None:
        """Say at once why it cannot be held, if it cannot."""
        if why := self._cannot():
            self._stop(why)

    def on_windows(self, windows: npt.NDArray[np.void]) -> None:
        """Windows come every other second at least, so they keep the time."""
        if not len(windows):
            return
        self._learn_rates(windows)
        now = self.context.now()
        if now >= self._next:
            self._next = now + _RENEW_S
            self._recommend()

    def on_verdict(self, verdict: VerdictEvent) -> None:
        """Go on while it is let through; else ask again later, or when the mode changes."""
        if verdict.verdict in ("approved", "renewed"):
            return
        if verdict.verdict in ("shadowed", "advised"):
            self._stop(f"{verdict.verdict}: {self._words}")
        else:
            self._next = self.context.now() + _RETRY_S
            self._doing = f"refused: {verdict.verdict}"

    def on_change(self, change: ChangeEvent) -> None:
        """Follow the knob: after another's write, stop until the module is loaded anew."""
        if change.kind == "yielded":
            self._yielded = True
            self._stop("yielded: another writer set the knob")
        elif change.kind == "applied":
            self._doing = f"holding {self._words}"
        elif change.kind == "undone" and self.context.mode == "canary":
            self._stop("canary: held once, and undone")
        else:
            self._next = min(self._next, self.context.now() + _RETRY_S)
            self._doing = f"{change.kind}: asking again"

    def on_mode(self, mode: str) -> None:
        """Ask again in the new mode: verdicts of the earlier one no longer count."""
        if not self._yielded and not self._cannot():
            self._next = 0.0
            self._doing = f"asking, in mode {mode}"

    def status(self) -> Mapping[str, Any]:
        """Return the value held, and the disk's rates."""
        return {"doing": self._doing, "knob": self._name, "value": self._value, **self._rates}

    @property
    def _words(self) -> str:
        info = self.context.knobs.get(self._name)
        return f"{self._value} {info.unit if info else ''}".strip()

    def _cannot(self) -> str:
        info = self.context.knobs.get(self._name)
        if info is None:
            return f"{self._name} is not granted on {self.context.target}"
        return _misfit(info, self._value)

    def _stop(self, why: str) -> None:
        self._next = _NEVER
        self._doing = why
        self.context.log(why, knob=self._name, value=self._value)

    def _recommend(self) -> None:
        baseline = self.context.knobs[self._name].baseline
        self.context.recommend(
            self._name,
            self._value,
            reason=f"The operator asked for {self._words} instead of {baseline}.",
            evidence={"asked": self._value, "baseline": baseline, **self._rates},
            hold_s=_HOLD_S,
        )

    def _learn_rates(self, windows: npt.NDArray[np.void]) -> None:
        sums = {
            name: float(windows["value"][:, column].astype(np.float64).sum())
            for name, column in self.context.features.items()
        }
        seconds = (float(windows["end_ns"][-1]) - float(windows["start_ns"][0])) / 1e9
        if seconds > 0:
            self._rates = {
                "requests_per_s": round(sums["requests"] / seconds, 1),
                "mean_us": round(sums["device_ns"] / max(sums["requests"], 1) / 1000, 1),
            }


def _misfit(info: KnobInfo, value: int) -> str:
    # The agent checks this too; here it can be told before anything is asked.
    if not info.minimum <= value <= info.maximum:
        return f"{value} is not from {info.minimum} to {info.maximum}, which is granted"
    if info.grid > 1 and value % info.grid:
        return f"{value} is not a multiple of {info.grid}, which the kernel needs"
    return ""
