# SPDX-License-Identifier: Apache-2.0
"""Shell completion for bash, made from the records of the commands.

It completes commands, options, and values that are a choice; the shell itself completes other
words as file names. zsh reads the same script (bashcompinit, in zshcompsys(1)).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from shlex import quote

from kmind.command import Command, Flag, Option

__all__ = ["bash"]


def bash(commands: Iterable[Command]) -> str:
    """The script for bash: a function, and the `complete` that names it (bash(1))."""
    commands = list(commands)
    first = " ".join([*(command.name for command in commands), "--help", "--version", "--debug"])
    lines = [
        "_kmind() {",
        "    local current=$2 command=${COMP_WORDS[1]} words=",
        f"    local first={quote(first)}",
        "    ((COMP_CWORD > 2)) && case $command in",
        f'    {_families(commands)}) command+=" ${{COMP_WORDS[2]}}" ;;',
        "    esac",
        '    case "$command $3" in',
    ]
    for command, option in _choices(commands):
        lines.append(f'    "{command.name} --{option.name}") words="{" ".join(option.choices)}" ;;')
    lines += ["    *)", "        case $command in"]
    for command in _each(commands):
        lines.append(f'        "{command.name}") words="{" ".join(_words(command))}" ;;')
    lines += [
        "        esac ;;",
        "    esac",
        "    ((COMP_CWORD == 1)) && words=$first",
        '    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")',
        "}",
        "complete -o default -F _kmind kmind",
    ]
    return "\n".join(lines) + "\n"


def _each(commands: Iterable[Command]) -> Iterator[Command]:
    for command in commands:
        yield command
        yield from command.commands


def _families(commands: Iterable[Command]) -> str:
    return "|".join(family.name for family in commands if family.commands)


def _last(command: Command) -> str:
    return command.name.rpartition(" ")[2]


def _choices(commands: Iterable[Command]) -> Iterator[tuple[Command, Option]]:
    for command in _each(commands):
        for option in command.all_options():
            if isinstance(option, Option) and option.choices:
                yield command, option


def _words(command: Command) -> Iterator[str]:
    yield from map(_last, command.commands)
    for argument in command.arguments:
        yield from argument.choices
    for option in command.all_options():
        yield f"--{option.name}"
        if isinstance(option, Flag) and option.negatable:
            yield f"--no-{option.name}"
    yield "--help"
