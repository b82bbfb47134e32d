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
    words += [_spelt(each) for each in options if isinstance(each, Option) and each.required]
    return " ".join([*words, "[OPTIONS]"] if options else words)


def rows(command: Command) -> tuple[list[Row], list[Row]]:
    """Arguments and options, each with its meaning."""
    arguments = [(each.metavar or each.name.upper(), _sentence(each)) for each in command.arguments]
    return arguments, [(_option_names(each), _sentence(each)) for each in command.all_options()]


def overview(width: int = 0) -> str:
    """All commands by group, a line each; ``width`` is the terminal's by default."""
    width = width or _terminal()
    commands = list_commands()
    lines = ["usage: kmind COMMAND ...", "", *wrap(ABOUT, width)]
    for group, example in GROUPS.items():
        lines += ["", f"{group} (example: {example}):"]
        table = [(each.name, _gist(each)) for each in commands if each.group == group]
        lines += _table(table, 10, width)
    return "\n".join([*lines, "", *_table(COMMON, _NAMES, width)]) + "\n"


def command_help(command: Command, width: int = 0) -> str:
    """Help of one command, or of a family; ``width`` is the terminal's by default."""
    width = width or _terminal()
    lines = [f"usage: {synopsis(command)}", "", *wrap(command.summary, width)]
    if command.details:
        lines += ["", *wrap(command.details, width)]
    if command.commands:
        names = [(each.name.partition(" ")[2], each.summary) for each in command.commands]
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
    names = ", ".join(each.name.partition(" ")[2] for each in command.commands)
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


def _sentence(each: Argument | Option | Flag) -> str:
    notes = []
    if isinstance(each, Argument) and each.choices:
        notes.append(f"one of {', '.join(each.choices)}")
    if isinstance(each, Option) and each.minimum is not None:
        notes.append(f"at least {each.minimum:g}")
    if isinstance(each, Option) and each.required:
        notes.append("required")
    if isinstance(each, Flag) and each.negatable:
        notes.append(f"default: {'yes' if each.default else 'no'}")
    elif not isinstance(each, Flag) and each.default is not None:
        notes.append(f"default: {each.default}")
    return f"{each.help} ({'; '.join(notes)})" if notes else each.help
