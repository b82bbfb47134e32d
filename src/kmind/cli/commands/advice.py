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
    "See what the instances advise; apply, undo or reject it.",
    _run,
    arguments=(
        Argument(
            "action",
            "what to do with it (default: list)",
            choices=("list", "show", "apply", "reject", "undo"),
            required=False,
            default="list",
        ),
        Argument("id", "which one", required=False),
    ),
    options=(Flag("all", "list also what is refused or settled"), JSON, SOCKET),
    examples=("kmind advice", "kmind advice apply 7"),
)
