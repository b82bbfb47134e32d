# SPDX-License-Identifier: Apache-2.0
"""``kmind findings``: what the detectors have found."""

from __future__ import annotations

from kmind.cli.options import JSON, SOCKET
from kmind.command import Argument, Command, Flag, Words

__all__ = ["COMMAND"]


def _run(words: Words) -> int:
    from kmind.cli.findings import findings_command

    return findings_command(
        words["action"],
        words["id"],
        all=words["all"],
        json=words["json"],
        socket=words["socket"],
    )


COMMAND = Command(
    "findings",
    "With the daemon",
    "List findings of detectors with their evidence; acknowledge or close them.",
    _run,
    arguments=(
        Argument(
            "action",
            "action; ack and close need root",
            choices=("list", "show", "ack", "close"),
            required=False,
            default="list",
        ),
        Argument("id", "its id; the first four characters are enough", required=False),
    ),
    options=(Flag("all", "list closed ones too"), JSON, SOCKET),
    examples=("kmind findings", "kmind findings show 3fa9"),
)
