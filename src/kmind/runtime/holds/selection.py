# SPDX-License-Identifier: Apache-2.0
"""The knobs that an instance gets, and where each of them sits."""

from __future__ import annotations

from collections.abc import Mapping

from kmind.errors import UsageError
from kmind.extension import Manifest
from kmind.extension import Value as Parameter
from kmind.knobs import Knob, Target, get_knob

__all__ = ["chosen_knobs", "target_for"]


def chosen_knobs(manifest: Manifest, params: Mapping[str, Parameter]) -> tuple[str, ...]:
    """Names of the knobs that an instance with these parameters gets.

    Raises UsageError for one that is unknown, named twice, or none of the module's.
    """
    if not manifest.chosen_by:
        return tuple(use.name for use in manifest.knobs)
    words = [word.strip() for word in str(params[manifest.chosen_by]).split(",")]
    names: list[str] = []
    for word in filter(None, words):
        name = get_knob(word).name
        if name in names:
            raise UsageError(f"knob {name} is named twice", hint="name it once")
        if name not in {use.name for use in manifest.knobs}:
            raise UsageError(
                f"module {manifest.name} does not move {name}",
                hint=f"see: kmind info {manifest.name} -F knobs",
            )
        names.append(name)
    if not names:
        raise UsageError(
            f"{manifest.chosen_by}= names no knob", hint="such as block.nr_requests,vm.swappiness"
        )
    return tuple(names)


def target_for(knob: Knob, target: Target) -> Target:
    """Return the target of a knob for an instance on ``target``: the same, or the system."""
    if knob.target == "system" and target.kind != "system":
        return Target.system(root=target.root)
    return target
