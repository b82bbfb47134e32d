# SPDX-License-Identifier: Apache-2.0
"""Grants of an instance: for each knob of its module, the bounds by knob and policy together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kmind.agent.types import Grant, Rule
from kmind.errors import KmindError
from kmind.extension import KnobInfo, Module
from kmind.extension import Value as Parameter
from kmind.guard import Bound, Policy
from kmind.knobs import Knob, Target, Value, get_knob
from kmind.runtime.holds.selection import chosen_knobs, target_for

__all__ = ["Granted", "grants_for", "shown"]


@dataclass(frozen=True)
class Granted:
    """Grant of one knob on one target: the agent's bounds, and the extension's information.

    ``baseline`` is its value when the instance started, ``priority`` that of its lease.
    ``usable`` is false for a knob that only stands in a rule over another one.
    """

    knob: Knob
    target: Target
    bound: Bound
    baseline: Value
    usable: bool = True
    priority: int = 100

    @property
    def key(self) -> tuple[int, int]:
        """Knob and target, as the agent numbers them."""
        return self.knob.id, self.target.id

    def grant(self) -> Grant:
        """For the agent."""
        if not self.usable:
            return self.withdrawn(self.baseline)
        bound = self.bound
        return Grant(
            minimum=bound.minimum,
            maximum=bound.maximum,
            current=self.knob.encode(self.baseline),
            type=self.knob.kind,
            step=bound.step,
            step_percent=bound.step_factor_percent,
            grid=bound.grid,
            choices=bound.choices,
            interval_ns=bound.interval_ns,
            burst=bound.burst,
            priority=self.priority,
            hold_ms=bound.hold_ms,
            rules=tuple(
                Rule(rule.op, get_knob(rule.other).id, rule.offset)
                for rule in bound.rules
                if get_knob(rule.other).exists(self.target)
            ),
        )

    def withdrawn(self, current: Value) -> Grant:
        """A grant that lets nothing through: no number is in an empty range."""
        return Grant(minimum=1, maximum=0, current=self.knob.encode(current), type=self.knob.kind)

    def info(self) -> KnobInfo:
        """For the extension."""
        return KnobInfo(
            name=self.knob.name,
            id=self.knob.id,
            kind=self.knob.kind,
            unit=self.knob.unit,
            minimum=self.bound.minimum,
            maximum=self.bound.maximum,
            grid=self.bound.grid,
            choices=self.knob.choices,
            target_id=self.target.id,
            baseline=self.baseline,
            settle=self.knob.settle,
        )


def grants_for(
    module: Module, target: Target, policy: Policy, params: Mapping[str, Parameter]
) -> tuple[list[Granted], dict[str, str]]:
    """The knobs that are granted, and for each of the others why it is not.

    Of those that the manifest names the ones that ``params`` choose, if they may. A knob
    of the system is granted to an instance on a disk or a cgroup too.

    Knobs that stand in a rule over a granted one come too, not usable: the agent has
    to know their values.
    """
    granted: dict[str, Granted] = {}
    refused: dict[str, str] = {}
    chosen = chosen_knobs(module.manifest, params)
    for use in module.manifest.knobs:
        knob = get_knob(use.name)
        if knob.name not in chosen:
            continue
        where = target_for(knob, target)
        try:
            bound = policy.bound(knob, where)
            if bound.forbidden:
                refused[knob.name] = "the policy forbids it"
                continue
            value = knob.read(where)
            knob.encode_found(value, where)
            granted[knob.name] = Granted(knob, where, bound, value, priority=use.priority)
        except KmindError as error:
            refused[knob.name] = str(error)
    for entry in list(granted.values()):
        for rule in entry.bound.rules:
            other = get_knob(rule.other)
            where = entry.target
            if other.name not in granted and other.exists(where):
                bound = policy.bound(other, where)
                granted[other.name] = Granted(other, where, bound, other.read(where), False)
    return list(granted.values()), refused


def shown(granted: Granted | None, number: int) -> Value:
    """A value as the agent has it, as an admin reads it; the number where that is unknown."""
    if granted is None or (
        granted.knob.kind == "enum" and not 0 <= number < len(granted.knob.choices)
    ):
        return number
    return granted.knob.decode(number)
