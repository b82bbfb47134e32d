# SPDX-License-Identifier: Apache-2.0
"""Validate an instance's parameters: the knobs that it gets, and the objective to measure.

Done before anything is loaded, so that nonsense is refused in one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from kmind.agent.types import Mode
from kmind.errors import KmindError, UsageError
from kmind.extension import Manifest, Module
from kmind.extension import Value as Parameter
from kmind.guard import Policy
from kmind.knobs import Knob, Target, get_knob
from kmind.runtime.holds.selection import chosen_knobs, target_for
from kmind.runtime.objective.poller import check_objective

__all__ = ["check_request", "check_settable"]


def check_request(
    module: Module,
    target: Target,
    params: Mapping[str, Parameter],
    policy: Policy | None = None,
    mode: Mode = Mode.OBSERVE,
) -> None:
    """UsageError unless the parameters' knobs and objective make sense together, here.

    See ``check_settable`` for ``mode``.
    """
    manifest = module.manifest
    check_objective(manifest, target, params)
    _check_driver(manifest, params)
    if manifest.chosen_by:
        knobs = [get_knob(name) for name in chosen_knobs(manifest, params)]
        for knob in knobs:
            _check_one(knob, target)
        for one, other in combinations(knobs, 2):
            _check_pair(one, other, target, policy or Policy())
    check_settable(module, target, params, mode)


def check_settable(
    module: Module, target: Target, params: Mapping[str, Parameter], mode: Mode
) -> None:
    """Raise KmindError if the mode sets knobs, and none of the instance's can be written here.

    As where /sys is mounted read-only. Modules that move no knob pass.
    """
    if mode not in (Mode.CANARY, Mode.AUTO):
        return
    refusals: list[KmindError] = []
    for name in chosen_knobs(module.manifest, params):
        knob = get_knob(name)
        where = target_for(knob, target)
        if not knob.exists(where):
            continue
        try:
            knob.check_writable(where)
        except KmindError as error:
            refusals.append(error)
        else:
            return
    if refusals:
        raise refusals[0]


def _check_driver(manifest: Manifest, params: Mapping[str, Parameter]) -> None:
    part = manifest.driver
    if part is None or not part.memory:
        return
    kept = int(params[part.memory])
    if kept < 1:
        raise UsageError(f"{part.memory} is {kept}, and memory of at least 1 MiB is set aside")
    if part.least_mib + kept > manifest.limits.memory_mib:
        raise UsageError(
            f"{part.memory}={kept} is more than is granted: with {part.least_mib} MiB for its "
            f"process and its buffers the driver may take {manifest.limits.memory_mib} MiB",
            hint=f"give at most {part.memory}={manifest.limits.memory_mib - part.least_mib}",
        )


def _check_one(knob: Knob, target: Target) -> None:
    where = target_for(knob, target)
    if not knob.exists(where):
        knob.check_kind(where)  # a target of another kind says so
        raise UsageError(f"{where} has no knob {knob.name}", hint="see: kmind knobs")


def _check_pair(one: Knob, other: Knob, target: Target, policy: Policy) -> None:
    for knob, reset in ((one, other), (other, one)):
        if reset.name in knob.disturbs:
            raise UsageError(
                f"{knob.name} and {reset.name} contradict each other: "
                "the kernel resets the second when the first is set",
                hint="name one of them",
            )
    where, there = target_for(one, target), target_for(other, target)
    try:
        mine, theirs = policy.bound(one, where), policy.bound(other, there)
    except KmindError as error:
        raise UsageError(str(error)) from None
    for rule in mine.rules:
        if rule.other != other.name or where != there:
            continue
        corners = [
            (mine.minimum, theirs.maximum),
            (mine.maximum, theirs.minimum),
        ]
        if not any(rule.holds(*corner) for corner in corners):
            raise UsageError(
                f"{one.name} and {other.name} contradict each other: no values within the "
                f"policy satisfy {one.name} {rule}",
                hint="see: kmind knobs show",
            )
