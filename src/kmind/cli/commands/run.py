# SPDX-License-Identifier: Apache-2.0
"""``kmind run``: one instance in the foreground."""

from __future__ import annotations

from kmind.abi.enums import MODES
from kmind.cli.options import JSON, MODE_HELP, MODULE, POLICY, WORDS
from kmind.command import Command, Option, Words

__all__ = ["COMMAND"]


def _run(words: Words) -> int:
    from kmind.agent.types import Mode
    from kmind.cli.run import run

    rest = words["words"]
    named = rest and "=" not in rest[0]  # modules for the whole system need no target
    return run(
        words["module"],
        rest[0] if named else "",
        rest[1:] if named else rest,
        mode=Mode[words["mode"].upper()],
        duration_s=words["duration"],
        json=words["json"],
        policy_file=words["policy"],
    )


COMMAND = Command(
    "run",
    "In the foreground",
    "Run a module on a target, and put everything back at the end.",
    _run,
    arguments=(MODULE, WORDS),
    options=(
        Option(
            "mode",
            f"{MODE_HELP} until the end",
            default="advise",
            choices=MODES,
        ),
        Option("duration", "seconds (default: until Ctrl-C)", convert=float, minimum=0.1),
        POLICY,
        JSON,
    ),
    examples=(
        "kmind run readahead vda",
        "kmind run readahead vda patience=5 --mode auto --duration 60",
    ),
)
