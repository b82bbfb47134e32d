# SPDX-License-Identifier: Apache-2.0
"""Finds commands: each file NAME.py in ``kmind.cli.commands`` declares ``kmind NAME``."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from kmind.cli import commands
from kmind.command import Command

__all__ = ["GROUPS", "command_names", "find_command", "list_commands"]

GROUPS = {
    "First steps": "kmind doctor",
    "In the foreground": "sudo kmind run readahead vda",
    "Kernel settings": "kmind knobs show vm",
    "With the daemon": "kmind load readahead vda --mode advise",
    "Recordings and models": "kmind record readahead@vda -o trace --duration 60",
    "Disks": "kmind diskfail check sda.json",
    "Benchmarks": "kmind bench queue --quick",
}
"""Headings of the overview, in order, each with an example."""


def command_names() -> list[str]:
    """First words of all commands, sorted."""
    files = Path(commands.__path__[0]).glob("*.py")
    return sorted(file.stem for file in files if not file.stem.startswith("_"))


def find_command(name: str) -> Command | None:
    """The command or family whose first word is ``name``; only its file is imported."""
    if name not in command_names():
        return None
    command: Command = import_module(f"{commands.__name__}.{name}").COMMAND
    return command


def list_commands() -> list[Command]:
    """All commands and families, by group and name."""
    listed = [command for name in command_names() if (command := find_command(name))]
    return sorted(listed, key=lambda command: list(GROUPS).index(command.group))
