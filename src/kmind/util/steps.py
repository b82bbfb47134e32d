# SPDX-License-Identifier: Apache-2.0
"""A change made of steps, each with its inverse: all of them are made, or none.

For changes that the kernel cannot make at once. Where the process is killed half-way, nobody
runs the inverses; so what a half-made change leaves has to be told from its state, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kmind.errors import UndoError

__all__ = ["Step", "nothing", "run_steps"]


def nothing() -> None:
    """The inverse of a step that has none, or a step that is there for its inverse."""


@dataclass(frozen=True)
class Step:
    """One change, ``do``, and the call that takes it back, ``undo``.

    ``undo`` has to be right wherever ``do`` was cut off: not begun, half done, or done.
    """

    name: str
    do: Callable[[], object]
    undo: Callable[[], object] = nothing


def run_steps(steps: Sequence[Step]) -> None:
    """Do all steps in order. If one fails, undo it and those before it, the last one first.

    Raises what the step raised, or UndoError if an inverse failed as well; the other
    inverses run in either case.
    """
    begun: list[Step] = []
    try:
        for step in steps:
            begun.append(step)
            step.do()
    except BaseException as error:
        if left := _undo(begun):
            raise UndoError(f"{error}; then this failed: {'; '.join(left)}") from error
        raise


def _undo(begun: Sequence[Step]) -> list[str]:
    left = []
    for step in reversed(begun):
        try:
            step.undo()
        except Exception as error:  # the others have to be undone all the same
            left.append(f"undoing {step.name}: {error}")
    return left
