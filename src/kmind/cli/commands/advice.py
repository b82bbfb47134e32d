# SPDX-License-Identifier: Apache-2.0
"""``kmind advice``: what the instances advise."""

from __future__ import annotations

from kmind.cli.options import JSON, SOCKET
from kmind.command import Argument, Command, Flag, Words

__all__ = ["COMMAND"]


def _run(words: Words) -> int:
    from kmind.cli.advice import advice_command

    return advice_command(
        words["action"],
        words["id"],
        all=words["all"],
        json=words["json"],
        socket=words["socket"],
    )


COMMAND = Command(
    "advice",
    "With the daemon",
    "List advice of the instances; apply, undo or reject it.",
    _run,
    arguments=(
        Argument(
            "action",
            "action",
            choices=("list", "show", "apply", "reject", "undo"),
            required=False,
            default="list",
        ),
        Argument("id", "its number", required=False),
    ),
    options=(Flag("all", "list rejected and settled ones too"), JSON, SOCKET),
    examples=("kmind advice", "kmind advice apply 7"),
)
