# SPDX-License-Identifier: Apache-2.0
"""Man pages, shell completion and docs/commands.md, made from the records of the commands.

``python -m kmind.cli.reference FOLDER`` writes them all; a test compares them with the records.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from kmind.cli.completion import bash
from kmind.cli.help import ABOUT, COMMON, Row, command_help, overview, rows, synopsis, wrap
from kmind.cli.registry import GROUPS, list_commands
from kmind.command import Command

__all__ = ["files", "manual", "markdown"]

_EXITS = (
    ("0", "done"),
    ("1", "failed"),
    ("2", "the command line is wrong"),
    ("3", "the daemon is not running"),
    ("4", "this kernel or machine lacks something that is needed"),
    ("77", "not permitted; usually root is needed"),
)
_WIDTH = 88
_LICENCE = "SPDX-License-Identifier: Apache-2.0"
_BY = "made by python -m kmind.cli.reference: change the records in src/kmind/cli/commands"


def files() -> dict[str, str]:
    """Content of each generated file by its path in the repository."""
    commands = list_commands()
    pages = {f"share/man/man1/kmind-{each.name}.1": manual(each) for each in commands}
    return {
        "docs/commands.md": markdown(commands),
        "share/man/man1/kmind.1": _main_manual(commands),
        **pages,
        "share/bash-completion/completions/kmind": f"# {_LICENCE}\n# {_BY}\n{bash(commands)}",
    }


def markdown(commands: Iterable[Command]) -> str:
    """The page of all commands: what ``--help`` prints."""
    lines = ["# Commands", "", f"<!-- {_BY} -->", "", *wrap(_PREFACE, _WIDTH), ""]
    lines += [f"- `{code}`: {meaning}" for code, meaning in _EXITS]
    lines += ["", "```text", overview(_WIDTH).rstrip(), "```"]
    for command in commands:
        for member in (command, *command.commands):
            lines += ["", f"## kmind {member.name}", "", "```text"]
            lines += [command_help(member, _WIDTH).rstrip(), "```"]
    return "\n".join(lines) + "\n"


_PREFACE = (
    "Every command, as its `--help` describes it. Data goes to stdout and messages to stderr; "
    "with `--json` each line is one JSON object ([output](output.md)). Man pages and "
    "completion for bash are installed with the package; zsh reads the same script after "
    "`autoload -U bashcompinit; bashcompinit`. Exit codes:"
)


def manual(command: Command) -> str:
    """The man page of one command, or of a family, in roff (man(7))."""
    name = f"kmind-{command.name}"
    lines = [*_head(name, command.summary), ".SH SYNOPSIS"]
    lines += _lines_of(synopsis(member) for member in command.commands or (command,))
    lines += [".SH DESCRIPTION", _text(command.details or command.summary)]
    for member in command.commands:
        lines += [f".SH {_text(member.name.partition(' ')[2].upper())}", _text(member.summary)]
        lines += [line for part in rows(member) for line in _terms(part)]
    for title, part in zip(("ARGUMENTS", "OPTIONS"), rows(command), strict=True):
        if part:
            lines += [f".SH {title}", *_terms(part)]
    examples = [example for member in (command, *command.commands) for example in member.examples]
    lines += [".SH EXAMPLES", *_lines_of(dict.fromkeys(examples)), *_tail("kmind")]
    return "\n".join(lines) + "\n"


def _main_manual(commands: list[Command]) -> str:
    lines = [*_head("kmind", ABOUT), ".SH SYNOPSIS", *_lines_of(words for words, _ in COMMON)]
    lines += [".SH DESCRIPTION", _text(ABOUT)]
    for group, example in GROUPS.items():
        lines.append(f".SS {_text(group)}")
        lines += _terms(
            (member.name, member.summary) for member in commands if member.group == group
        )
        lines += [".PP", "Example:", *_lines_of([example])]
    others = ", ".join(f"kmind-{other.name}" for other in commands)
    return "\n".join([*lines, *_tail(others)]) + "\n"


def _head(name: str, summary: str) -> list[str]:
    title = f'.TH {_text(name.upper())} 1 "" kmind "kmind manual"'
    text = _text(summary.rstrip("."))
    return [f'.\\" {_LICENCE}', f'.\\" {_BY}', title, ".SH NAME", f"{_text(name)} \\- {text}"]


def _tail(others: str) -> list[str]:
    pages = ", ".join(f"\\fB{_text(name)}\\fR(1)" for name in others.split(", "))
    return [".SH EXIT STATUS", *_terms(_EXITS), ".SH SEE ALSO", pages]


def _terms(part: Iterable[Row]) -> Iterator[str]:
    for name, meaning in part:
        yield from (".TP", f".B {_text(name)}", _text(meaning))


def _lines_of(lines: Iterable[str]) -> list[str]:
    return [".nf", *map(_text, lines), ".fi"]


def _text(text: str) -> str:
    # roff takes these at the start of a line as a request, a minus as a hyphen, and obeys a
    # backslash anywhere (groff_char(7)).
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return f"\\&{escaped}" if escaped.startswith(".") else escaped


def _main(folder: Path) -> None:
    for name, text in files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
