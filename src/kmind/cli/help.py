# SPDX-License-Identifier: Apache-2.0
"""Help texts of commands, and their parts for man pages, completion and docs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from textwrap import TextWrapper

from kmind.cli.registry import GROUPS, list_commands
from kmind.command import Argument, Command, Flag, Option
from kmind.util.table import terminal_width

__all__ = ["ABOUT", "COMMON", "Row", "command_help", "overview", "rows", "synopsis", "wrap"]

ABOUT = (
    "Machine learning in user space that watches and tunes this kernel, through verified eBPF "
    "agents."
)

COMMON = (
    ("kmind COMMAND --help", "options and examples of a command"),
    ("kmind --version", "the version"),
    ("kmind --debug COMMAND", "tracebacks of unexpected errors"),
)
"""Usage that all commands share."""

Row = tuple[str, str]
"""A word or option, and its meaning."""

_WIDEST = 100
_OFF_TERMINAL = 80
_NAMES = 24
_METAVARS = {str: "TEXT", int: "N", float: "X", Path: "PATH"}


def synopsis(command: Command) -> str:
    """``kmind NAME ARGUMENTS [OPTIONS]``; required options are spelt out."""
    if command.commands:
        return f"kmind {command.name} COMMAND ..."
    words = [f"kmind {command.name}", *map(_argument, command.arguments)]
    options = command.all_options()
    words += [
        _spelt(option) for option in options if isinstance(option, Option) and option.required
    ]
    return " ".join([*words, "[OPTIONS]"] if options else words)


def rows(command: Command) -> tuple[list[Row], list[Row]]:
    """Arguments and options, each with its meaning."""
    arguments = [
        (argument.metavar or argument.name.upper(), _sentence(argument))
        for argument in command.arguments
    ]
    return arguments, [
        (_option_names(option), _sentence(option)) for option in command.all_options()
    ]


def overview(width: int = 0) -> str:
    """All commands by group, a line each; ``width`` is the terminal's by default."""
    width = width or _terminal()
    commands = list_commands()
    lines = ["usage: kmind COMMAND ...", "", *wrap(ABOUT, width)]
    for group, example in GROUPS.items():
        lines += ["", f"{group} (example: {example}):"]
        table = [(command.name, _gist(command)) for command in commands if command.group == group]
        lines += _table(table, 10, width)
    return "\n".join([*lines, "", *_table(COMMON, _NAMES, width)]) + "\n"


def command_help(command: Command, width: int = 0) -> str:
    """Help of one command, or of a family; ``width`` is the terminal's by default."""
    width = width or _terminal()
    lines = [f"usage: {synopsis(command)}", "", *wrap(command.summary, width)]
    if command.details:
        lines += ["", *wrap(command.details, width)]
    if command.commands:
        names = [(member.name.partition(" ")[2], member.summary) for member in command.commands]
        lines += ["", "commands:", *_table(names, 10, width)]
    for title, table in zip(("arguments", "options"), rows(command), strict=True):
        if table:
            lines += ["", f"{title}:", *_table(table, _NAMES, width)]
    if command.examples:
        lines += ["", "Example:" if len(command.examples) == 1 else "Examples:"]
        lines += [f"  {example}" for example in command.examples]
    return "\n".join(lines) + "\n"


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` columns; words with hyphens stay whole."""
    return TextWrapper(width, break_on_hyphens=False, break_long_words=False).wrap(text)


def _gist(command: Command) -> str:
    if not command.commands:
        return command.summary
    names = ", ".join(member.name.partition(" ")[2] for member in command.commands)
    return f"{command.summary.rstrip('.')}: {names}."


def _terminal() -> int:
    return min(terminal_width() or _OFF_TERMINAL, _WIDEST)


def _table(table: Iterable[Row], names: int, width: int) -> list[str]:
    # A name that is too long for its column stands on a line of its own.
    lines: list[str] = []
    indent = " " * (names + 4)
    for name, meaning in table:
        folded = wrap(meaning, max(20, width - len(indent))) or [""]
        if len(name) > names:
            lines.append(f"  {name}")
        else:
            lines.append(f"  {name:{names}}  {folded.pop(0)}".rstrip())
        lines += [indent + line for line in folded]
    return lines


def _argument(argument: Argument) -> str:
    shown = argument.metavar or argument.name.upper()
    shown += " ..." if argument.many else ""
    return shown if argument.required else f"[{shown}]"


def _option_names(option: Option | Flag) -> str:
    name = _spelt(option)
    if isinstance(option, Flag) and option.negatable:
        name = f"--[no-]{option.name}"
    return f"{option.short}, {name}" if option.short else name


def _spelt(option: Option | Flag) -> str:
    if isinstance(option, Flag):
        return f"--{option.name}"
    value = option.metavar or _METAVARS.get(option.convert, "VALUE")  # type: ignore[call-overload]
    return f"--{option.name} {'|'.join(option.choices) or value}"


def _sentence(part: Argument | Option | Flag) -> str:
    notes = []
    if isinstance(part, Argument) and part.choices:
        notes.append(f"one of {', '.join(part.choices)}")
    if isinstance(part, Option) and part.minimum is not None:
        notes.append(f"at least {part.minimum:g}")
    if isinstance(part, Option) and part.required:
        notes.append("required")
    if isinstance(part, Flag) and part.negatable:
        notes.append(f"default: {'yes' if part.default else 'no'}")
    elif not isinstance(part, Flag) and part.default is not None:
        notes.append(f"default: {part.default}")
    return f"{part.help} ({'; '.join(notes)})" if notes else part.help
