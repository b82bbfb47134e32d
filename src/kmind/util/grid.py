# SPDX-License-Identifier: Apache-2.0
"""Times on a grid, so that what comes again and again comes together."""

__all__ = ["next_on_grid"]


def next_on_grid(now: float, every_s: float) -> float:
    """Return the next multiple of ``every_s`` after ``now``: one wake-up serves many instances."""
    return (now // every_s + 1) * every_s
