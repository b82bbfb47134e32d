# SPDX-License-Identifier: Apache-2.0
"""The command itself: version, help, and what is no command."""

from typing import TYPE_CHECKING

import kmind

if TYPE_CHECKING:
    from conftest import Cli


def test_version(cli: "Cli") -> None:
    assert cli("--version").stdout == f"kmind {kmind.__version__}\n"


def test_help_has_an_example(cli: "Cli") -> None:
    done = cli("run", "--help")
    assert done.returncode == 0
    assert "Examples:\n  kmind run readahead vda\n" in done.stdout
    assert "\x1b[" not in done.stdout


def test_no_command_shows_help(cli: "Cli") -> None:
    done = cli()
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == cli("--help").stdout
