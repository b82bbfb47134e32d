# SPDX-License-Identifier: Apache-2.0
"""Command lines to words: one argparse parser, made from the record of the command."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from kmind.cli.help import command_help
from kmind.cli.registry import command_names, find_command
from kmind.command import Argument, Command, Flag, Option, Words
from kmind.errors import UsageError

__all__ = ["parse"]


def parse(words: Sequence[str]) -> tuple[Command, Words] | str:
    """The command that ``words`` begin with, and its parsed words; or the help asked for.

    Raises UsageError.
    """
    first, *rest = words
    command = find_command(first)
    if command is None:
        raise _unknown("command", first, command_names(), "kmind --help")
    if command.commands:
        members = {member.name.partition(" ")[2]: member for member in command.commands}
        if not rest:
            hint = f"choose from {', '.join(members)}; see: kmind {first} --help"
            raise UsageError(f"kmind {first} needs a command", hint=hint)
        if rest[0] in ("-h", "--help"):
            return command_help(command)
        if rest[0] not in members:
            known = [member.name for member in command.commands]
            raise _unknown("command", f"{first} {rest[0]}", known, f"kmind {first} --help")
        command, rest = members[rest[0]], rest[1:]
    if any(word in ("-h", "--help") for word in _before_dashes(rest)):
        return command_help(command)
    return command, _parse(command, rest)


def _parse(command: Command, words: Sequence[str]) -> Words:
    options = command.all_options()
    parser = _Parser(command)
    for argument in command.arguments:
        _add_argument(parser, argument)
    for option in options:
        if isinstance(option, Flag):
            _add_flag(parser, option)
        else:
            _add_option(parser, option)
    known = [f"--{option.name}" for option in options]
    for word in _before_dashes(words):
        name = word.partition("=")[0]
        if name.startswith("--") and name not in parser.names:
            raise _unknown("option", name, known, f"{parser.prog} --help")
    # Options may stand between arguments; of the two ways only the other knows what "--" means.
    read = parser.parse_args if "--" in words else parser.parse_intermixed_args
    return vars(read(words))


def _before_dashes(words: Sequence[str]) -> Sequence[str]:
    return words[: words.index("--")] if "--" in words else words


def _unknown(kind: str, word: str, known: Sequence[str], help: str) -> UsageError:
    from difflib import get_close_matches  # only here: most words are known

    close = get_close_matches(word, known, 1)
    hint = f"did you mean {close[0]}? See: {help}" if close else f"see: {help}"
    return UsageError(f"there is no {kind} {word!r}", hint=hint)


class _Parser(argparse.ArgumentParser):
    """Raises UsageError in place of printing and exiting; help is made elsewhere."""

    def __init__(self, command: Command) -> None:
        prog = f"kmind {command.name}"
        super().__init__(prog=prog, usage=prog, allow_abbrev=False, add_help=False)
        self._example = command.examples[0]

    @property
    def names(self) -> frozenset[str]:
        """All options, as they are written."""
        return frozenset(self._option_string_actions)

    def error(self, message: str) -> NoReturn:
        example = f"for example: {self._example}; " if "required" in message else ""
        raise UsageError(message, hint=f"{example}see: {self.prog} --help")


def _add_argument(parser: argparse.ArgumentParser, argument: Argument) -> None:
    fields: dict[str, Any] = {"type": argument.convert}
    if argument.many:
        fields |= {"nargs": "+" if argument.required else "*", "default": []}
    elif not argument.required:
        fields |= {"nargs": "?", "default": argument.default}
    if argument.choices:
        fields["choices"] = argument.choices
    metavar = argument.metavar or argument.name.upper()
    parser.add_argument(argument.name, metavar=metavar, **fields)


def _add_flag(parser: argparse.ArgumentParser, flag: Flag) -> None:
    names = [*([flag.short] if flag.short else []), f"--{flag.name}"]
    action = argparse.BooleanOptionalAction if flag.negatable else "store_true"
    parser.add_argument(*names, action=action, default=flag.default)


def _add_option(parser: argparse.ArgumentParser, option: Option) -> None:
    names = [*([option.short] if option.short else []), f"--{option.name}"]
    fields: dict[str, Any] = {"required": option.required, "type": _converter(option)}
    fields |= {"action": "append"} if option.many else {}
    fields["default"] = [] if option.many else option.default
    if option.choices:
        fields["choices"] = option.choices
    parser.add_argument(*names, **fields)


def _converter(option: Option) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            value = option.convert(text)
        except ValueError:
            number = "a whole number" if option.convert is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {number}") from None
        # Written so that a NaN, which compares false with everything, is refused as well.
        if option.minimum is not None and not value >= option.minimum:
            raise argparse.ArgumentTypeError(f"{text} is below {option.minimum:g}")
        return value

    return convert
