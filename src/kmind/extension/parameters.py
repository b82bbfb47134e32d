# SPDX-License-Identifier: Apache-2.0
"""From ``name=value`` words to the typed parameters of an instance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from kmind.errors import UsageError
from kmind.extension.manifest import Manifest, Value

__all__ = ["agent_parameters", "nearest", "parse_parameters"]


def parse_parameters(manifest: Manifest, words: Iterable[str]) -> dict[str, Value]:
    """All parameters of the module, those not given at their default.

    ``-`` and ``_`` are the same in a name. Raises UsageError that names the
    parameter, the value and what is allowed.
    """
    declared = {parameter.name: parameter for parameter in manifest.parameters}
    given: dict[str, Value] = {}
    for word in words:
        name, equals, text = word.partition("=")
        name = name.replace("-", "_")
        if not equals:
            raise UsageError(f"{word!r} is not a parameter", hint="parameters are name=value")
        if name not in declared:
            raise UsageError(
                f"module {manifest.name} has no parameter {name!r}", hint=nearest(name, declared)
            )
        if name in given:
            raise UsageError(f"parameter {name} is given twice", hint="give it once")
        try:
            given[name] = declared[name].parse(text)
        except ValueError as error:
            raise UsageError(
                f"parameter {name} is {error}", hint=f"{name}: {declared[name].help}"
            ) from None
    values: dict[str, Value] = {}
    for name, parameter in declared.items():
        value = given.get(name, parameter.default)
        if value is None:
            raise UsageError(
                f"parameter {name} is missing", hint=f"add {name}=VALUE, {parameter.allowed}"
            )
        values[name] = value
    return values


def agent_parameters(manifest: Manifest, values: Mapping[str, Value]) -> dict[str, int]:
    """Those parameters that the agent has as constants too, as integers."""
    return {p.name: p.encode(values[p.name]) for p in manifest.parameters if p.agent}


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: the nearest known one, else all of them."""
    names = sorted(known)
    if close := get_close_matches(name, names, 1):
        return f"did you mean {close[0]!r}?"
    return f"there are: {', '.join(names)}" if names else "there are none"
