# SPDX-License-Identifier: Apache-2.0
"""What a module says of itself: ``module.toml``, beside its code.

The records below are the manifest's schema: parser, errors, ``kmind modules`` and the
command line's parameters are made from them. Reading a manifest runs none of the
module's code.
"""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec

from kmind.abi import layout
from kmind.errors import ModuleError

__all__ = [
    "AgentPart",
    "ExtensionPart",
    "Feature",
    "Hook",
    "HookWhile",
    "KnobUse",
    "Manifest",
    "Parameter",
    "TargetPart",
    "Value",
    "load_manifest",
]

Value: TypeAlias = int | float | bool | str
"""What a parameter can hold."""

_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
_Text = Annotated[str, msgspec.Meta(min_length=1)]

_INT64 = 1 << 63


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    # A table of the manifest: a field that is not declared is an error, not a comment.
    pass


class Parameter(_Part, frozen=True):
    """One setting of a module, given as ``name=value`` when an instance is made.

    Without ``default`` it has to be given. ``agent`` says that it is also the
    constant ``param_NAME`` of the module's BPF object (int, bool and enum only).
    """

    name: _Name
    type: Literal["int", "float", "bool", "str", "enum"]
    help: _Text
    unit: str = ""
    minimum: int | float | None = None
    maximum: int | float | None = None
    default: Value | None = None
    choices: tuple[str, ...] = ()
    agent: bool = False

    def __post_init__(self) -> None:
        numeric = self.type in ("int", "float")
        if not numeric and (self.minimum is not None or self.maximum is not None):
            raise ValueError(f"minimum and maximum do not go with type {self.type}")
        if (self.type == "enum") != bool(self.choices):
            raise ValueError("choices go with type enum, and enum needs them")
        if self.agent and self.type in ("float", "str"):
            raise ValueError(f"agent = true does not go with type {self.type}")
        if self.default is not None:
            try:
                self.check(self.default)
            except ValueError as error:
                raise ValueError(f"default is {error}") from None

    @property
    def allowed(self) -> str:
        """What it takes, in words: ``an integer from 1 to 64 KiB``."""
        if self.type == "enum":
            return "one of " + ", ".join(self.choices)
        words = {"int": "an integer", "float": "a number", "bool": "true or false", "str": "text"}
        text = words[self.type]
        if self.minimum is not None and self.maximum is not None:
            text += f" from {self.minimum} to {self.maximum}"
        elif self.minimum is not None:
            text += f" of at least {self.minimum}"
        elif self.maximum is not None:
            text += f" of at most {self.maximum}"
        return text if self.unit in ("", "1") else f"{text} {self.unit}"

    def parse(self, text: str) -> Value:
        """The value that a word of the command line stands for; ValueError if none."""
        if self.type == "bool":
            known = {"true": True, "yes": True, "on": True, "1": True}
            known |= {"false": False, "no": False, "off": False, "0": False}
            if text.lower() not in known:
                raise ValueError(f"{text!r}, and must be {self.allowed}")
            return known[text.lower()]
        if self.type in ("int", "float"):
            try:
                return self.check(int(text) if self.type == "int" else float(text))
            except ValueError:
                raise ValueError(f"{text!r}, and must be {self.allowed}") from None
        return self.check(text)

    def check(self, value: Value) -> Value:
        """Return ``value``, with an int widened for a float; ValueError if it does not fit."""
        fits = {
            "int": isinstance(value, int) and not isinstance(value, bool),
            "float": isinstance(value, int | float) and not isinstance(value, bool),
            "bool": isinstance(value, bool),
            "str": isinstance(value, str),
            "enum": value in self.choices,
        }[self.type]
        if fits and isinstance(value, int | float) and self.type in ("int", "float"):
            low = -math.inf if self.minimum is None else self.minimum
            high = math.inf if self.maximum is None else self.maximum
            fits = math.isfinite(value) and low <= value <= high and abs(value) < _INT64
        if not fits:
            raise ValueError(f"{value!r}, and must be {self.allowed}")
        return float(value) if self.type == "float" else value

    def encode(self, value: Value) -> int:
        """The integer that the agent gets: an index for an enum, 0 or 1 for a bool."""
        return self.choices.index(str(value)) if self.type == "enum" else int(value)


class AgentPart(_Part, frozen=True):
    """``[agent]``: ``object`` is the C source, compiled to ``.bpf.o`` beside it."""

    object: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]*\.bpf\.c$")]


class ExtensionPart(_Part, frozen=True):
    """``[extension]``: ``entry`` is ``file:Class``.

    ``imports`` are the packages outside of the module and the standard library that
    its code uses: after the privileges are dropped nothing else can be imported.
    """

    entry: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_]\w*:[A-Za-z_]\w*$")]
    imports: tuple[_Text, ...] = ()


class TargetPart(_Part, frozen=True):
    """``[target]``: what an instance is bound to, a block device or the whole system."""

    kind: Literal["block", "system"]


class KnobUse(_Part, frozen=True):
    """``[[knob]]``: a knob, by its name in ``kmind.knobs``, that the module may move."""

    name: _Text


class HookWhile(_Part, frozen=True):
    """``while`` of a hook: attach it only while a counter grows faster than ``above`` a second."""

    feature: _Name
    above: Annotated[float, msgspec.Meta(ge=0)]


class Hook(_Part, frozen=True):
    """``[[hook]]``: a program of the agent and the tracepoint that it stands on.

    Without an ``optional`` one the module still works; ``costs`` says what is lost.
    One with ``while`` costs nothing while there is nothing to see.
    """

    program: _Text
    tracepoint: _Text
    optional: bool = False
    costs: str = ""
    while_: HookWhile | None = msgspec.field(name="while", default=None)

    def __post_init__(self) -> None:
        if self.optional and not self.costs:
            raise ValueError("an optional hook has to say what its absence costs")


class Feature(_Part, frozen=True):
    """``[[feature]]``: one column of a window, in order.

    A counter starts at 0 in each window; a gauge is what stood at its end.
    """

    name: _Name
    kind: Literal["counter", "gauge"]
    help: _Text
    unit: str = ""


class Manifest(_Part, frozen=True):
    """A whole ``module.toml``."""

    name: _Name
    version: _Text
    class_: Literal["tuner", "predictor", "detector", "driver", "reporter"] = msgspec.field(
        name="class"
    )
    description: _Text
    author: _Text
    licence: _Text
    agent: AgentPart
    extension: ExtensionPart
    target: TargetPart
    parameters: tuple[Parameter, ...] = msgspec.field(name="parameter", default=())
    knobs: tuple[KnobUse, ...] = msgspec.field(name="knob", default=())
    hooks: tuple[Hook, ...] = msgspec.field(name="hook", default=())
    features: tuple[Feature, ...] = msgspec.field(name="feature", default=())

    def __post_init__(self) -> None:
        limit = layout.LIMIT["FEATURES"]
        if len(self.features) > limit:
            raise ValueError(f"feature: {len(self.features)}, and a window holds {limit}")
        named = (
            ("parameter", [p.name for p in self.parameters]),
            ("knob", [k.name for k in self.knobs]),
            ("hook", [h.program for h in self.hooks]),
            ("feature", [f.name for f in self.features]),
        )
        for table, names in named:
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{table}: {name!r} stands there more than once")
        counters = {f.name for f in self.features if f.kind == "counter"}
        for hook in self.hooks:
            if hook.while_ and hook.while_.feature not in counters:
                raise ValueError(
                    f"hook: {hook.program} waits for {hook.while_.feature!r}, which is no counter"
                )

    @property
    def columns(self) -> dict[str, int]:
        """Feature name to column of a window's ``value``."""
        return {feature.name: column for column, feature in enumerate(self.features)}


def load_manifest(path: Path) -> Manifest:
    """Read and check a manifest.

    Raises ModuleError that names the file, where it can the line, and the field.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return msgspec.convert(tomllib.loads(text), Manifest, strict=True)
    except OSError as error:
        raise ModuleError(
            f"{path}: {error.strerror}", hint="a module is a folder with a module.toml"
        ) from None
    except UnicodeDecodeError as error:
        raise ModuleError(f"{path}: not UTF-8 at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise ModuleError(f"{path}: not TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise _located(path, text, str(error)) from None


def _located(path: Path, text: str, message: str) -> ModuleError:
    # msgspec: "Expected `int`, got `str` - at `$.parameter[1].minimum`"
    message, _, where = message.partition(" - at `$")
    unknown = re.search(r"unknown field `(\w+)`", message)
    field = ".".join(filter(None, [where.strip("`."), unknown[1] if unknown else ""]))
    found = re.fullmatch(r"(\w*)(?:\[(\d+)\])?\.?(.*)", field)
    table, index, key = found.groups("") if found else (field, "", "")
    line = _line_of(text, table, int(index or 0), key) if field else 0
    at = f"{path}:{line}" if line else f"{path}"
    return ModuleError(f"{at}: {field + ': ' if field else ''}{message}")


def _line_of(text: str, table: str, index: int, key: str) -> int:
    # The line of a key, else of its table's header, else 0. Plain TOML only: a manifest
    # with inline tables still gets the field's name.
    current, seen, header = "", -1, 0
    for number, line in enumerate(text.splitlines(), 1):
        if found := re.match(r"\s*\[\[?\s*([\w.]+)", line):
            current = found[1]
            seen += current == table
            if current == table and seen == index:
                header = number
        name = line.partition("=")[0].strip()
        if (not key and not current and name == table) or (
            key and current == table and seen == index and name == key.partition("[")[0]
        ):
            return number
    return header
