# SPDX-License-Identifier: Apache-2.0
"""Help: every command is in it, with an example; it fits the terminal and is quick to make."""

import subprocess
import sys

import pytest

from kmind.cli.help import command_help, overview, rows
from kmind.cli.registry import GROUPS, command_names, find_command, list_commands
from kmind.command import Command, Option

COMMANDS = [each for found in list_commands() for each in (found, *found.commands)]


def test_overview_lists_every_command_under_its_group() -> None:
    lines = overview(80).splitlines()
    headings = [f"{group} (example: {example}):" for group, example in GROUPS.items()]
    assert [line for line in lines if line in headings] == headings
    for name in command_names():
        command = find_command(name)
        assert command
        place = lines.index(f"{command.group} (example: {GROUPS[command.group]}):")
        section = lines[place + 1 : lines.index("", place)]
        assert any(line.startswith(f"  {name} ") for line in section), name


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
@pytest.mark.parametrize("width", [60, 80])
def test_help_fits_the_terminal_and_has_an_example(command: Command, width: int) -> None:
    text = command_help(command, width)
    assert command.examples
    for example in command.examples:
        assert f"\n  {example}\n" in text
    examples = [f"  {example}" for example in command.examples]
    prose = [line for line in text.splitlines()[1:] if line not in examples]
    # A name that is longer than its column stands alone.
    assert all(
        len(line) <= width or " " not in line.strip(" -") for line in prose if "|" not in line
    )


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_word_of_a_command_is_explained(command: Command) -> None:
    arguments, options = rows(command)
    assert len(arguments) == len(command.arguments)
    assert len(options) == len(command.all_options())
    assert all(meaning for _, meaning in (*arguments, *options))
    assert command.summary.endswith(".")
    assert len(command.summary) <= 80
    names = [option.name for option in command.all_options()]
    assert len(set(names)) == len(names)


def test_examples_of_groups_are_of_commands_in_them() -> None:
    for group, example in GROUPS.items():
        command = find_command(example.removeprefix("sudo ").split()[1])
        assert command
        assert command.group == group


def test_required_options_stand_in_the_usage() -> None:
    for command in COMMANDS:
        usage = command_help(command, 80).splitlines()[0]
        for option in command.all_options():
            if isinstance(option, Option) and option.required:
                assert f"--{option.name}" in usage


def test_help_needs_neither_the_parser_nor_what_commands_run() -> None:
    code = "import sys; from kmind.cli.main import main; main(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "kmind.cli.commands.run" in loaded
    unwanted = {"argparse", "dataclasses", "inspect", "msgspec", "numpy", "rich"}
    assert not loaded & unwanted
    assert not {name for name in loaded if name.startswith(("kmind.agent", "kmind.bench"))}
