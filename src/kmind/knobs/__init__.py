# SPDX-License-Identifier: Apache-2.0
"""Catalog of kernel settings: one declarative record per knob."""

from __future__ import annotations

from difflib import get_close_matches
from types import MappingProxyType

from kmind.errors import UsageError
from kmind.knobs import block, cgroup, ksm, thp, vm, zram, zswap
from kmind.knobs._base import Knob, canonical
from kmind.knobs._record import Rule, RuleOp, Value
from kmind.knobs._target import Target, TargetKind, block_devices, block_targets, parse_target

__all__ = [
    "Knob",
    "Rule",
    "RuleOp",
    "Target",
    "TargetKind",
    "Value",
    "all_knobs",
    "block_devices",
    "block_targets",
    "get_knob",
    "knob_by_id",
    "parse_target",
]

_ALL: tuple[Knob, ...] = (
    *block.KNOBS,
    *vm.KNOBS,
    *thp.KNOBS,
    *ksm.KNOBS,
    *zswap.KNOBS,
    *zram.KNOBS,
    *cgroup.KNOBS,
)
_BY_NAME = MappingProxyType({knob.name: knob for knob in _ALL})
_BY_ID = MappingProxyType({knob.id: knob for knob in _BY_NAME.values()})


def all_knobs() -> tuple[Knob, ...]:
    """Every knob that kmind knows, family by family."""
    return tuple(_BY_NAME.values())


def get_knob(name: str) -> Knob:
    """The knob of that name ("-" and "_" are equal); ``UsageError`` if there is none."""
    knob = _BY_NAME.get(canonical(name))
    if knob is None:
        near = get_close_matches(canonical(name), _BY_NAME, 1, 0.5)
        raise UsageError(
            f"unknown knob {name!r}",
            hint=f"did you mean {near[0]}?" if near else f"known are {', '.join(_BY_NAME)}",
        )
    return knob


def knob_by_id(number: int) -> Knob:
    """The knob whose ``id`` is that; ``UsageError`` if there is none."""
    try:
        return _BY_ID[number]
    except KeyError:
        raise UsageError(f"no knob has the id {number:#010x}") from None
