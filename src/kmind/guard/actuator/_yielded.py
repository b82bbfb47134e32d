# SPDX-License-Identifier: Apache-2.0
"""A knob that somebody else has set: it is theirs."""

from __future__ import annotations

from dataclasses import dataclass

from kmind.errors import KnobError
from kmind.knobs import Value

__all__ = ["Yielded", "refused"]


@dataclass(frozen=True)
class Yielded:
    """A knob that was ours and that somebody else has set since.

    ``by`` says who, as far as the gate saw it; otherwise it is "".
    """

    knob: str
    target: str
    ours: Value | None
    found: Value
    rec_id: int
    by: str = ""

    def __str__(self) -> str:
        by = f", {self.by}" if self.by else ""
        return (
            f"{self.knob} of {self.target} was set to {self.found} by somebody else{by} "
            f"(we had set {self.ours}): left as it is"
        )


def refused(yielded: Yielded) -> KnobError:
    """Return the error for a write to a knob that was yielded."""
    return KnobError(str(yielded), hint="it stays so until the instance is restarted")
