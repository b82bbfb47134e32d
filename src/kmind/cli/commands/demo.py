# SPDX-License-Identifier: Apache-2.0
"""``kmind demo``: the whole loop, once."""

from __future__ import annotations

from kmind.cli.options import JSON
from kmind.command import Command, Words

__all__ = ["COMMAND"]


def _run(words: Words) -> int:
    from kmind.cli.demo import demo_command

    return demo_command(json=words["json"])


COMMAND = Command(
    "demo",
    "First steps",
    "Watch kmind tune readahead for a random reader on this disk.",
    _run,
    options=(JSON,),
    examples=("kmind demo",),
)
