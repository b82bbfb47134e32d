# SPDX-License-Identifier: Apache-2.0
"""Choose and make the memory that an agent shares with its extension: the arena.

Where the kernel has BPF arenas it is one. Elsewhere it is an array map with one value, as large
as the arena would be. Each agent object is compiled in both shapes (`kmind/arena.h`): ``X.bpf.o``
and ``X.array.bpf.o``.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

from kmind.agent.kernel.spec import Place
from kmind.agent.types import Shape
from kmind.bpf import MAP_TYPE_ARRAY, BpfObject, Map
from kmind.bpf.probe import probe
from kmind.errors import NotSupportedError, UsageError
from kmind.queue import Geometry

__all__ = ["ENVIRONMENT", "choose_shape", "object_of", "place_arena", "plan_arena", "shape_of"]

ENVIRONMENT = "KMIND_SHARED"
"""``arena`` or ``array`` in it chooses the shape, whatever the kernel has."""

_PAGE = 4096
_LARGEST_VALUE = 4 << 20
"""Bytes of an array's value: KMALLOC_MAX_SIZE of kernel/bpf/arraymap.c, Linux 6.1 on x86-64."""


def choose_shape() -> Shape:
    """Choose an arena if the kernel has one, by trying; else an array map.

    Raises UsageError if ``KMIND_SHARED`` names another shape, and NotSupportedError if it asks for
    an arena where there are none.
    """
    asked = os.environ.get(ENVIRONMENT, "")
    if not asked:
        return Shape.ARRAY if _no_arenas() else Shape.ARENA
    if asked not in list(Shape):
        raise UsageError(
            f"{ENVIRONMENT} is {asked!r}, which is no kind of shared memory",
            hint=f"set it to {' or '.join(Shape)}, or unset it",
        )
    if asked == Shape.ARENA and (reason := _no_arenas()):
        raise NotSupportedError(
            f"{ENVIRONMENT} is arena, and this kernel has no arenas: {reason}",
            hint=f"unset it, or set it to {Shape.ARRAY}",
        )
    return Shape(asked)


@functools.cache
def _no_arenas() -> str:
    # The reason why there are none, or "".
    tried = map(probe, ("arena", "arena_atomics"))
    return next((each.cause for each in tried if each.state != "ok"), "")


def object_of(path: Path, shape: Shape) -> Path:
    """Path of the agent object ``path`` in that shape; ``path`` itself if there is none at all.

    Raises NotSupportedError if it was not compiled in that shape.
    """
    if shape is Shape.ARENA or not path.exists():
        return path
    twin = path.with_name(path.name.removesuffix(".bpf.o") + ".array.bpf.o")
    if not twin.exists():
        raise NotSupportedError(
            f"agents share memory by an array map here, and {twin} is not there",
            hint=f"compile the module's agent also with -DKM_SHARED_ARRAY, as {twin.name}",
        )
    return twin


def shape_of(arena: Map) -> Shape:
    """The shape of an arena that is there already."""
    return Shape.ARRAY if arena.type == MAP_TYPE_ARRAY else Shape.ARENA


def plan_arena(shape: Shape, cpus: int, slots: int) -> Geometry:
    """Plan an arena with ``slots`` records a CPU; fewer, where an array would be too large."""
    geometry = Geometry.plan(cpus, slots)
    while shape is Shape.ARRAY and geometry.size > _LARGEST_VALUE:
        slots //= 2
        geometry = Geometry.plan(cpus, slots)
    return geometry


def place_arena(loading: BpfObject, place: Place) -> None:
    """Give an object that is not loaded yet its arena: at that address, of that size."""
    arena, size = loading.maps["km_arena"], place.geometry.size
    if shape_of(arena) is Shape.ARENA:
        loading.set_arena(arena.name, place.address, size // _PAGE)
    else:
        arena.set_value_size(size)
