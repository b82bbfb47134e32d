# SPDX-License-Identifier: Apache-2.0
"""From ``name=value`` words to the typed parameters of an instance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from kmind.errors import UsageError
from kmind.extension.manifest import Manifest, Value

__all__ = ["Setting", "agent_parameters", "nearest", "parse_parameters", "split_word"]


@dataclass(frozen=True)
class Setting:
    """A parameter given ahead of time; ``at`` is where, as ``file:line``."""

    name: str
    text: str
    at: str


def parse_parameters(
    manifest: Manifest, words: Iterable[str], settings: Iterable[Setting] = ()
) -> dict[str, Value]:
    """All parameters of the module, those not given at their default.

    ``settings`` (``ModuleConf.options``) stand in for those that ``words`` leave out; of
    two for one parameter the later counts. ``-`` and ``_`` are the same in a name. Raises
    UsageError that names the parameter, the value and what is allowed, and for a setting
    its file and line.
    """
    declared = {parameter.name: parameter for parameter in manifest.parameters}
    given: dict[str, Value] = {}
    for word in words:
        name, text = split_word(word)
        if name in given:
            raise UsageError(f"parameter {name} is given twice", hint="give it once")
        given[name] = _parse(manifest, name, text)
    values: dict[str, Value] = {}
    for setting in settings:
        values[setting.name] = _parse(manifest, setting.name, setting.text, f"{setting.at}: ")
    values |= given
    for name, parameter in declared.items():
        value = values.get(name, parameter.default)
        if value is None:
            raise UsageError(
                f"parameter {name} is missing", hint=f"add {name}=VALUE, {parameter.allowed}"
            )
        values[name] = value
    return {name: values[name] for name in declared}


def split_word(word: str) -> tuple[str, str]:
    """Name, with ``_`` for ``-``, and text of a ``name=value``; UsageError if it is none."""
    name, equals, text = word.partition("=")
    if not equals:
        raise UsageError(f"{word!r} is not a parameter", hint="parameters are name=value")
    return name.replace("-", "_"), text


def agent_parameters(manifest: Manifest, values: Mapping[str, Value]) -> dict[str, int]:
    """Those parameters that the agent has as constants too, as integers."""
    return {p.name: p.encode(values[p.name]) for p in manifest.parameters if p.agent}


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: the nearest known one, else all of them."""
    names = sorted(known)
    if close := get_close_matches(name, names, 1):
        return f"did you mean {close[0]!r}?"
    return f"there are: {', '.join(names)}" if names else "there are none"


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
