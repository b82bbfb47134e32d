# SPDX-License-Identifier: Apache-2.0
"""``kmind status``: instances of the daemon in detail."""

from __future__ import annotations

from kmind.cli.options import JSON, SOCKET
from kmind.command import Argument, Command, Flag, Words

__all__ = ["COMMAND"]


def _run(words: Words) -> int:
    from kmind.cli.status import status_command

    return status_command(
        words["name"], verbose=words["verbose"], json=words["json"], socket=words["socket"]
    )


COMMAND = Command(
    "status",
    "With the daemon",
    "Show the daemon and its instances.",
    _run,
    arguments=(Argument("name", "an instance (default: all)", required=False),),
    options=(
        Flag("verbose", "every field: parameters, counters, features, hooks", short="-v"),
        JSON,
        SOCKET,
    ),
    examples=("kmind status", "kmind status -v readahead@vda"),
)
