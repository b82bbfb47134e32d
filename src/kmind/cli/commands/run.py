# SPDX-License-Identifier: Apache-2.0
"""``kmind run``: one instance in the foreground."""

from __future__ import annotations

from kmind.abi.enums import MODES
from kmind.cli.options import JSON, MODE_HELP, MODULE, PARAMETERS, POLICY, TARGET
from kmind.command import Command, Option, Words

__all__ = ["COMMAND"]


def _run(words: Words) -> int:
    from kmind.agent.types import Mode
    from kmind.cli.run import run

    return run(
        words["module"],
        words["target"],
        words["parameters"],
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
    arguments=(MODULE, TARGET, PARAMETERS),
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
