# SPDX-License-Identifier: Apache-2.0
"""``kmind inspect``: what a recording holds."""

from __future__ import annotations

from pathlib import Path

from kmind.cli.options import JSON
from kmind.command import Argument, Command, Words

__all__ = ["COMMAND"]


def _run(words: Words) -> int:
    from kmind.cli.inspect import inspect_command

    return inspect_command(words["path"], json=words["json"])


COMMAND = Command(
    "inspect",
    "Recordings and models",
    "Show the contents of a recording.",
    _run,
    arguments=(Argument("path", "a file or folder of kmind record", convert=Path),),
    options=(JSON,),
    examples=("kmind inspect trace",),
)
