# SPDX-License-Identifier: Apache-2.0
"""``kmind reports``: what the reporters have filed."""

from __future__ import annotations

from pathlib import Path

from kmind.cli.options import JSON, SOCKET
from kmind.command import Argument, Command, Option, Words

__all__ = ["COMMAND"]


def _run(words: Words) -> int:
    from kmind.cli.reports import reports_command

    return reports_command(
        words["action"],
        words["id"],
        save=words["save"],
        json=words["json"],
        socket=words["socket"],
    )


COMMAND = Command(
    "reports",
    "With the daemon",
    "List reports of reporters; save their files, or remove them.",
    _run,
    arguments=(
        Argument(
            "action",
            "action; remove needs root",
            choices=("list", "show", "remove"),
            required=False,
            default="list",
        ),
        Argument("id", "its id; the first four characters are enough", required=False),
    ),
    options=(
        Option("save", "with show: write its files into this folder", Path, metavar="FOLDER"),
        JSON,
        SOCKET,
    ),
    examples=("kmind reports", "kmind reports show 51c0 --save report"),
)
