# SPDX-License-Identifier: Apache-2.0
"""Records of commands: parser, help, man pages, shell completion and docs are made from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["Argument", "Command", "Flag", "Option", "Words"]

# Tuples with names, and not dataclasses: those import `inspect`, a tenth of the time of --help.

Words = dict[str, Any]
"""Parsed words of a command line by name, ``-`` written as ``_``."""


class Argument(NamedTuple):
    """A positional argument.

    With ``many`` it takes all remaining words, as a list. An optional one that is omitted is
    ``default``, or an empty list. ``metavar`` is shown in place of the name.
    """

    name: str
    help: str
    convert: Callable[[str], Any] = str
    metavar: str = ""
    choices: tuple[str, ...] = ()
    many: bool = False
    required: bool = True
    default: str | None = None


class Option(NamedTuple):
    """``--name VALUE``; with ``many`` it may be repeated, and is a list.

    ``convert`` makes the value from the text: ``str``, ``int``, ``float`` or ``Path``. ``minimum``
    is the smallest number allowed.
    """

    name: str
    help: str
    convert: Callable[[str], Any] = str
    default: str | int | float | None = None
    choices: tuple[str, ...] = ()
    short: str = ""
    minimum: float | None = None
    many: bool = False
    required: bool = False
    metavar: str = ""


class Flag(NamedTuple):
    """``--name``: True if given. With ``negatable`` there is ``--no-name`` too."""

    name: str
    help: str
    short: str = ""
    default: bool = False
    negatable: bool = False


def _nothing(words: Words) -> int:
    raise NotImplementedError(words)


def _no_options() -> tuple[Option | Flag, ...]:
    return ()


class Command(NamedTuple):
    """One command, or a family of commands such as ``kmind model``.

    ``name`` of a member of a family has two words ("model import"). ``group`` is its heading in
    the overview, ``summary`` one sentence. ``run`` gets the parsed words and returns the exit
    code. ``late_options`` are those whose declaration is slow to import. A family has ``commands``
    and no ``run``.
    """

    name: str
    group: str
    summary: str
    run: Callable[[Words], int] = _nothing
    arguments: tuple[Argument, ...] = ()
    options: tuple[Option | Flag, ...] = ()
    examples: tuple[str, ...] = ()
    details: str = ""
    late_options: Callable[[], tuple[Option | Flag, ...]] = _no_options
    commands: tuple[Command, ...] = ()

    def all_options(self) -> tuple[Option | Flag, ...]:
        """Every option, in the order in which help shows them."""
        return (*self.late_options(), *self.options)
