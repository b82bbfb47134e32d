# SPDX-License-Identifier: Apache-2.0
"""Specification of an agent, and its place in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypedDict

from kmind.abi import layout
from kmind.agent.types import ModelUse, Shape
from kmind.queue import Geometry, TableShape

__all__ = ["Place", "Settings", "Spec", "free_address", "possible_cpus"]

_SLOT = 1 << 32
# Far from where Linux puts programs, libraries and stacks on x86-64 and arm64;
# 4 GiB apart, since an arena may not cross such a boundary.
_FIRST_ADDRESS = 1 << 44


class Settings(TypedDict, total=False):
    """Settings of an agent, besides its object; see `BpfAgent`."""

    devices: Iterable[int]
    hooks: Mapping[str, str]
    alternatives: Mapping[str, Sequence[str]]
    optional: Iterable[str]
    parameters: Mapping[str, int]
    tick_s: float
    window_s: float
    deadline_s: float
    model: ModelUse | None
    tables: Iterable[TableShape]


@dataclass(frozen=True)
class Spec:
    """Specification of an agent: `Settings` with their defaults."""

    path: Path
    devices: tuple[int, ...] = ()
    hooks: Mapping[str, str] = field(default_factory=dict)
    alternatives: Mapping[str, Sequence[str]] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    parameters: Mapping[str, int] = field(default_factory=dict)
    tick_s: float = 0.002
    window_s: float = 0.1
    deadline_s: float = 1.0
    model: ModelUse | None = None
    tables: tuple[TableShape, ...] = ()

    @classmethod
    def of(cls, path: Path, settings: Settings) -> Spec:
        """With these settings, copied."""
        spec = cls(path, **settings)  # type: ignore[arg-type]
        return replace(
            spec,
            devices=tuple(spec.devices),
            hooks=dict(spec.hooks),
            alternatives=dict(spec.alternatives),
            optional=frozenset(spec.optional),
            parameters=dict(spec.parameters),
            tables=tuple(spec.tables),
        )


@dataclass(frozen=True)
class Place:
    """Address and shape of an agent's arena, and its slot in the core (0: none)."""

    address: int
    geometry: Geometry
    slot: int
    shape: Shape


def possible_cpus() -> int:
    """CPUs that may ever run: rings are per CPU, and hooks index by its number."""
    last = Path("/sys/devices/system/cpu/possible").read_text().strip().rsplit(",", 1)[-1]
    return int(last.rsplit("-", 1)[-1]) + 1


def free_address(slot: int) -> int:
    """An address where no mapping of this process lies within 4 GiB.

    Each slot has one of its own, so that another process finds it free, too.
    """
    taken: set[int] = set()
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(word, 16) for word in line.split(maxsplit=1)[0].split("-"))
        taken.update(range(first // _SLOT, (last - 1) // _SLOT + 1))
    address = _FIRST_ADDRESS + slot * _SLOT
    if slot and address // _SLOT not in taken:
        return address
    address = _FIRST_ADDRESS + layout.LIMIT["INSTANCES"] * _SLOT
    while address // _SLOT in taken:
        address += _SLOT
    return address
