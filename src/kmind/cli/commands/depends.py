# SPDX-License-Identifier: Apache-2.0
"""``kmind depends``: the order in which modules are loaded."""

from __future__ import annotations

from kmind.cli.options import JSON
from kmind.command import Argument, Command, Words

__all__ = ["COMMAND"]


def _run(words: Words) -> int:
    from kmind.cli.depends import depends_command

    return depends_command(words["module"], json=words["json"])


COMMAND = Command(
    "depends",
    "First steps",
    "Show the modules that are loaded with a module, in order.",
    _run,
    arguments=(
        Argument("module", "a module (default: all, with their dependencies)", required=False),
    ),
    options=(JSON,),
    examples=("kmind depends readahead",),
)
