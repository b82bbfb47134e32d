# SPDX-License-Identifier: Apache-2.0
"""``kmind modules``: the installed modules."""

from __future__ import annotations

from kmind.cli.options import JSON
from kmind.command import Command, Words

__all__ = ["COMMAND"]


def _run(words: Words) -> int:
    from kmind.cli.modules import modules_command

    return modules_command(json=words["json"])


COMMAND = Command(
    "modules",
    "First steps",
    "List the installed modules.",
    _run,
    options=(JSON,),
    examples=("kmind modules",),
)
