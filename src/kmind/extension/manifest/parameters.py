# SPDX-License-Identifier: Apache-2.0
"""From what was given for a module's parameters to the typed parameters of an instance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from kmind.errors import UsageError
from kmind.extension.manifest.manifest import Manifest, Value
from kmind.util.words import split_words

__all__ = ["Setting", "agent_parameters", "nearest", "parse_parameters"]


@dataclass(frozen=True)
class Setting:
    """A parameter given ahead of time; ``at`` is where, as ``file:line``."""

    name: str
    text: str
    at: str


def parse_parameters(
    manifest: Manifest,
    given: Mapping[str, Value] | Iterable[str],
    settings: Iterable[Setting] = (),
) -> dict[str, Value]:
    """Return all parameters of the module, those not given at their default.

    ``given`` are texts or values by name, or words as ``name=value``. ``settings``
    (``ModuleConf.options``) stand in for what is not given; of two for one parameter the later
    counts. Raises UsageError that names the parameter, the value and what is allowed, and for a
    setting its file and line.
    """
    declared = {parameter.name: parameter for parameter in manifest.parameters}
    named = given if isinstance(given, Mapping) else split_words(given)
    typed = {name: _parse(manifest, name, _text(value)) for name, value in named.items()}
    preset = {s.name: _parse(manifest, s.name, s.text, f"{s.at}: ") for s in settings}
    values = preset | typed
    for name, parameter in declared.items():
        value = values.get(name, parameter.default)
        if value is None:
            raise UsageError(
                f"parameter {name} is missing", hint=f"add {name}=VALUE, {parameter.allowed}"
            )
        values[name] = value
    return {name: values[name] for name in declared}


def agent_parameters(manifest: Manifest, values: Mapping[str, Value]) -> dict[str, int]:
    """Those parameters that the agent has as constants too, as integers."""
    return {p.name: p.encode(values[p.name]) for p in manifest.parameters if p.agent}


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: the nearest known one, else all of them."""
    names = sorted(known)
    if close := get_close_matches(name, names, 1):
        return f"did you mean {close[0]!r}?"
    return f"there are: {', '.join(names)}" if names else "there are none"


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parse(manifest: Manifest, name: str, text: str, at: str = "") -> Value:
    declared = {parameter.name: parameter for parameter in manifest.parameters}
    if name not in declared:
        raise UsageError(
            f"{at}module {manifest.name} has no parameter {name!r}", hint=nearest(name, declared)
        )
    try:
        return declared[name].parse(text)
    except ValueError as error:
        raise UsageError(
            f"{at}parameter {name} is {error}", hint=f"{name}: {declared[name].help}"
        ) from None
