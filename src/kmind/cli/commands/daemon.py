# SPDX-License-Identifier: Apache-2.0
"""``kmind daemon``: instances in the background."""

from __future__ import annotations

import os

from kmind.cli.options import POLICY, SOCKET
from kmind.command import Command, Flag, Option, Words

__all__ = ["COMMAND"]


def _run(words: Words) -> int:
    # Without it numpy's BLAS starts a thread for each CPU, for sums that a daemon never does.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from kmind.cli.daemon import daemon_command

    return daemon_command(
        socket=words["socket"],
        policy_file=words["policy"],
        keep=words["on_exit"] == "keep",
        take_over=words["at_start"] == "take-over",
        devices=words["devices"],
        replace_it=words["replace"],
    )


COMMAND = Command(
    "daemon",
    "With the daemon",
    "Run instances in the background, for the commands of this group.",
    _run,
    options=(
        SOCKET,
        POLICY,
        Option(
            "on-exit",
            "restore: unload all and put everything back; keep: leave agents and extensions "
            "running, for the next daemon to take over",
            default="restore",
            choices=("restore", "keep"),
        ),
        Option(
            "at-start",
            "take-over: adopt instances that an earlier daemon left running, even if it was "
            "killed; restore: end them and put everything back",
            default="take-over",
            choices=("take-over", "restore"),
        ),
        Flag(
            "devices",
            "load modules for devices, by their aliases, at the start and later",
            default=True,
            negatable=True,
        ),
        Flag("replace", "restart the running daemon in place; its instances keep running"),
    ),
    examples=("kmind daemon", "kmind daemon --replace"),
)
