# SPDX-License-Identifier: Apache-2.0
"""One parameter of a module: how it is declared, parsed and checked."""

from __future__ import annotations

import math
from typing import Annotated, Literal, TypeAlias

import msgspec

__all__ = ["MODE_WORD", "Name", "Parameter", "Part", "Text", "Value"]

Value: TypeAlias = int | float | bool | str
"""Types of a parameter's value."""

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
"""Names that a manifest may declare."""

Text = Annotated[str, msgspec.Meta(min_length=1)]
"""Text that is not empty."""

MODE_WORD = "mode"
"""Given like a parameter when an instance is made, but not a parameter of any module."""

_INT64 = 1 << 63


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the manifest: a field that is not declared is an error, not a comment."""


class Parameter(Part, frozen=True):
    """One setting of a module, given as ``name=value`` when an instance is made.

    Without ``default`` it has to be given. ``agent`` says that it is also the
    constant ``param_NAME`` of the module's BPF object (int, bool and enum only).
    """

    name: Name
    type: Literal["int", "float", "bool", "str", "enum"]
    help: Text
    unit: str = ""
    minimum: int | float | None = None
    maximum: int | float | None = None
    default: Value | None = None
    choices: tuple[str, ...] = ()
    agent: bool = False

    def __post_init__(self) -> None:
        if self.name == MODE_WORD:
            raise ValueError("a parameter cannot be called mode: that is the instance's own")
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
        """Allowed values in words: ``an integer from 1 to 64 KiB``."""
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
            # In this order: isfinite() takes no integer that is larger than a float.
            fits = abs(value) < _INT64 and math.isfinite(value) and low <= value <= high
        if not fits:
            raise ValueError(f"{value!r}, and must be {self.allowed}")
        return float(value) if self.type == "float" else value

    def encode(self, value: Value) -> int:
        """The integer that the agent gets: an index for an enum, 0 or 1 for a bool."""
        return self.choices.index(str(value)) if self.type == "enum" else int(value)
