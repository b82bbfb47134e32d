# SPDX-License-Identifier: Apache-2.0
"""Benches of the memory that agent and extension share, in each of its shapes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from kmind.agent.kernel.shared_memory import ENVIRONMENT, choose_shape
from kmind.agent.types import Shape
from kmind.command import Option

__all__ = ["SHARED", "agents_of", "asked_shapes"]

SHARED = Option(
    "shared",
    "shape of the memory that agents share with extensions; without it both, by turns",
    choices=tuple(Shape),
)


def asked_shapes(shared: str | None) -> tuple[Shape, ...]:
    """Return the shapes to measure: the one asked for, else all that this kernel has."""
    if shared is not None:
        return (Shape(shared),)
    if choose_shape() is Shape.ARENA:
        return (Shape.ARENA, Shape.ARRAY)
    return (Shape.ARRAY,)


@contextmanager
def agents_of(shape: Shape) -> Iterator[None]:
    """Agents that are loaded meanwhile have that shape."""
    before = os.environ.get(ENVIRONMENT)
    os.environ[ENVIRONMENT] = shape
    try:
        yield
    finally:
        if before is None:
            del os.environ[ENVIRONMENT]
        else:
            os.environ[ENVIRONMENT] = before
