# SPDX-License-Identifier: Apache-2.0
"""``kmind why``: experiments, and what came of them."""

from __future__ import annotations

from kmind.cli.options import JSON
from kmind.command import Argument, Command, Words

__all__ = ["COMMAND"]


def _run(words: Words) -> int:
    from kmind.cli.why import why_command

    return why_command(words["id"], json=words["json"])


COMMAND = Command(
    "why",
    "In the foreground",
    "Show experiments: measurements, verdict, and the reason for it.",
    _run,
    arguments=(
        Argument("id", "an experiment's number (default: list the latest)", required=False),
    ),
    options=(JSON,),
    examples=("kmind why 12",),
)
