# SPDX-License-Identifier: Apache-2.0
"""``kmind reload``: a new agent in place, and a fresh extension."""

from __future__ import annotations

from kmind.cli.options import INSTANCE, JSON, SOCKET
from kmind.command import Command, Words

__all__ = ["COMMAND"]


def _run(words: Words) -> int:
    from kmind.cli.reload import reload_command

    return reload_command(words["name"], json=words["json"], socket=words["socket"])


COMMAND = Command(
    "reload",
    "With the daemon",
    "Upgrade an instance's agent in place and restart its extension.",
    _run,
    arguments=(INSTANCE,),
    options=(
        JSON,
        SOCKET,
    ),
    examples=("kmind reload readahead@vda",),
)
